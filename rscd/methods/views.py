"""Weak, strong and photometric views of whole batches, and CutMix.

Geometry is drawn once per sample and applied to both dates and to every map of the batch;
photometry is drawn per date unless asked otherwise and touches ``image`` alone. Which entries are
maps is decided by shape: a tensor whose last two sizes are those of ``image`` is a map. ``flow`` is
a vector field and turns with the image; other floating maps (confidences) are resampled
bilinearly, integer and boolean maps by nearest neighbour. Padding is 0 in ``image``, ``flow`` and
floating maps, False in boolean maps and 255 in integer ones.

All random numbers come from a CPU generator of the caller, so a view is the same on every device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import pi
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from kornia.color import rgb_to_grayscale
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_hue,
    adjust_saturation_with_gray_subtraction,
)
from kornia.filters import gaussian_blur2d
from torch import Tensor

from rscd.errors import UsageError
from rscd.models.flow import flip_flow, inside, pixel_grid, rot90_flow, scale_flow, warp
from rscd.types import IGNORE, Batch, ShapeHW

ValueRange = tuple[float, float]
"""(black, white) of the raw values: (0, 255) for 8 bit, (0, 10000) for reflectance, (0, 1)."""

Maps = dict[str, Tensor]
"""The entries of a batch that share the pixel grid of ``image``."""


def view_generator(seed: int, *keys: int) -> torch.Generator:
    """Generator that depends on all its arguments: views(seed, step, rank, worker) never repeat.

    Args:
        seed: seed of the run, not negative.
        keys: what tells streams apart: step, rank, worker, index.
    """
    state = np.random.SeedSequence([seed, *keys]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


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
        generator: source of all draws.
        p_empty: probability of no box at all.
        area: bounds of the area fraction.
        aspect: bounds of the aspect; both bounds of ``area`` must fit the image with aspect 1.

    Returns:
        (B,H,W) bool, True inside the box.
    """
    boxes = torch.zeros(count, *shape_hw, dtype=torch.bool)
    for box in boxes:
        if _uniform(generator) < p_empty:
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
    pixels = _uniform(generator, *area) * shape_hw[0] * shape_hw[1]
    while True:
        ratio = _uniform(generator, *aspect)
        width, height = int((pixels / ratio) ** 0.5), int((pixels * ratio) ** 0.5)
        left, top = _integer(generator, shape_hw[1]), _integer(generator, shape_hw[0])
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

    With ``flow``, a pixel stays valid only where its match at t1 comes from the same side of the
    box border. ``label`` is recomputed from ``mask`` or dropped: the label of a pair says nothing
    about a part of it.

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
        same_side = (warp(side, mixed["flow"]) - side).abs() < 1e-3
        mixed["valid"] = _valid(mixed) & inside(mixed["flow"]) & same_side
    others = {key: value for key, value in base.items() if key not in ours}
    if "mask" not in mixed:
        others.pop("label", None)
    return _relabelled(cast(Batch, others | mixed))


def rolled(batch: Batch) -> Batch:
    """The maps of the batch moved on by one sample: a CutMix partner of other pairs (if B > 1)."""
    return cast(Batch, {key: value.roll(1, 0) for key, value in _maps(batch).items()})


def flip(batch: Batch, dim: int) -> Batch:
    """Mirror every map: ``dim`` -1 swaps left and right, -2 up and down."""
    maps = {k: flip_flow(v, dim) if k == "flow" else v.flip(dim) for k, v in _maps(batch).items()}
    return _replaced(batch, maps)


def rot90(batch: Batch, turns: int) -> Batch:
    """Turn every map counter-clockwise by quarter turns; height and width swap on odd ones."""
    maps = {
        k: rot90_flow(v, turns) if k == "flow" else v.rot90(turns, (-2, -1))
        for k, v in _maps(batch).items()
    }
    return _replaced(batch, maps)


