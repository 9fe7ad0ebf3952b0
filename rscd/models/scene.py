"""Flow and change learned together, from coarse to fine: shared by the scene networks.

Two branches share one encoder (SimSaC, Park et al., CVPR 2022; GLU-Net, CVPR 2020). The low branch
takes both dates resized to a fixed small square and finds large motion; the high branch refines
it at the images' own resolution. Four levels, each with a flow head and a change head:

    4  low image, stride 16    global correlation           flow in pixels of the low image
    3  low image, stride 8     local correlation            flow in pixels of the low image
    2  image, stride 8         local correlation            flow in pixels of the image
    1  image, stride 4         local correlation            flow in pixels of the image

Flow lies on the t2 grid and points to t1; the change head sees t2 and warped t1, multiplied by the
change probability of the level before.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rscd.base.errors import ModelError
from rscd.base.types import NETWORK_PREFIX, ShapeHW
from rscd.models.correlation import l2_normalize, local_correlation, match_channels
from rscd.models.downloads import SUFFIXES, read_tensors
from rscd.models.flow import convert_unit, warp
from rscd.models.inputs import check_image
from rscd.models.logits import change_logit
from rscd.models.resize import resize, size_of

MULTIPLE = 8
"""Image sides are multiples of this: the grid of level 1 is twice that of level 2."""
SLOPE = 0.1
"""Negative slope of the leaky ReLU on correlations and in flow heads."""


@dataclass(frozen=True)
class Pyramid:
    """Feature maps of one date."""

    low: tuple[Tensor, Tensor]
    """Maps of the low image: stride 16, stride 8."""
    high: tuple[Tensor, ...]
    """Maps of the image: strides 2, 4, 8, and 16 if requested."""
    shape_hw: ShapeHW
    """Size of the image."""

    def detach(self) -> "Pyramid":
        """The same values without gradient to the encoder."""
        return replace(
            self,
            low=cast("tuple[Tensor, Tensor]", tuple(x.detach() for x in self.low)),
            high=tuple(x.detach() for x in self.high),
        )


Pyramids = tuple[Pyramid, Pyramid]
"""Pyramids of t1 and t2."""


@dataclass(frozen=True)
class Levels:
    """Outputs of a decoder, levels 4, 3, 2, 1."""

    flow: tuple[Tensor, ...]
    """(B,2,h,w), in pixels of the low image, the low image, the image, the image."""
    change: tuple[Tensor, ...]
    """Logits (B,K,h,w)."""

    def detach(self) -> "Levels":
        """The same values without gradient."""
        flow, change = (tuple(x.detach() for x in maps) for maps in (self.flow, self.change))
        return Levels(flow, change)


class SceneEncoder(nn.Module, ABC):
    """Maps of strides 2, 4, 8, 16 of one image (B,C,H,W)."""

    @abstractmethod
    def forward(self, image: Tensor, *, deepest: bool = True) -> list[Tensor]:
        """Maps, finest first; without the last if it is not requested and would cost time."""


class SceneDecoder(nn.Module):
    """Coarse-to-fine flow and gated change, from the parts of a particular network.

    Attributes:
        start: mutual matches -> flow of level 4, in pixels of the low image.
        flow_heads: levels 3, 2, 1: (correlation, flow, context) -> (flow, features).
        change_heads: levels 4 to 1: features of both dates and correlation -> logits.
        flow_ups: to the grids of levels 3 and 1: (map, size) -> map.
        change_ups: likewise for logits.
        context_up: features of level 2 -> context of level 1, or None.
    """

    def __init__(
        self,
        *,
        start: nn.Module,
        flow_heads: Sequence[nn.Module],
        change_heads: Sequence[nn.Module],
        flow_ups: Sequence[nn.Module],
        change_ups: Sequence[nn.Module],
        context_up: nn.Module | None,
        low_size: int,
        radius: int,
    ) -> None:
        super().__init__()
        self.start = start
        self.flow_heads = nn.ModuleList(flow_heads)
        self.change_heads = nn.ModuleList(change_heads)
        self.flow_ups = nn.ModuleList(flow_ups)
        self.change_ups = nn.ModuleList(change_ups)
        self.context_up = context_up
        self.low_size = low_size
        self.radius = radius

    def forward(self, t1: Pyramid, t2: Pyramid) -> Levels:
        """Pyramids of both dates -> flow and change at all levels."""
        low, full = (self.low_size, self.low_size), t2.shape_hw
        matches = match_channels(t1.low[0], t2.low[0])
        flows = [self.start(matches)]
        changes = [self.change_heads[0](_joined([t2.low[0], t1.low[0], matches]))]

        features: Tensor | None = None
        levels = ((t1.low[1], t2.low[1]), (t1.high[2], t2.high[2]), (t1.high[1], t2.high[1]))
        for index, (first, second) in enumerate(levels):
            grid, context = size_of(second), None
            if index == 1:  # the same stride in the other image
                flow = convert_unit(resize(flows[-1], grid), low, full)
                logits = resize(changes[-1], grid)
            else:
                flow = self.flow_ups[index // 2](flows[-1], grid)
                logits = self.change_ups[index // 2](changes[-1], grid)
            if index == 2 and self.context_up is not None:
                context = self.context_up(features, grid)
            warped = warp(first, convert_unit(flow, full if index else low, grid))
            correlation = local_correlation(second, warped, self.radius)
            scores = F.leaky_relu(correlation, SLOPE)
            refined, features = self.flow_heads[index](scores, flow, context)
            flows.append(refined)
            seen = _joined([second, warped, l2_normalize(correlation.relu())])
            gate = change_logit(logits).sigmoid()
            changes.append(self.change_heads[index + 1](seen * gate))
        return Levels(tuple(flows), tuple(changes))


class SceneNetwork(nn.Module):
    """Encoder and decoder: the class of all registered scene networks."""

    multiple = MULTIPLE
    any_size = True
    local = False
    """Not local: every position of t2 is compared with every position of t1."""

    def __init__(
        self, *, normalize: nn.Module, encoder: SceneEncoder, decoder: SceneDecoder, n_bands: int
    ) -> None:
        """Assemble the parts.

        Args:
            normalize: raw values -> input of the encoder.
            encoder: of one date.
            decoder: of both.
            n_bands: bands per date.
        """
        super().__init__()
        self.normalize = normalize
        self.encoder = encoder
        self.decoder = decoder
        self.n_bands = n_bands

    @property
    def low_hw(self) -> ShapeHW:
        """Size of the low image, in whose pixels the flow of levels 4 and 3 is given."""
        return self.decoder.low_size, self.decoder.low_size

    def encode(self, image: Tensor, *, all_strides: bool = False) -> Pyramids:
        """Raw pairs -> pyramids of t1 and t2.

        Args:
            image: (B,2,C,H,W) float32 raw values, H and W multiples of 8.
            all_strides: whether to return stride 16 of the image as well.

        Raises:
            ModelError: for other bands or sizes.
        """
        check_image(image, self.n_bands, self.multiple)
        both = self.normalize(image).flatten(0, 1)
        low = self.encoder(F.interpolate(both, self.low_hw, mode="area"))
        high = self.encoder(both, deepest=all_strides)

        def date(index: int) -> Pyramid:
            maps = tuple(x[index::2] for x in high[: 4 if all_strides else 3])
            return Pyramid((low[3][index::2], low[2][index::2]), maps, size_of(image))

        return date(0), date(1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Predict flow and change; pairs of any size are padded to multiples of 8 and cropped back.

        Args:
            image: (B,2,C,H,W) float32 raw values.

        Returns:
            ``logits`` (B,K,H,W) and ``flow`` (B,2,H,W) in pixels of the image, both on the t2
            grid: level 1, resized bilinearly.
        """
        check_image(image, self.n_bands)
        height, width = image.shape[-2:]
        levels = self.decoder(*self.encode(pad_to_multiple(image)))
        padded = _round_up(height), _round_up(width)
        return {
            "logits": resize(levels.change[-1], padded)[..., :height, :width],
            "flow": resize(levels.flow[-1], padded)[..., :height, :width],
        }


