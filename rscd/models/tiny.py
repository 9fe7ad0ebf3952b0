"""A small network for CPUs: local, symmetric in its dates, under a million parameters.

One encoder of inverted residuals (arXiv 1801.04381) runs on each date down to stride 16. At every
level the features of both dates are combined into their absolute difference, which shows change,
and their sum, which shows where: neither depends on the order of dates. A top-down path adds the
levels up to stride 2, where each pixel predicts the four image pixels it covers.

There is no pooling over the image and no normalisation but batch norm, so each pixel of the result
has a receptive field of known size and tiles with enough halo join exactly.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rscd.models.encoders import encode_dates
from rscd.models.inputs import check_image, normalize_layer
from rscd.models.statistics import raw_statistics

WIDTHS = (16, 32, 64, 128)
"""Channels at strides 2, 4, 8, 16."""
DEPTHS = (1, 2, 3, 3)
"""Blocks per stride."""
DECODER_WIDTH = 48


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 projection; added to the input if shapes match."""

    def __init__(self, n_in: int, n_out: int, *, stride: int = 1, expand: int = 3) -> None:
        """Build it; `expand` times `n_in` channels inside."""
        super().__init__()
        inner = expand * n_in
        self.residual = stride == 1 and n_in == n_out
        self.layers = nn.Sequential(
            nn.Conv2d(n_in, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, n_out, 1, bias=False),
            nn.BatchNorm2d(n_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B,n_in,h,w) -> (B,n_out,h/stride,w/stride)."""
        out: Tensor = self.layers(x)
        return x + out if self.residual else out


class TinyEncoder(nn.Module):
    """(B,C,H,W) -> maps of strides 2, 4, 8, 16."""

    def __init__(self, n_bands: int, widths: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(n_bands, widths[0], 3, 2, 1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
        )
        self.stages = nn.ModuleList()
        n_in = widths[0]
        for level, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            first = InvertedResidual(n_in, width, stride=2 if level else 1)
            rest = [InvertedResidual(width, width) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(first, *rest))
            n_in = width

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the maps, finest first."""
        levels = [self.stem(image)]
        for stage in self.stages:
            levels.append(stage(levels[-1]))
        return levels[1:]


def lateral(n_in: int, n_out: int) -> nn.Sequential:
    """1x1 convolution, batch norm."""
    return nn.Sequential(nn.Conv2d(n_in, n_out, 1, bias=False), nn.BatchNorm2d(n_out))


def top_down(n_ins: Sequence[int], width: int) -> tuple[nn.ModuleList, nn.ModuleList]:
    """The laterals and blocks of `add_coarse` that give maps of one width."""
    laterals = nn.ModuleList(lateral(n_in, width) for n_in in n_ins)
    return laterals, nn.ModuleList(InvertedResidual(width, width, expand=2) for _ in n_ins)


def add_coarse(
    levels: Iterable[Tensor],
    laterals: nn.ModuleList,
    blocks: nn.ModuleList,
    narrow: nn.ModuleList | None = None,
) -> list[Tensor]:
    """Fuse the maps of a pyramid, finest first, from coarse to fine.

    Args:
        levels: each of half the size of the one before.
        laterals: one per level, applied first.
        blocks: one per level, applied to the sum of the level and the coarser result.
        narrow: one per level but the last, applied to the coarser result before; None: nothing.
    """
    maps = [own(level) for own, level in zip(laterals, levels, strict=True)]
    maps[-1] = blocks[-1](maps[-1])
    for place in range(len(maps) - 2, -1, -1):
        coarse = maps[place + 1] if narrow is None else narrow[place](maps[place + 1])
        up = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        maps[place] = blocks[place](maps[place] + up)
    return maps


class TinyDecoder(nn.Module):
    """Difference and sum of both dates per level -> logits at full resolution."""

    def __init__(self, widths: Sequence[int], width: int) -> None:
        super().__init__()
        self.laterals, self.blocks = top_down([2 * n_in for n_in in widths], width)
        self.head = nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, t1: Sequence[Tensor], t2: Sequence[Tensor]) -> Tensor:
        """Maps of strides 2..16 of both dates -> (B,1,H,W)."""
        fused = (torch.cat([(b - a).abs(), a + b], dim=1) for a, b in zip(t1, t2, strict=True))
        finest = add_coarse(fused, self.laterals, self.blocks)[0]
        return F.pixel_shuffle(self.head(torch.relu(finest)), 2)


class TinyChangeNet(nn.Module):
    """The tiny network; see the module docstring."""

    def __init__(
        self,
        n_bands: int = 3,
        widths: Sequence[int] = WIDTHS,
        depths: Sequence[int] = DEPTHS,
        decoder_width: int = DECODER_WIDTH,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        """Build it with random weights.

        Args:
            n_bands: bands per date.
            widths: channels at strides 2, 4, 8, ...
            depths: blocks per stride.
            decoder_width: channels of the decoder.
            mean: per band, subtracted from raw values; default 0.
            std: per band; default 1.
        """
        super().__init__()
        self.n_bands = n_bands
        self.multiple = int(2 ** len(widths))
        self.normalize = normalize_layer(n_bands, mean, std, raw_statistics(n_bands))
        self.encoder = TinyEncoder(n_bands, widths, depths)
        self.decoder = TinyDecoder(widths, decoder_width)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B,2,C,H,W) float32 raw values -> ``logits`` (B,1,H,W); symmetric in the dates."""
        check_image(image, self.n_bands, self.multiple)
        t1, t2 = encode_dates(self.encoder, self.normalize(image), "joint")
        return {"logits": self.decoder(t1, t2)}
