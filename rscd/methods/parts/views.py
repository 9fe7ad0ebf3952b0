"""Weak views and CutMix of whole batches.

Geometry is drawn once per sample and applied to both dates and to every map of the batch. Which
entries are maps is decided by shape: a tensor whose last two sizes are those of ``image`` is one.
``flow`` is a vector field and rotates with the image; other floating maps (confidences) are
resampled bilinearly, integer and boolean maps by nearest neighbour. Padding is 0 in ``image``,
``flow`` and floating maps, False in boolean maps and 255 in integer ones.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from rscd.base.errors import UsageError
from rscd.base.types import IGNORE, Batch, ShapeHW
from rscd.methods.parts.draws import integer, uniform
from rscd.models.flow import flip_flow, inside, rot90_flow, scale_flow, warp

Maps = dict[str, Tensor]
"""The entries of a batch that share the pixel grid of ``image``."""


def cutmix_boxes(
    count: int,
    shape_hw: ShapeHW,
    generator: torch.Generator,
    *,
    p_empty: float = 0.5,
    area: tuple[float, float] = (0.02, 0.4),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> Tensor:
    """Draw one box per pair, shared by both dates (DiffMatch, section 5.4).

    The area fraction is drawn once; shape and place are redrawn until the box fits, so shapes near
    1 are favoured. The aspect is height / width.

    Args:
        count: number of pairs B.
        shape_hw: size of the images.
        generator: random generator.
        p_empty: probability of no box at all.
        area: bounds of the area fraction.
        aspect: bounds of the aspect; both bounds of ``area`` must fit the image with aspect 1.

    Returns:
        (B,H,W) bool, True inside the box.
    """
    boxes = torch.zeros(count, *shape_hw, dtype=torch.bool)
    for box in boxes:
        if uniform(generator) < p_empty:
            continue
        top, left, height, width = _fitting_box(shape_hw, generator, area, aspect)
        box[top : top + height, left : left + width] = True
    return boxes


def _fitting_box(
    shape_hw: ShapeHW,
    generator: torch.Generator,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> tuple[int, int, int, int]:
    pixels = uniform(generator, *area) * shape_hw[0] * shape_hw[1]
    while True:
        ratio = uniform(generator, *aspect)
        width, height = int((pixels / ratio) ** 0.5), int((pixels * ratio) ** 0.5)
        left, top = integer(generator, shape_hw[1]), integer(generator, shape_hw[0])
        if left + width <= shape_hw[1] and top + height <= shape_hw[0]:
            return top, left, height, width


def cutmix_maps(base: Tensor, partner: Tensor, box: Tensor) -> Tensor:
    """Partner inside the box, base elsewhere, for images, label maps and confidences alike.

    Args:
        base: (B,...,H,W) of any type.
        partner: the same shape and type.
        box: (B,H,W) bool or 0/1.

    Returns:
        A new tensor like ``base``; 255 is carried over like any other value.
    """
    if base.shape != partner.shape or box.shape != (base.shape[0], *base.shape[-2:]):
        raise UsageError(
            f"CutMix expects base and partner of one shape and a box (B,H,W), found "
            f"{tuple(base.shape)}, {tuple(partner.shape)} and {tuple(box.shape)}"
        )
    box = box.to(base.device).bool().view(len(box), *[1] * (base.ndim - 3), *box.shape[1:])
    return torch.where(box, partner, base)


def cutmix(base: Batch, partner: Batch, box: Tensor) -> Batch:
    """CutMix every map of two batches with the same boxes.

    With ``flow``, a pixel stays valid only if its match at t1 comes from the same side of the box
    border. ``label`` is recomputed from ``mask`` or dropped, because the label of a pair does not
    hold for parts of it.

    Args:
        base: batch with ``image`` (B,2,C,H,W).
        partner: batch with at least the maps of ``base``; ``rolled(base)`` is the usual one.
        box: (B,H,W), see ``cutmix_boxes``.
    """
    ours, theirs = dict(_maps(base)), dict(_maps(partner))
    if missing := sorted(ours.keys() - theirs.keys()):
        raise UsageError(f"the CutMix partner lacks {', '.join(missing)}; give both the same maps")
    mixed = {key: cutmix_maps(value, theirs[key], box) for key, value in ours.items()}
    if "flow" in mixed:
        side = box.to(mixed["flow"])[:, None]
        # bilinear samples across the border are fractions; the tolerance is for rounding
        same_side = (warp(side, mixed["flow"]) - side).abs() < 1e-3
        mixed["valid"] = _valid(mixed) & inside(mixed["flow"]) & same_side
    others = {key: value for key, value in base.items() if key not in ours}
    if "mask" not in mixed:
        others.pop("label", None)
    return _relabelled(cast(Batch, others | mixed))


def rolled(batch: Batch) -> Batch:
    """The maps of the batch shifted by one sample: a CutMix partner from other pairs (if B > 1)."""
    return cast(Batch, {key: value.roll(1, 0) for key, value in _maps(batch).items()})


def flip(batch: Batch, dim: int) -> Batch:
    """Mirror every map: ``dim`` -1 swaps left and right, -2 up and down."""
    maps = {k: flip_flow(v, dim) if k == "flow" else v.flip(dim) for k, v in _maps(batch).items()}
    return _replaced(batch, maps)


def rot90(batch: Batch, turns: int) -> Batch:
    """Rotate every map counter-clockwise by quarter turns; odd numbers swap height and width."""
    maps = {
        k: rot90_flow(v, turns) if k == "flow" else v.rot90(turns, (-2, -1))
        for k, v in _maps(batch).items()
    }
    return _replaced(batch, maps)


def resize(batch: Batch, shape_hw: ShapeHW) -> Batch:
    """Resize every map; the pixels of ``flow`` become pixels of the new size.

    Images and floating maps are resized bilinearly, antialiased when they shrink (as PIL does),
    labels by the pixel under the centre, flow bilinearly.
    """
    return _replaced(batch, {k: _resized(k, v, shape_hw) for k, v in _maps(batch).items()})


def _resized(key: str, value: Tensor, shape_hw: ShapeHW) -> Tensor:
    if key == "flow":
        return scale_flow(value, shape_hw)
    if value.is_floating_point():
        planes = value.reshape(1, -1, *value.shape[-2:])
        planes = F.interpolate(planes, shape_hw, mode="bilinear", antialias=True)
        return planes.reshape(*value.shape[:-2], *shape_hw)
    rows, columns = (
        ((torch.arange(new, device=value.device) + 0.5) * (old / new)).long()
        for new, old in zip(shape_hw, value.shape[-2:], strict=True)
    )
    return value[..., rows[:, None], columns]


def crop(batch: Batch, top: int, left: int, shape_hw: ShapeHW) -> Batch:
    """Cut the same window out of every map, padded right and below where it is larger.

    Args:
        batch: any batch; ``valid`` is added if absent, and is False on padding and where the flow
            leaves the window of t1.
        top: first row, 0 <= top.
        left: first column, 0 <= left.
        shape_hw: size of the window.

    Returns:
        The batch of the window; ``label`` is recomputed if there is a ``mask``, and kept otherwise.
    """
    maps = _maps(batch)
    maps["valid"] = _seen(maps)
    height, width = maps["image"].shape[-2:]
    below = max(0, top + shape_hw[0] - height)
    right = max(0, left + shape_hw[1] - width)
    window = (..., slice(top, top + shape_hw[0]), slice(left, left + shape_hw[1]))
    cut = {k: F.pad(v, (0, right, 0, below), value=_padding(v))[window] for k, v in maps.items()}
    cut["valid"] = _seen(cut)
    return _relabelled(_replaced(batch, cut))


@dataclass(frozen=True)
class Weak:
    """Weak augmentation of DiffMatch (section 5.3); vertical flips and turns are extras.

    Attributes:
        patch_size: side of the square result.
        scale: bounds of the long side after resizing, relative to the long side before.
        p_hflip: probability of mirroring left and right.
        p_vflip: probability of mirroring up and down.
        rot90: whether to rotate by a random number of quarter turns.
    """

    patch_size: int = 256
    scale: tuple[float, float] = (0.8, 1.2)
    p_hflip: float = 0.5
    p_vflip: float = 0.0
    rot90: bool = False


def weak_view(batch: Batch, settings: Weak, generator: torch.Generator) -> Batch:
    """Resize, crop and flip each pair with one draw for both dates and all maps.

    Args:
        batch: maps of one size; ``valid`` is added if absent.
        settings: ranges and probabilities.
        generator: random generator.

    Returns:
        A batch whose maps are (..., patch_size, patch_size).
    """
    maps = _maps(batch)
    views = [
        _maps(
            _weak_sample(
                cast(Batch, {k: v[i : i + 1] for k, v in maps.items()}), settings, generator
            )
        )
        for i in range(len(batch["image"]))
    ]
    joined = {key: torch.cat([view[key] for view in views]) for key in views[0]}
    return _relabelled(_replaced(batch, joined))


def _weak_sample(sample: Batch, settings: Weak, generator: torch.Generator) -> Batch:
    shape_hw = _scaled_shape(sample["image"], settings.scale, generator)
    side = settings.patch_size
    top = integer(generator, max(shape_hw[0] - side, 0) + 1)
    left = integer(generator, max(shape_hw[1] - side, 0) + 1)
    sample = crop(resize(sample, shape_hw), top, left, (side, side))
    if uniform(generator) < settings.p_hflip:
        sample = flip(sample, -1)
    if uniform(generator) < settings.p_vflip:
        sample = flip(sample, -2)
    turns = integer(generator, 4)
    return rot90(sample, turns) if settings.rot90 else sample


def _scaled_shape(image: Tensor, scale: tuple[float, float], generator: torch.Generator) -> ShapeHW:
    height, width = image.shape[-2:]
    side = max(height, width)
    lowest, highest = int(side * scale[0]), int(side * scale[1])
    long_side = lowest + integer(generator, highest - lowest + 1)
    short_side = max(1, int(min(height, width) * long_side / side + 0.5))
    return (long_side, short_side) if height > width else (short_side, long_side)


def _maps(batch: Batch) -> Maps:
    shape_hw = batch["image"].shape[-2:]
    return {
        key: value
        for key, value in batch.items()
        if isinstance(value, Tensor) and value.ndim >= 3 and value.shape[-2:] == shape_hw
    }


def _valid(maps: Maps) -> Tensor:
    if "valid" in maps:
        return maps["valid"]
    image = maps["image"]
    return image.new_ones(len(image), 1, *image.shape[-2:], dtype=torch.bool)


def _seen(maps: Maps) -> Tensor:
    """``valid`` without the pixels whose match lies outside the frame."""
    return _valid(maps) & inside(maps["flow"]) if "flow" in maps else _valid(maps)


def _padding(value: Tensor) -> float:
    return 0 if value.is_floating_point() or value.dtype == torch.bool else IGNORE


def _replaced(batch: Batch, maps: Maps) -> Batch:
    return cast(Batch, dict(batch) | maps)


def _relabelled(batch: Batch) -> Batch:
    if "label" not in batch or "mask" not in batch:
        return batch
    changed = (batch["mask"] == 1).flatten(1).any(1)
    return cast(Batch, dict(batch) | {"label": changed.to(batch["label"].dtype)})
