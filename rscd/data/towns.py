"""Synthetic towns at two dates: known buildings appear and vanish among everything else that changes.

    town = plan_town(seed=7, shape_hw=(256, 256), gsd_m=0.5, change_share=0.2)
    pair = render_town(town, Nuisance.draw(np.random.default_rng(7)))

The plan (``plan_town``) is vectors in metres; the picture is a height field with materials, lit by
a sun, seen through air and optics. The rule of the truth: a pixel is change when its centre lies
in the roof outline of a building that stands at exactly one date. A replaced building counts as
change over both outlines, also where they overlap; sheds and containers below 14 square metres,
cars, trees, crops, earthworks and streets never do.
"""

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from affine import Affine
from numpy.typing import NDArray

from rscd.data.town_conditions import Conditions, Nuisance
from rscd.data.town_materials import LAND_COVER
from rscd.data.town_parts import T1, T2, Area, Building, Change, Town, TownStyle
from rscd.data.town_plan import MARGIN_M, plan_town
from rscd.data.town_raster import (
    Canvas,
    blank,
    cover_codes,
    draw_area,
    draw_box,
    draw_car,
    draw_line,
    draw_tree,
)
from rscd.data.town_sensor import (
    add_noise,
    expose,
    lean_over,
    light,
    optics,
    quantise,
    reflectance,
    sample_grid,
    texture_stack,
    thin_out,
    through_jpeg,
    warp_field,
)
from rscd.errors import UsageError
from rscd.types import ByteArray, FloatArray, ShapeHW

__all__ = [
    "LAND_COVER",
    "Building",
    "Change",
    "Conditions",
    "Nuisance",
    "Town",
    "TownPair",
    "TownStyle",
    "plan_town",
    "render_town",
]

OVERSAMPLE = 2
"""The town is drawn in pixels half the size of the image's."""
TILE_PX = 512
_APRON_PX = 6
"""Image pixels around a tile that optics may look at."""


@dataclass(frozen=True, eq=False)
class TownPair:
    """Two images of a town and the truth, all on one grid."""

    image: NDArray[np.uint8] | NDArray[np.uint16]
    """(2,C,H,W): red, green, blue and perhaps near infrared; index 0 = t1."""
    mask: ByteArray
    """(1,H,W): 1 where a building stands at exactly one date."""
    land_cover: ByteArray
    """(2,H,W): values of ``LAND_COVER``."""
    buildings_t1: tuple[Building, ...]
    buildings_t2: tuple[Building, ...]
    changes: tuple[Change, ...]


def render_town(
    town: Town,
    nuisance: Nuisance | None = None,
    *,
    bands: Literal[3, 4] = 3,
    dtype: Literal["uint8", "uint16"] = "uint8",
) -> TownPair:
    """Make the two images of a town.

    Args:
        town: from ``plan_town``.
        nuisance: all that differs besides the buildings; ``Nuisance.off()`` when None.
        bands: 3 (red, green, blue) or 4 (and near infrared).
        dtype: ``uint8`` display values, or ``uint16`` linear reflectance x 10000.

    Returns:
        Images, mask, land cover and the buildings. The truth lies on the plan's grid, which t1
        shows undisplaced.

    Raises:
        UsageError: for other bands or types.
    """
    if bands not in (3, 4):
        raise UsageError(f"expected 3 or 4 bands, found {bands}")
    if dtype not in ("uint8", "uint16"):
        raise UsageError(f"expected uint8 or uint16, found {dtype}")
    nuisance = nuisance or Nuisance.off()
    h, w = town.shape_hw
    image = np.empty((2, bands, h, w), dtype)
    cover = np.empty((2, h, w), np.uint8)
    for row in range(0, h, TILE_PX):
        for col in range(0, w, TILE_PX):
            window = (row, col, min(TILE_PX, h - row), min(TILE_PX, w - col))
            place = (slice(row, row + window[2]), slice(col, col + window[3]))
            for date in (T1, T2):
                pixels, classes = _render_tile(town, nuisance, date, window, bands, dtype)
                image[(date - 1, slice(None), *place)] = pixels
                cover[(date - 1, *place)] = classes
    for index, conditions in enumerate((nuisance.t1, nuisance.t2)):
        if conditions.jpeg_quality and bands == 3 and dtype == "uint8":
            plain = np.ascontiguousarray(np.moveaxis(image[index], 0, 2))
            image[index] = np.moveaxis(through_jpeg(plain, conditions.jpeg_quality), 2, 0)
        standing = town.standing(index + 1)
        cover[index][_burn(town, [b.footprint for b in standing]) > 0] = LAND_COVER["building"]
    mask = _burn(town, [c.polygon for c in town.changes])[None]
    return TownPair(image, mask, cover, town.standing(T1), town.standing(T2), town.changes)


