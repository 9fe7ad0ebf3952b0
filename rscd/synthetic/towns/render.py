"""Images of a town at both dates: height field, materials, light, air and optics."""

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from affine import Affine
from numpy.typing import NDArray

from rscd.base.errors import UsageError
from rscd.base.types import ByteArray, FloatArray, ShapeHW
from rscd.synthetic.towns.conditions import Conditions, Nuisance
from rscd.synthetic.towns.draft import GARDEN, MARGIN_M
from rscd.synthetic.towns.materials import LAND_COVER
from rscd.synthetic.towns.parts import T1, T2, Area, Building, Change, Line, Town, Tree
from rscd.synthetic.towns.raster import (
    Canvas,
    blank,
    cover_codes,
    draw_box,
    draw_car,
    draw_ground,
    draw_tree,
    fray,
)
from rscd.synthetic.towns.sensor import (
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

OVERSAMPLE = 2
"""Oversampling: the town is drawn in pixels half the size of the image's."""
TILE_PX = 512
_APRON_PX = 6
"""Image pixels around a tile that optics may use."""


@dataclass(frozen=True, eq=False)
class TownPair:
    """Two images of a town and the truth, all on one grid."""

    image: NDArray[np.uint8] | NDArray[np.uint16]
    """(2,C,H,W): red, green, blue and optionally near infrared; index 0 = t1."""
    mask: ByteArray
    """(1,H,W): 1 where a building exists at exactly one date."""
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
    """Render the two images of a town.

    Args:
        town: from ``plan_town``.
        nuisance: all differences besides the buildings; ``Nuisance.off()`` if None.
        bands: 3 (red, green, blue) or 4 (and near infrared).
        dtype: ``uint8`` display values, or ``uint16`` linear reflectance x 10000.

    Returns:
        Images, mask, land cover and the buildings. The truth is on the plan's grid, which t1 shows
        undisplaced.

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
            pixels, classes = _render_tile(town, nuisance, window, bands, dtype)
            image[(slice(None), slice(None), *place)] = pixels
            cover[(slice(None), *place)] = classes
    for index, conditions in enumerate((nuisance.t1, nuisance.t2)):
        if conditions.jpeg_quality and bands == 3 and dtype == "uint8":
            plain = np.ascontiguousarray(np.moveaxis(image[index], 0, 2))
            image[index] = np.moveaxis(through_jpeg(plain, conditions.jpeg_quality), 2, 0)
        standing = town.standing(index + 1)
        cover[index][_burn(town, [b.footprint for b in standing]) > 0] = LAND_COVER["building"]
    mask = _burn(town, [c.polygon for c in town.changes])[None]
    return TownPair(image, mask, cover, town.standing(T1), town.standing(T2), town.changes)


def _burn(town: Town, polygons: list[object]) -> ByteArray:
    """(H,W) uint8: 1 where a pixel's centre is in any polygon."""
    from rasterio.features import rasterize

    if not polygons:
        return np.zeros(town.shape_hw, np.uint8)
    to_world = Affine.scale(town.gsd_m)
    burnt = rasterize(polygons, town.shape_hw, transform=to_world, dtype="uint8")
    return np.asarray(burnt, np.uint8)


def _canvas_window(
    town: Town, nuisance: Nuisance, window: tuple[int, int, int, int]
) -> tuple[int, int, ShapeHW]:
    """First column and row, and size of the canvas of a tile, the same for both dates.

    The canvas extends beyond the tile as far as optics, displacement and lean require, and towards
    the suns by the length of a shadow.
    """
    res = town.gsd_m / OVERSAMPLE
    moved = max(map(abs, nuisance.shift_px)) + nuisance.warp_px
    lean = town.tallest_m * max(math.hypot(*c.lean) for c in (nuisance.t1, nuisance.t2))
    pad = math.ceil((_APRON_PX + moved) * OVERSAMPLE + lean / res) + 2
    to_suns = [(0.0, 0.0)]
    for conditions in (nuisance.t1, nuisance.t2):
        reach, azimuth = _shadow_reach(town, conditions), math.radians(conditions.sun_azimuth_deg)
        to_suns.append((reach * math.sin(azimuth) / res, -reach * math.cos(azimuth) / res))
    row, col, height, width = (OVERSAMPLE * n for n in window)
    left = col - pad + math.floor(min(x for x, _ in to_suns))
    top = row - pad + math.floor(min(y for _, y in to_suns))
    right = col + width + pad + math.ceil(max(x for x, _ in to_suns))
    bottom = row + height + pad + math.ceil(max(y for _, y in to_suns))
    return left, top, (bottom - top, right - left)


def _shadow_reach(town: Town, conditions: Conditions) -> float:
    """The longest shadow, metres."""
    return min(town.tallest_m / math.tan(math.radians(conditions.sun_elevation_deg)), MARGIN_M)


def _render_tile(
    town: Town, nuisance: Nuisance, window: tuple[int, int, int, int], bands: int, dtype: str
) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], ByteArray]:
    """Pixels (2,C,h,w) and land cover (2,h,w) of one tile (row, col, height, width)."""
    left, top, shape = _canvas_window(town, nuisance, window)
    canvases = [blank(left, top, shape, town.gsd_m / OVERSAMPLE) for _ in (T1, T2)]
    textures = texture_stack(town.seed, canvases[0])
    pixels, classes = [], []
    for date, canvas in zip((T1, T2), canvases, strict=True):
        _draw(town, nuisance, date, canvas, textures)
        classes.append(_classes(canvas, window))
        shown = _expose_tile(town, nuisance, date, canvas, textures, window, bands)
        pixels.append(np.moveaxis(shown, 2, 0))
    return quantise(np.stack(pixels), dtype), np.stack(classes)


