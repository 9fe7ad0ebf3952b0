"""A network for CPUs that starts from ImageNet weights: buildings per date, then change.

The encoder is that of `rscd.models.efficientnet`. A separate top-down path runs on each date, so
the maps of a date depend on that date alone; a layer derives the buildings of a date from them.
Change is decoded from the difference and the sum of the maps of both dates and of their building
probabilities. Nothing depends on the order of dates, and each pixel has a receptive field of known
size.

Maps are upsampled to stride 2, where each pixel predicts the four image pixels it covers.
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rscd.models.inputs import check_image, normalize_layer
from rscd.models.lite_encoder import DEVIATION, ENCODER_WIDTHS, MEAN, lite_encoder
from rscd.models.tiny import InvertedResidual, add_coarse, lateral

NECK_WIDTHS = (24, 56, 64, 64)
DECODER_WIDTHS = (32, 48, 64, 64)
MULTIPLE = 16


class TopDown(nn.Module):
    """Adds coarse maps to fine ones: maps of strides 2..16 -> maps of the given widths."""

    def __init__(self, n_ins: Sequence[int], widths: Sequence[int], depths: Sequence[int]) -> None:
        """Build it.

        Args:
            n_ins: channels of the maps, finest first.
            widths: channels of the results.
            depths: blocks per map.
        """
        super().__init__()
        self.laterals = nn.ModuleList(map(lateral, n_ins, widths))
        self.blocks = nn.ModuleList(
            nn.Sequential(*(InvertedResidual(width, width, expand=2) for _ in range(depth)))
            for width, depth in zip(widths, depths, strict=True)
        )
        self.narrow = nn.ModuleList(
            nn.Identity() if coarse == fine else nn.Conv2d(coarse, fine, 1, bias=False)
            for fine, coarse in itertools.pairwise(widths)
        )

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Fuse the maps from coarse to fine."""
        return add_coarse(levels, self.laterals, self.blocks, self.narrow)


class LiteChangeNet(nn.Module):
    """Buildings of each date and change between them; see the module docstring."""

    probe_size = 768
    """Side of an image large enough to measure the receptive field."""

    def __init__(
        self,
        n_bands: int = 3,
        weights: str | None = None,
        neck_widths: Sequence[int] = NECK_WIDTHS,
        decoder_widths: Sequence[int] = DECODER_WIDTHS,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        """Build it.

        Args:
            n_bands: bands per date.
            weights: of the encoder, see `lite_encoder`.
            neck_widths: channels of the maps of one date at strides 2, 4, 8, 16.
            decoder_widths: channels of the maps of change.
            mean: per band, subtracted from raw values; default that of the ImageNet weights.
            std: per band.
        """
        super().__init__()
        self.n_bands = n_bands
        self.multiple = MULTIPLE
        self.normalize = normalize_layer(
            n_bands, mean, std, ((MEAN,) * n_bands, (DEVIATION,) * n_bands)
        )
        self.encoder = lite_encoder(n_bands, weights)
        self.neck = TopDown(ENCODER_WIDTHS, neck_widths, (1, 1, 1, 1))
        self.buildings = nn.Conv2d(neck_widths[0], 4, 3, padding=1)
        first = 2 * neck_widths[0] + 8
        inputs = (first, *(2 * width for width in neck_widths[1:]))
        self.change = TopDown(inputs, decoder_widths, (1, 1, 2, 2))
        self.head = nn.Conv2d(decoder_widths[0], 4, 3, padding=1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B,2,C,H,W) float32 raw values -> logits.

        Returns:
            ``logits`` (B,1,H,W) of change, the same in either order of dates; ``buildings``
            (B,2,H,W), logits of buildings at each date.
        """
        check_image(image, self.n_bands, self.multiple)
        dates = self.normalize(image).flatten(0, 1)
        dates = dates.contiguous(memory_format=torch.channels_last)
        maps = self.neck(self.encoder(dates))
        quads = self.buildings(maps[0].relu())  # each pixel of stride 2 becomes four image pixels
        maps[0] = torch.cat([maps[0], quads.sigmoid().to(maps[0].dtype)], 1)
        pairs = [level.unflatten(0, (-1, 2)) for level in maps]
        fused = [torch.cat([(p[:, 1] - p[:, 0]).abs(), p[:, 0] + p[:, 1]], 1) for p in pairs]
        change = self.head(self.change(fused)[0].relu())
        buildings = F.pixel_shuffle(quads, 2)
        return {
            "logits": F.pixel_shuffle(change, 2),
            "buildings": buildings.view(-1, 2, *buildings.shape[2:]),
        }