def _burn(town: Town, polygons: list[object]) -> ByteArray:
    """(H,W) uint8: 1 where a pixel's centre lies in any polygon."""
    from rasterio.features import rasterize

    if not polygons:
        return np.zeros(town.shape_hw, np.uint8)
    to_world = Affine.scale(town.gsd_m)
    return np.asarray(
        rasterize(polygons, town.shape_hw, transform=to_world, dtype="uint8"), np.uint8
    )


def _canvas_window(
    town: Town, nuisance: Nuisance, date: int, window: tuple[int, int, int, int]
) -> tuple[int, int, ShapeHW, float]:
    """First column and row, size of the canvas of a tile, and the longest shadow (metres).

    The canvas reaches beyond the tile by what optics, displacement and lean need, and towards the
    sun by the length of a shadow.
    """
    conditions = nuisance.t1 if date == T1 else nuisance.t2
    res = town.gsd_m / OVERSAMPLE
    moved = max(map(abs, nuisance.shift_px)) + nuisance.warp_px if date == T2 else 0.0
    lean = town.tallest_m * math.hypot(*conditions.lean)
    pad = math.ceil((_APRON_PX + moved) * OVERSAMPLE + lean / res) + 2
    reach = min(town.tallest_m / math.tan(math.radians(conditions.sun_elevation_deg)), MARGIN_M)
    azimuth = math.radians(conditions.sun_azimuth_deg)
    to_sun = (reach * math.sin(azimuth) / res, -reach * math.cos(azimuth) / res)
    row, col, height, width = (OVERSAMPLE * n for n in window)
    left = col - pad + min(math.floor(to_sun[0]), 0)
    top = row - pad + min(math.floor(to_sun[1]), 0)
    right = col + width + pad + max(math.ceil(to_sun[0]), 0)
    bottom = row + height + pad + max(math.ceil(to_sun[1]), 0)
    return left, top, (bottom - top, right - left), reach