def _classes(canvas: Canvas, window: tuple[int, int, int, int]) -> ByteArray:
    """(h,w) land cover of a tile, at the canvas pixel right below each image pixel's centre.

    Buildings are omitted: their footprints are rasterised later, by the rule of the mask.
    """
    first = [OVERSAMPLE * n + OVERSAMPLE // 2 for n in window[:2]]
    first = [first[0] - canvas.row, first[1] - canvas.col]
    rows, columns = (
        slice(start, start + OVERSAMPLE * count, OVERSAMPLE)
        for start, count in zip(first, window[2:], strict=True)
    )
    codes = cover_codes(canvas, dict(LAND_COVER))
    top, floor = codes[canvas.ids[rows, columns]], codes[canvas.floor_ids[rows, columns]]
    return np.where(top == LAND_COVER["building"], floor, top)


def _expose_tile(
    town: Town, nuisance: Nuisance, date: int, canvas: Canvas, textures: FloatArray,
    window: tuple[int, int, int, int], bands: int,
) -> FloatArray:  # fmt: skip
    """Display values (h,w,C) of a tile at one date."""
    conditions = nuisance.t1 if date == T1 else nuisance.t2
    thin_out(canvas, textures, conditions.leaf_off)
    radiance = reflectance(canvas, textures, conditions.greenness, bands)
    radiance *= light(canvas, conditions, town.seed, _shadow_reach(town, conditions), bands)
    radiance = lean_over(radiance, canvas, conditions)
    value = optics(_sample(radiance, canvas, town, nuisance, date, window), conditions)
    row, col, height, width = window
    value = value[_APRON_PX : _APRON_PX + height, _APRON_PX : _APRON_PX + width]
    rng = np.random.default_rng((town.seed, date, row, col))
    return add_noise(expose(value, conditions), conditions, rng)


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


def _draw(town: Town, nuisance: Nuisance, date: int, canvas: Canvas, textures: FloatArray) -> None:
    """Draw everything that exists at a date, from the ground up."""
    ground = _ground(town, nuisance, date, canvas)
    for thing in ground:
        if thing.layer <= GARDEN:
            draw_ground(canvas, thing)
    fray(canvas, textures)
    for thing in ground:
        if thing.layer > GARDEN:
            draw_ground(canvas, thing)
    canvas.floor_ids = canvas.ids.copy()
    _draw_built(town, nuisance, date, canvas)
    canvas.bare_ids, canvas.bare_height = canvas.ids.copy(), canvas.height.copy()
    for tree in town.within("trees", canvas.frame):
        if _grows(tree, date, nuisance.tree_change):
            draw_tree(canvas, tree)


def _draw_built(town: Town, nuisance: Nuisance, date: int, canvas: Canvas) -> None:
    for spot in town.spots:
        if spot.dates & date:
            draw_car(canvas, spot, date - 1, redraw=spot.draw < nuisance.cars_move)
    boxes = [prop for prop, dates in town.props if dates & date]
    for building in town.within("buildings", canvas.frame):
        if building.dates & date:
            boxes += building.boxes
    for box in boxes:
        draw_box(canvas, box)


def _grows(tree: Tree, date: int, tree_change: float) -> bool:
    """Whether a tree exists at a date; of those that change, 60 % are felled, 40 % planted."""
    felled = date == T2 and tree.draw < 0.6 * tree_change
    planted_later = date == T1 and tree.draw > 1 - 0.4 * tree_change
    return bool(tree.dates & date) and not felled and not planted_later


def _ground(town: Town, nuisance: Nuisance, date: int, canvas: Canvas) -> list[Area | Line]:
    """Areas and lines of a date, in drawing order."""
    things: list[Area | Line] = town.within("areas", canvas.frame)
    for swap in town.within("swaps", canvas.frame):
        share = nuisance.crop_change if swap.crop else nuisance.ground_change
        things.append(swap.after if date == T2 and swap.draw < share else swap.before)
    things += town.within("lines", canvas.frame)
    return sorted((t for t in things if t.dates & date), key=lambda thing: thing.layer)
