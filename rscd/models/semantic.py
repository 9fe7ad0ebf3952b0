"""A small network that finds buildings at each date, then the difference between the dates.

The encoder of `rscd.models.tiny` and a top-down path run on each date and give maps of strides 4,
8 and 16, from which a linear layer predicts buildings. Change is decoded from the difference
and the sum of these maps. The building maps are learned jointly with the change (from every
building, not only the changed ones) and distinguish change of buildings from any other; the idea of
semantics per date beside change follows Changen and ChangeStar (Zheng et al. 2021,
arXiv 2108.07002).

Local and symmetric in its dates, like the tiny network.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rscd.models.inputs import check_image, normalize_layer
from rscd.models.statistics import raw_statistics
from rscd.models.tiny import DEPTHS, WIDTHS, TinyDecoder, TinyEncoder, add_coarse, top_down

NECK_WIDTH = 48
DECODER_WIDTH = 40


class Neck(nn.Module):
    """Top-down path of one date: maps of strides 2..16 -> maps of one width; stride 2 unchanged."""

    def __init__(self, widths: Sequence[int], width: int) -> None:
        super().__init__()
        self.laterals, self.blocks = top_down(widths[1:], width)
        self.buildings = nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Fuse the maps from coarse to fine."""
        return [levels[0], *add_coarse(levels[1:], self.laterals, self.blocks)]

    def building_logits(self, maps: Sequence[Tensor]) -> Tensor:
        """(B,1,H/2,W/2) building logits from the maps of `forward`."""
        return F.pixel_shuffle(self.buildings(maps[1].relu()), 2)


class SemanticChangeNet(nn.Module):
    """Buildings of each date and change between them; see the module docstring."""

    def __init__(
        self,
        n_bands: int = 3,
        widths: Sequence[int] = WIDTHS,
        depths: Sequence[int] = DEPTHS,
        neck_width: int = NECK_WIDTH,
        decoder_width: int = DECODER_WIDTH,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        """Build it with random weights.

        Args:
            n_bands: bands per date.
            widths: channels at strides 2, 4, 8, ...
            depths: blocks per stride.
            neck_width: channels of the maps of one date.
            decoder_width: channels of the decoder.
            mean: per band, subtracted from raw values; default 0.
            std: per band; default 1.
        """
        super().__init__()
        self.n_bands = n_bands
        self.multiple = int(2 ** len(widths))
        self.normalize = normalize_layer(n_bands, mean, std, raw_statistics(n_bands))
        self.encoder = TinyEncoder(n_bands, widths, depths)
        self.neck = Neck(widths, neck_width)
        self.decoder = TinyDecoder((widths[0], *(neck_width for _ in widths[1:])), decoder_width)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B,2,C,H,W) float32 raw values -> logits; symmetric in the dates.

        Returns:
            ``logits`` (B,1,H,W) of change; in training also ``buildings`` (B,2,H/2,W/2), logits of
            buildings at each date.
        """
        check_image(image, self.n_bands, self.multiple)
        dates = self.normalize(image).flatten(0, 1)
        # CPUs need a third less time in this memory layout
        dates = dates.contiguous(memory_format=torch.channels_last)
        maps = self.neck(self.encoder(dates))
        pairs = [level.unflatten(0, (-1, 2)) for level in maps]
        outputs = {"logits": self.decoder([p[:, 0] for p in pairs], [p[:, 1] for p in pairs])}
        if self.training:
            both = self.neck.building_logits(maps)
            outputs["buildings"] = both.view(-1, 2, *both.shape[2:])
        return outputs