def resize(batch: Batch, shape_hw: ShapeHW) -> Batch:
    """Resize every map; the pixels of ``flow`` become pixels of the new size.

    Images and floating maps are bilinear and antialiased when they shrink (what PIL does), labels
    take the pixel under the centre, flow is bilinear.
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
        batch: any batch; ``valid`` is added if absent and is False on padding and where the flow
            leaves what the window shows of t1.
        top: first row, 0 <= top.
        left: first column, 0 <= left.
        shape_hw: size of the window.

    Returns:
        The batch of the window; ``label`` is recomputed if there is a ``mask`` to tell, and kept
        otherwise.
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
        rot90: whether to turn by a random number of quarter turns.
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
        generator: source of all draws.

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
    top = _integer(generator, max(shape_hw[0] - side, 0) + 1)
    left = _integer(generator, max(shape_hw[1] - side, 0) + 1)
    sample = crop(resize(sample, shape_hw), top, left, (side, side))
    if _uniform(generator) < settings.p_hflip:
        sample = flip(sample, -1)
    if _uniform(generator) < settings.p_vflip:
        sample = flip(sample, -2)
    turns = _integer(generator, 4)
    return rot90(sample, turns) if settings.rot90 else sample


def _scaled_shape(image: Tensor, scale: tuple[float, float], generator: torch.Generator) -> ShapeHW:
    height, width = image.shape[-2:]
    side = max(height, width)
    lowest, highest = int(side * scale[0]), int(side * scale[1])
    long_side = lowest + _integer(generator, highest - lowest + 1)
    short_side = max(1, int(min(height, width) * long_side / side + 0.5))
    return (long_side, short_side) if height > width else (short_side, long_side)


@dataclass(frozen=True)
class Photometric:
    """What may happen to the values of one date; an amount of 0 switches an operation off.

    Operations run in this order. Saturation, hue and gray need colour: with any number of bands
    but three they are skipped, the rest is the same for every band. All act on values scaled to
    0..1 by the value range, and clip to it the dates they touch.

    Attributes:
        p_jitter: probability of the colour jitter, whose four parts come in random order.
        brightness: factor U(1-b, 1+b).
        contrast: factor U(1-c, 1+c) around the mean (of the gray image with three bands).
        saturation: factor U(1-s, 1+s) around gray.
        hue: shift U(-h, h), as a part of the colour circle.
        p_gray: probability of losing the colour.
        p_level: probability of ``value * U(1-l, 1+l) + U(-l, l)``.
        level: the l of it.
        p_shadow: probability of one or two five-cornered shadows.
        shadow: factor of the values in the shadow.
        p_flare: probability of a sun flare: soft bright discs on a ray.
        flare_radius: largest disc, relative to the longer side.
        p_blur: probability of a Gaussian blur.
        blur_sigma: bounds of its sigma in pixels.
        p_noise: probability of additive Gaussian noise.
        noise: largest standard deviation of it, relative to the value range.
    """

    p_jitter: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    p_gray: float = 0.0
    p_level: float = 0.0
    level: float = 0.0
    p_shadow: float = 0.0
    shadow: float = 0.5
    p_flare: float = 0.0
    flare_radius: float = 150 / 520
    p_blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    p_noise: float = 0.0
    noise: float = 0.0


STRONG = Photometric(
    p_jitter=0.8, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.25, p_blur=0.5
)
"""Strong augmentation of DiffMatch (section 5.4); its code has no gray."""

STREET = Photometric(
    p_jitter=0.5,
    brightness=0.2,
    contrast=0.2,
    saturation=0.2,
    hue=0.2,
    p_gray=0.2,
    p_level=0.5,
    level=0.2,
    p_shadow=0.5,
    p_flare=0.25,
)
"""Input of the scene branch's student, and its synthetic pairs (scene change, section 7.3)."""