def _render_tile(
    town: Town,
    nuisance: Nuisance,
    date: int,
    window: tuple[int, int, int, int],
    bands: int,
    dtype: str,
) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], ByteArray]:
    """Pixels (C,h,w) and land cover (h,w) of one tile (row, col, height, width) at one date."""
    conditions = nuisance.t1 if date == T1 else nuisance.t2
    left, top, shape, reach = _canvas_window(town, nuisance, date, window)
    canvas = _draw(town, nuisance, date, blank(left, top, shape, town.gsd_m / OVERSAMPLE))
    row, col, height, width = window
    first = (OVERSAMPLE * row - top + OVERSAMPLE // 2, OVERSAMPLE * col - left + OVERSAMPLE // 2)
    centres = canvas.ids[
        first[0] : first[0] + OVERSAMPLE * height : OVERSAMPLE,
        first[1] : first[1] + OVERSAMPLE * width : OVERSAMPLE,
    ]
    classes = np.take(cover_codes(canvas, dict(LAND_COVER)), centres)
    textures = texture_stack(town.seed, canvas)
    canvas = thin_out(canvas, textures, conditions.leaf_off)
    radiance = reflectance(canvas, textures, conditions.greenness, bands)
    radiance *= light(canvas, conditions, town.seed, reach, bands)
    radiance = lean_over(radiance, canvas, conditions)
    value = optics(_sample(radiance, canvas, town, nuisance, date, window), conditions)
    value = value[_APRON_PX : _APRON_PX + height, _APRON_PX : _APRON_PX + width]
    rng = np.random.default_rng((town.seed, date, row, col))
    pixels = quantise(add_noise(expose(value, conditions), conditions, rng), dtype)
    return np.moveaxis(pixels, 2, 0), classes


def _sample(
    radiance: FloatArray, canvas: Canvas, town: Town, nuisance: Nuisance, date: int,
    window: tuple[int, int, int, int],
) -> FloatArray:  # fmt: skip
    """The tile with its apron at image resolution, t2 displaced."""
    row, col = window[0] - _APRON_PX, window[1] - _APRON_PX
    shape = (window[2] + 2 * _APRON_PX, window[3] + 2 * _APRON_PX)
    shift, warp = (0.0, 0.0), None
    if date == T2:
        shift = nuisance.shift_px
        warp = warp_field(town.seed, col, row, shape, nuisance.warp_px, nuisance.warp_wavelength_px)
    origin = (OVERSAMPLE * col - canvas.col, OVERSAMPLE * row - canvas.row)
    columns, rows = sample_grid(origin, shape, OVERSAMPLE, shift, warp)
    return np.asarray(cv2.remap(radiance, columns, rows, cv2.INTER_LINEAR), np.float32)


def _draw(town: Town, nuisance: Nuisance, date: int, canvas: Canvas) -> Canvas:
    """Everything that is there at a date, from the ground up."""
    for thing in _ground(town, nuisance, date, canvas):
        if isinstance(thing, Area):
            draw_area(canvas, thing)
        else:
            draw_line(canvas, thing)
    for spot in town.spots:
        if spot.dates & date:
            draw_car(canvas, spot, date - 1, redraw=spot.draw < nuisance.cars_move)
    for prop, dates in town.props:
        if dates & date:
            draw_box(canvas, prop)
    for i in _seen(town.building_bounds, canvas):
        if town.buildings[i].dates & date:
            for box in town.buildings[i].boxes:
                draw_box(canvas, box)
    canvas.bare_ids, canvas.bare_height = canvas.ids.copy(), canvas.height.copy()
    change = nuisance.tree_change
    for i in _seen(town.tree_bounds, canvas):
        tree = town.trees[i]
        felled = date == T2 and tree.draw < 0.6 * change
        planted_later = date == T1 and tree.draw > 1 - 0.4 * change
        if tree.dates & date and not felled and not planted_later:
            draw_tree(canvas, tree)
    return canvas


def _ground(town: Town, nuisance: Nuisance, date: int, canvas: Canvas) -> list[object]:
    """Areas and lines of a date, in drawing order."""
    things: list[tuple[int, object]] = []
    for i in _seen(town.area_bounds, canvas):
        if town.areas[i].dates & date:
            things.append((town.areas[i].layer, town.areas[i]))
    for swap in town.swaps:
        share = nuisance.crop_change if swap.crop else nuisance.ground_change
        area = swap.after if date == T2 and swap.draw < share else swap.before
        if area.dates & date:
            things.append((area.layer, area))
    for i in _seen(town.line_bounds, canvas):
        if town.lines[i].dates & date:
            things.append((town.lines[i].layer, town.lines[i]))
    return [thing for _, thing in sorted(things, key=lambda pair: pair[0])]


def _seen(bounds: NDArray[np.float64], canvas: Canvas) -> list[int]:
    """Indices of the things whose bounds touch a canvas."""
    left, top = canvas.col * canvas.res, canvas.row * canvas.res
    right = left + canvas.ids.shape[1] * canvas.res
    bottom = top + canvas.ids.shape[0] * canvas.res
    touch = (bounds[:, 0] < right) & (bounds[:, 1] < bottom)
    touch &= (bounds[:, 2] > left) & (bounds[:, 3] > top)
    return [int(i) for i in np.flatnonzero(touch)]
