"""Inference over scales and flips (KD-MSI, arXiv 2403.05796; methods sections 4 and 5).

Pure functions of a network, given as image (B,2,C,h,w) raw -> logits (B,K,h',w') at the network's
own resolution, such as `rscd.models.cam.CamClassifier`'s ``cam``; in eval mode.

    msi         sigmoid at the network's resolution, mean over flips, resize, mean over scales
    mi          ReLU, sum over flips and scales, divided by the maximum of the image
    tta_logits  test-time augmentation: logits of a detector, summed
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rscd.base.types import ShapeHW
from rscd.geo.tiles import reflect, round_up
from rscd.methods.parts.cam_losses import EPS, activation_map
from rscd.models.resize import resize, size_of

LogitMap = Callable[[Tensor], Tensor]

PRESETS: dict[str, tuple[float, ...]] = {
    "paper": (0.5, 1.0, 1.5, 2.0),
    "readme": (0.5, 1.0, 1.25, 2.0),
    "fast": (0.5, 1.0),
}
"""Sets of scales: the paper's, the authors' README's, and one at a sixth of the cost."""

FLIPS: dict[str, tuple[tuple[int, ...], ...]] = {
    "none": ((),),
    "width": ((), (-1,)),
    "height": ((), (-2,)),
    "both": ((), (-1,), (-2,), (-2, -1)),
}
"""Axes along which each view is flipped. The authors' code flips the width."""

CELL = 16
"""Stride of the published networks, to which the reference geometry rounds sizes up."""
GRID = 64
"""Sides that are multiples of this are multiples of `CELL` at all published scales."""

Geometry = Literal["pad", "reference"]


@dataclass(frozen=True)
class Views:
    """The views of an image that are evaluated, and how."""

    scales: tuple[float, ...] = PRESETS["paper"]
    flip: str = "width"
    """One of `FLIPS`."""
    geometry: Geometry = "pad"
    """``pad``: reflect at the right and bottom to sides at which all scales lie on one grid.
    ``reference``: as the authors' code, where maps of different scales may be misaligned by a
    fraction of a cell unless sides are multiples of 64, for which both agree."""
    eight_bit: bool = True
    """Images are resized as 8-bit values by Pillow's bicubic filter, as published; other values by
    the same filter without rounding."""
    multiple: int = CELL
    """The network's input sides must be multiples of this, in geometry ``pad``."""
    max_pixels: int | None = None
    """Pixels (of one date) per call of the network; None: all views of a scale at once."""

    @property
    def grid(self) -> int:
        """Sides are padded to multiples of this."""
        return math.lcm(GRID, grid_of(self.scales, self.multiple))