def photometric_view(
    batch: Batch,
    settings: Photometric,
    generator: torch.Generator,
    *,
    value_range: ValueRange,
    shared: bool = False,
) -> Batch:
    """Change the values of ``image``, never its geometry: every other entry stays as it is.

    Args:
        batch: ``image`` (B,2,C,H,W) float, raw values.
        settings: what may happen; ``STRONG`` and ``STREET`` are the published ones.
        generator: source of all draws.
        value_range: (black, white) of the raw values.
        shared: one draw for both dates instead of one per date.

    Returns:
        The batch with a new ``image`` in the same range.

    Raises:
        UsageError: the value range is empty.
    """
    low, high = value_range
    if high <= low:
        raise UsageError(
            f"value_range expects (black, white) with black < white, found {low, high}"
        )
    image = (batch["image"] - low) / (high - low)
    start = generator.get_state()
    dates = []
    for date in image.unbind(1):
        if shared:
            generator.set_state(start)
        dates.append(_photometric(date, settings, generator))
    return _replaced(batch, {"image": torch.stack(dates, 1) * (high - low) + low})


def _photometric(image: Tensor, settings: Photometric, generator: torch.Generator) -> Tensor:
    """Apply the operations to (B,C,H,W) of range 0..1."""
    colour = image.shape[1] == 3
    image = _jittered(image, settings, generator)
    gray = _chosen(generator, image, settings.p_gray if colour else 0.0)
    image = _on(image, gray, lambda x, _: rgb_to_grayscale(x).expand_as(x))
    image = _levelled(image, settings, generator)
    shadows = _chosen(generator, image, settings.p_shadow)
    lights = 1 - (1 - settings.shadow) * _per_sample(image, shadows, generator, _shadow_map)
    image = _on(image, shadows, lambda x, i: x * lights[i])
    flares = _chosen(generator, image, settings.p_flare)
    glare = _per_sample(
        image, flares, generator, lambda hw, g: _flare_map(hw, g, settings.flare_radius)
    )
    image = _on(image, flares, lambda x, i: x + glare[i])
    return _noisy(_blurred(image, settings, generator), settings, generator)


def _jittered(image: Tensor, settings: Photometric, generator: torch.Generator) -> Tensor:
    """Colour jitter with torchvision's semantics: factors around 1, parts in random order."""
    count = len(image)
    chosen = _chosen(generator, image, settings.p_jitter)
    order = torch.rand(count, 4, generator=generator).argsort(1).to(image.device)
    amounts = (settings.brightness, settings.contrast, settings.saturation)
    factors = [_draw(generator, image, max(0.0, 1 - a), 1 + a) for a in amounts]
    factors.append(_draw(generator, image, -settings.hue, settings.hue) * 2 * pi)
    parts = (
        adjust_brightness_accumulative,
        adjust_contrast_with_mean_subtraction,
        adjust_saturation_with_gray_subtraction,
        adjust_hue,
    )
    available = 4 if image.shape[1] == 3 else 2
    for place in range(4):
        for part in range(available):
            here = chosen & (order[:, place] == part)
            image = _on(image, here, partial(_adjusted, parts[part], factors[part]))
    return image


def _adjusted(
    adjust: Callable[[Tensor, Tensor], Tensor], factor: Tensor, image: Tensor, index: Tensor
) -> Tensor:
    return adjust(image, factor[index])


def _levelled(image: Tensor, settings: Photometric, generator: torch.Generator) -> Tensor:
    chosen = _chosen(generator, image, settings.p_level)
    gain = _draw(generator, image, 1 - settings.level, 1 + settings.level).view(-1, 1, 1, 1)
    offset = _draw(generator, image, -settings.level, settings.level).view(-1, 1, 1, 1)
    return _on(image, chosen, lambda x, i: x * gain[i] + offset[i])


def _blurred(image: Tensor, settings: Photometric, generator: torch.Generator) -> Tensor:
    chosen = _chosen(generator, image, settings.p_blur)
    sigma = _draw(generator, image, *settings.blur_sigma)[:, None].expand(-1, 2)
    side = 2 * int(np.ceil(3 * settings.blur_sigma[1])) + 1
    return _on(image, chosen, lambda x, i: gaussian_blur2d(x, (side, side), sigma[i], "replicate"))


