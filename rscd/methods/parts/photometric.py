"""Photometric views: effects of light, weather and sensors on the values, never the geometry."""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil, pi
from typing import cast

import torch
from kornia.color import rgb_to_grayscale
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_hue,
    adjust_saturation_with_gray_subtraction,
)
from kornia.filters import gaussian_blur2d
from torch import Tensor

from rscd.base.errors import UsageError
from rscd.base.types import Batch, ShapeHW
from rscd.methods.parts.draws import integer, uniform
from rscd.models.flow import pixel_grid

log = logging.getLogger(__name__)

MOST_BEYOND = 0.2
"""Fraction of the values of a batch that may lie beyond the value range: clouds, sun on water."""

ValueRange = tuple[float, float]
"""(black, white) of the raw values: (0, 255) for 8 bit, (0, 10000) for reflectance, (0, 1)."""


@dataclass(frozen=True)
class Photometric:
    """Random changes to the values of one date; an amount of 0 disables an operation.

    Operations run in this order. Saturation, hue and grey need colour: with any number of bands
    but three they are skipped, the rest is the same for every band. All act on values scaled to
    0..1 by the value range, and clip the dates they change to it.

    Attributes:
        p_jitter: probability of the colour jitter, whose four parts come in random order.
        brightness: factor U(1-b, 1+b).
        contrast: factor U(1-c, 1+c) around the mean (of the grey image with three bands).
        saturation: factor U(1-s, 1+s) around grey.
        hue: shift U(-h, h), as a fraction of the colour circle.
        p_gray: probability of losing the colour.
        p_level: probability of ``value * U(1-l, 1+l) + U(-l, l)``.
        level: the l above.
        p_shadow: probability of one or two five-cornered shadows.
        shadow: factor of the values in the shadow.
        p_flare: probability of a sun flare: soft bright discs on a ray.
        flare_radius: largest disc, relative to the longer side.
        p_blur: probability of a Gaussian blur.
        blur_sigma: bounds of its sigma in pixels.
        p_noise: probability of additive Gaussian noise.
        noise: its largest standard deviation, relative to the value range.
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
"""Strong augmentation of DiffMatch (section 5.4); its code has no grey."""

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
"""Input of the scene branch's student, and its synthetic pairs: the operations listed in FMA, with
the strengths of SimSaC's release where it has them (scene change, section 7.3)."""


def photometric_view(
    batch: Batch,
    settings: Photometric,
    generator: torch.Generator,
    *,
    value_range: ValueRange,
) -> Batch:
    """Change the values of ``image``, never its geometry; all other entries are unchanged.

    Args:
        batch: ``image`` (B,2,C,H,W) float, raw values.
        settings: the operations, such as ``STRONG`` or ``STREET``.
        generator: random generator.
        value_range: (black, white) of the raw values.

    Returns:
        The batch with a new ``image`` in the same range.

    Raises:
        UsageError: if the value range is empty.
    """
    low, high = value_range
    if high <= low:
        raise UsageError(
            f"value_range expects (black, white) with black < white, found {low, high}"
        )
    _check_range(batch["image"], value_range)
    image = (batch["image"] - low) / (high - low)
    dates = [_photometric(date, settings, generator) for date in image.unbind(1)]
    changed = torch.stack(dates, 1) * (high - low) + low
    return cast(Batch, dict(batch) | {"image": changed})


LOOKED_AT = 50
"""Batches per value range of which all values are compared with it; later ones cost no look."""

_looked: Counter[ValueRange] = Counter()
"""Batches that were looked at, by value range; `LOOKED_AT` once it was said."""


def _check_range(image: Tensor, value_range: ValueRange) -> None:
    """Warn once if a batch mostly lies beyond the range, where views are black or white."""
    low, high = value_range  # a list, if it comes from YAML
    if _looked[low, high] >= LOOKED_AT:
        return
    known = image[image != 0]  # 0 is also what has no data
    _looked[low, high] += len(known) > 0
    beyond = (known < low) | (known > high)
    if len(known) and beyond.float().mean() > MOST_BEYOND:
        _looked[low, high] = LOOKED_AT
        log.warning(
            "expected image values in value_range %s, found %.3g to %.3g: photometric views clip "
            "them to black and white; set method_args.value_range, such as [0, 10000]",
            *([low, high], float(known.min()), float(known.max())),
        )


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
    side = 2 * ceil(3 * settings.blur_sigma[1]) + 1
    return _on(image, chosen, lambda x, i: gaussian_blur2d(x, (side, side), sigma[i], "replicate"))


def _noisy(image: Tensor, settings: Photometric, generator: torch.Generator) -> Tensor:
    chosen = _chosen(generator, image, settings.p_noise if settings.noise else 0.0)
    sigma = _draw(generator, image, 0.0, settings.noise).view(-1, 1, 1, 1)
    return _on(
        image, chosen, lambda x, i: x + sigma[i] * torch.randn(x.shape, generator=generator).to(x)
    )


def _shadow_map(shape_hw: ShapeHW, generator: torch.Generator) -> Tensor:
    """1 in the shadow of one or two random pentagons, 0 elsewhere: (H,W)."""
    covered = torch.zeros(shape_hw)
    for _ in range(1 + integer(generator, 2)):
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
    """Light to add: a sun in the upper half and soft discs on its ray through the centre, (H,W)."""
    height, width = shape_hw
    grid = pixel_grid(shape_hw)
    sun = torch.rand(2, generator=generator) * torch.tensor([width, height / 2])
    ray = torch.tensor([width / 2, height / 2]) - sun
    largest = radius * max(height, width)
    light = _disc(grid, sun, largest * uniform(generator, 0.6, 1.0), 0.9)
    for _ in range(3 + integer(generator, 5)):
        place = sun + ray * uniform(generator, 0.3, 2.2)
        size = largest * uniform(generator, 0.05, 0.35)
        light = light + _disc(grid, place, size, uniform(generator, 0.05, 0.25))
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