def grid_of(scales: tuple[float, ...], multiple: int) -> int:
    """The smallest side that is a multiple of `multiple` at every scale."""
    side = 1
    for scale in scales:
        ratio = Fraction(scale).limit_denominator(64)
        step = multiple * ratio.denominator
        side = math.lcm(side, step // math.gcd(step, ratio.numerator))
    return side


def msi(network: LogitMap, image: Tensor, views: Views = Views()) -> Tensor:
    """Multi-scale sigmoid inference (Algorithm 1; section 4.1).

    Args:
        network: logits (B,1,h',w') of pairs.
        image: (B,2,C,H,W) float32 raw values.
        views: scales, flips and geometry.

    Returns:
        (B,1,H,W) float32 in (0,1).
    """
    total = _summed(network, image, views, lambda logits: logits.sigmoid(), torch.mean)
    return total / len(views.scales)


def mi(
    network: LogitMap, image: Tensor, views: Views = Views(), *, relu_after_sum: bool = False
) -> Tensor:
    """Multi-scale inference of activation maps (section 4.2): the ablation, and the CAM baseline.

    Needs the whole image: it is divided by its maximum.

    Args:
        network: logits (B,1,h',w') of pairs.
        image: (B,2,C,H,W) float32 raw values.
        views: scales, flips and geometry.
        relu_after_sum: as in the paper; the authors' code applies the ReLU before the sum.

    Returns:
        (B,1,H,W) float32 in [0,1).
    """
    each: LogitMap = (lambda logits: logits) if relu_after_sum else torch.relu
    total = _summed(network, image, views, each, torch.sum).relu()
    return total / (total.amax(dim=(1, 2, 3), keepdim=True) + EPS)


def single_scale(network: LogitMap, image: Tensor, views: Views = Views()) -> Tensor:
    """Sigmoid of one pass, resized bilinearly; (B,1,H,W) in (0,1): how the student is measured."""
    return _one_pass(network, image, views, lambda logits: logits.sigmoid())


def cam(network: LogitMap, image: Tensor, views: Views = Views()) -> Tensor:
    """`activation_map` of one pass, resized bilinearly; (B,1,H,W): how the teacher is measured."""
    return _one_pass(network, image, views, activation_map)


MAPS: dict[str, Callable[[LogitMap, Tensor, Views], Tensor]] = {
    "msi": msi,
    "mi": mi,
    "single": single_scale,
    "cam": cam,
}
"""Map functions by name; ``mi`` and ``cam`` divide by a maximum over the image."""


def tta_logits(network: LogitMap, image: Tensor, views: Views = Views()) -> Tensor:
    """Logits of a detector summed over scales and flips (section 5); their argmax is the result.

    Args:
        network: logits (B,K,h,w) of pairs, at the size of its input.
        image: (B,2,C,H,W) float32 raw values.
        views: scales, flips and geometry.

    Returns:
        (B,K,H,W) float32.
    """
    image, size = _laid_out(image, views)
    total: Tensor | None = None
    for maps in _by_scale(network, image, views, lambda logits: logits.float()):
        # resized before they are flipped back and summed; both are linear, so the order is
        # irrelevant
        found = resize(torch.stack(maps).sum(0), size_of(image))
        total = found if total is None else total + found
    if total is None:
        raise ValueError("expected at least one scale, found none")
    return _cropped(total, size)


def scaled_size(shape_hw: ShapeHW, scale: float) -> ShapeHW:
    """(height, width) at a scale, halves rounded to even numbers; at least one pixel."""
    return max(1, round(shape_hw[0] * scale)), max(1, round(shape_hw[1] * scale))


def resize_image(image: Tensor, shape_hw: ShapeHW, *, eight_bit: bool) -> Tensor:
    """Bicubic (a = -0.5), antialiased where it shrinks.

    Args:
        image: (B,2,C,H,W) float32 raw values.
        shape_hw: wanted (height, width).
        eight_bit: values are whole numbers of 0..255: filtered by Pillow, which rounds and clips
            after each of its two passes; values outside are clipped first.

    Returns:
        (B,2,C,height,width) float32.
    """
    if size_of(image) == shape_hw:
        return image
    flat = image.flatten(0, 2)
    if not eight_bit:
        found = F.interpolate(
            flat[:, None], shape_hw, mode="bicubic", align_corners=False, antialias=True
        )
        return found.view(*image.shape[:3], *shape_hw)
    height, width = shape_hw
    bands = flat.round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    resized = np.empty((len(bands), height, width), np.uint8)
    for target, band in zip(resized, bands, strict=True):
        small = Image.fromarray(band).resize((width, height), Image.Resampling.BICUBIC)
        target[...] = np.asarray(small)
    return torch.from_numpy(resized).to(image).view(*image.shape[:3], height, width)


def _summed(
    network: LogitMap, image: Tensor, views: Views, each: LogitMap, over_flips: Any
) -> Tensor:
    """(B,1,H,W): maps of the flips of a scale joined and resized, summed over scales."""
    image, size = _laid_out(image, views)
    total = image.new_zeros(len(image), 1, *_map_size(image))
    for maps in _by_scale(network, image, views, each):
        total += resize(over_flips(torch.stack(maps), 0), size_of(total))
    return _cropped(total, size)


def _by_scale(
    network: LogitMap, image: Tensor, views: Views, each: LogitMap
) -> Iterator[list[Tensor]]:
    """Per scale, one map (B,K,h,w) per flip, flipped back."""
    for scale in views.scales:
        shape = scaled_size(size_of(image), scale)
        resized = resize_image(image, shape, eight_bit=views.eight_bit)
        flips = FLIPS[views.flip]
        flipped = torch.cat([resized.flip(axes) if axes else resized for axes in flips])
        step = max(1, (views.max_pixels or flipped.numel()) // (shape[0] * shape[1]))
        found = torch.cat([each(network(some)) for some in torch.split(flipped, step)])
        yield [
            part.flip(axes) if axes else part
            for part, axes in zip(found.chunk(len(flips)), flips, strict=True)
        ]


def _one_pass(network: LogitMap, image: Tensor, views: Views, each: LogitMap) -> Tensor:
    image, size = _laid_out(image, views)
    return _cropped(resize(each(network(image)), _map_size(image)), size)


def _laid_out(image: Tensor, views: Views) -> tuple[Tensor, ShapeHW]:
    """The padded image for all scales, and the size to crop the result to."""
    size = size_of(image)
    if views.geometry == "reference":
        return image, size
    for axis, side in ((-2, size[0]), (-1, size[1])):
        padded = round_up(side, views.grid)
        if padded != side:
            places = torch.from_numpy(reflect(0, padded, side)).to(image.device)
            image = image.index_select(axis, places)
    return image, size


def _map_size(image: Tensor) -> ShapeHW:
    """Size to which maps are resized before they are added: whole cells."""
    height, width = size_of(image)
    return round_up(height, CELL), round_up(width, CELL)


def _cropped(maps: Tensor, size: ShapeHW) -> Tensor:
    return maps[..., : size[0], : size[1]]