def _noisy(image: Tensor, settings: Photometric, generator: torch.Generator) -> Tensor:
    chosen = _chosen(generator, image, settings.p_noise if settings.noise else 0.0)
    sigma = _draw(generator, image, 0.0, settings.noise).view(-1, 1, 1, 1)
    return _on(
        image,
        chosen,
        lambda x, i: x + sigma[i] * torch.randn(x.shape, generator=generator).to(x),
    )


def _shadow_map(shape_hw: ShapeHW, generator: torch.Generator) -> Tensor:
    """1 in the shadow of one or two random five-cornered things, 0 elsewhere: (H,W)."""
    covered = torch.zeros(shape_hw)
    for _ in range(1 + _integer(generator, 2)):
        corners = torch.rand(5, 2, generator=generator) * torch.tensor(shape_hw[::-1])
        centred = corners - corners.mean(0)
        corners = corners[torch.atan2(centred[:, 1], centred[:, 0]).argsort()]
        covered = torch.maximum(covered, _polygon_map(corners, shape_hw))
    return covered


def _polygon_map(corners: Tensor, shape_hw: ShapeHW) -> Tensor:
    """1 inside a polygon given by (K,2) corners in x, y, by the even-odd rule: (H,W)."""
    x, y = pixel_grid(shape_hw)
    crossings = torch.zeros(shape_hw, dtype=torch.bool)
    for (x1, y1), (x2, y2) in zip(corners, corners.roll(-1, 0), strict=True):
        spans = (y1 > y) != (y2 > y)
        crossings ^= spans & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
    return crossings.float()


def _flare_map(shape_hw: ShapeHW, generator: torch.Generator, radius: float) -> Tensor:
    """Light to add: a sun in the upper half and soft discs on its ray through the centre: (H,W)."""
    height, width = shape_hw
    grid = pixel_grid(shape_hw)
    sun = torch.rand(2, generator=generator) * torch.tensor([width, height / 2])
    ray = torch.tensor([width / 2, height / 2]) - sun
    largest = radius * max(height, width)
    light = _disc(grid, sun, largest * _uniform(generator, 0.6, 1.0), 0.9)
    for _ in range(3 + _integer(generator, 5)):
        place = sun + ray * _uniform(generator, 0.3, 2.2)
        size = largest * _uniform(generator, 0.05, 0.35)
        light = light + _disc(grid, place, size, _uniform(generator, 0.05, 0.25))
    return light


def _disc(grid: Tensor, centre: Tensor, radius: float, strength: float) -> Tensor:
    distance = (grid - centre.view(2, 1, 1)).square().sum(0).sqrt()
    return strength * (1 - distance / max(radius, 1.0)).clamp(min=0).square()


def _per_sample(
    image: Tensor,
    chosen: Tensor,
    generator: torch.Generator,
    draw: Callable[[ShapeHW, torch.Generator], Tensor],
) -> Tensor:
    """Draw an (H,W) map for each chosen sample, zero for the others: (B,1,H,W)."""
    height, width = image.shape[-2:]
    maps = torch.zeros(len(image), 1, height, width)
    for index in chosen.nonzero().flatten().tolist():
        maps[index, 0] = draw((height, width), generator)
    return maps.to(image)


def _on(image: Tensor, chosen: Tensor, operation: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Replace the chosen samples by ``operation(samples, their indices)``, clipped to 0..1."""
    index = chosen.nonzero().flatten()
    if not len(index):
        return image
    changed = operation(image[index].clamp(0, 1), index).clamp(0, 1)
    return image.index_copy(0, index, changed)


def _chosen(generator: torch.Generator, image: Tensor, probability: float) -> Tensor:
    return _draw(generator, image, 0.0, 1.0) < probability


def _draw(generator: torch.Generator, image: Tensor, low: float, high: float) -> Tensor:
    """One number per sample: (B,) on the device of ``image``."""
    return (low + (high - low) * torch.rand(len(image), generator=generator)).to(image)


def _uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _integer(generator: torch.Generator, count: int) -> int:
    return int(torch.randint(count, (), generator=generator))


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
    """``valid``, less the pixels whose match lies outside the frame."""
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