def pad_to_multiple(image: Tensor) -> Tensor:
    """(B,2,C,H,W) padded to multiples of 8 on the right and below by repeating its last pixels.

    Flow is in pixels from the upper left corner, so its values hold for both sizes.
    """
    height, width = image.shape[-2:]
    right, below = _round_up(width) - width, _round_up(height) - height
    if not right and not below:
        return image
    padded = F.pad(image.flatten(0, 1), (0, right, 0, below), mode="replicate")
    return padded.unflatten(0, (-1, 2))  # type: ignore[no-any-return]


def load_scene_weights(network: SceneNetwork, path: str) -> None:
    """Initialise from a trained scene network: a training checkpoint or exported weights.

    Raises:
        ModelError: if tensors are missing or do not fit.
    """
    tensors = read_tensors(Path(path))
    prefix = NETWORK_PREFIX if any(k.startswith(NETWORK_PREFIX) for k in tensors) else ""
    own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    try:
        network.load_state_dict(own)
    except RuntimeError as error:
        raise ModelError(
            f"expected the tensors of this scene network in {path}, found others "
            f"({' '.join(str(error).split())[:200]}); build it with the arguments it was trained "
            "with"
        ) from error


def check_scene_arguments(low_size: int, weights: str | None, *published: str) -> None:
    """Check arguments of scene networks.

    Args:
        low_size: side of the low image.
        weights: a file, None, or one of `published`.
        published: names of weights.

    Raises:
        ModelError: for another size or name.
    """
    if low_size % 16 or low_size <= 0:
        raise ModelError(f"expected low_size, a multiple of 16, found {low_size}")
    if weights not in (None, *published) and not is_scene_file(weights):
        known = ", ".join([*published, "a file (.ckpt, .safetensors, .pth)"])
        raise ModelError(f"expected weights {known} or null, found {weights!r}")


def is_scene_file(weights: str | None) -> bool:
    """Whether the name is a local file, including checkpoints."""
    return weights is not None and weights.endswith((*SUFFIXES, ".ckpt"))


def holds_decoder(path: str) -> bool:
    """Whether a file of tensors is a whole scene network rather than an encoder.

    Raises:
        ModelError: for a missing, damaged or unsafe file.
    """
    return any("decoder.change_heads." in name for name in read_tensors(Path(path)))


class BilinearUp(nn.Module):
    """Bilinear upsampling without parameters."""

    def forward(self, x: Tensor, shape_hw: ShapeHW) -> Tensor:
        """(B,C,h,w) -> (B,C,*shape_hw)."""
        return resize(x, shape_hw)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate channels; under autocast correlations may have a wider type than features."""
    return torch.cat([part.to(parts[0].dtype) for part in parts], 1)


def _round_up(side: int) -> int:
    return -(-side // MULTIPLE) * MULTIPLE
