"""The scene under a change layer as the page shows it, and where the polygons lie in it.

The page's coordinates are display pixels: those of the scene's grid, with one axis shrunk where
pixels are not square on the ground, as in degrees.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from pyproj import CRS

from rscd.base.border import shown
from rscd.base.errors import DataError, SceneError
from rscd.base.place import is_file_name
from rscd.base.types import ByteArray, Float64Array, Provenance, ShapeHW
from rscd.export.stretch import SHOWN_BANDS, Stretch
from rscd.geo.grid import apply, check_same_world, compose, grid_text, shape_hw
from rscd.geo.origin import find_raster
from rscd.geo.register import register
from rscd.geo.scene import ScenePair
from rscd.geo.settings import is_item
from rscd.geo.tiles import Box
from rscd.geo.vectors import carried
from rscd.pipeline.provenance import describe_file
from rscd.review.layer import LONLAT, ChangeLayer, inputs_of, require_polygons

SAMPLE_PX = 1024
"""Longest side of the picture from which the stretch is taken."""
SQUARE = 0.02
"""Pixels whose sides differ by less than this fraction are shown as they are."""
MARGIN_PX = 64
"""Pixels shown around the polygons where only a part of the scene was searched."""
NODES = 17
"""Points per side of the lattice by which the page brings drawn outlines into lon/lat."""

_NO_IDENTITY = {"path", "bands", "with", "vrt_sha256"}
"""Of what the provenance says of a raster, what does not tell one file from another."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class View:
    """Both dates of a scene in display pixels."""

    pair: ScenePair
    """Of at most a few bands, red, green and blue first."""
    stretches: tuple[Stretch, Stretch]
    scale: tuple[float, float]
    """Display pixels per pixel of the grid, along columns and rows; the larger is 1."""

    @property
    def shape_hw(self) -> ShapeHW:
        """(height, width) in display pixels."""
        height, width = self.pair.shape_hw
        return max(1, round(height * self.scale[1])), max(1, round(width * self.scale[0]))

    def read(self, box: Box, size_hw: ShapeHW) -> ByteArray:
        """Pictures of a box.

        Args:
            box: in display pixels, within the scene.
            size_hw: of the pictures; fewer pixels are read from overviews where there are any.

        Returns:
            (2,h,w,3) uint8, black where a date has no data.
        """
        height, width = self.pair.shape_hw
        part = _scaled(box, 1 / self.scale[0], 1 / self.scale[1]).common(Box(0, 0, height, width))
        window = part.moved(*self.pair.window.corner)
        image, _ = replace(self.pair, window=window).thumbnail(size_hw)
        pictures = [s.apply(date) for s, date in zip(self.stretches, image, strict=True)]
        return np.stack(pictures)

    def to_display(self, geometries: Any, crs: Any) -> Any:
        """(N,) geometries of a CRS in display pixels: x = column, y = row."""
        grid = self.pair.grid
        own = None if grid.crs is None else CRS(grid.crs)
        moved = carried(geometries, None if crs is None else CRS(crs), own)
        inverse = compose(Affine.scale(*self.scale), ~grid.affine)
        return shapely.transform(moved, lambda p: np.column_stack(apply(inverse, *p.T)))

    def lattice(self, crs: Any) -> tuple[Float64Array, Float64Array]:
        """Where points of the display lie, as a review stores them.

        Args:
            crs: of the layer; None: a review is in the layer's pixels.

        Returns:
            (n,n) x or longitude and (n,n) y or latitude of `NODES` points per side, row by row,
            from corner to corner of the display.
        """
        height, width = self.pair.shape_hw
        grid = self.pair.grid
        cols, rows = np.meshgrid(np.linspace(0, width, NODES), np.linspace(0, height, NODES))
        x, y = apply(grid.affine, cols.ravel(), rows.ravel())
        own = None if grid.crs is None else CRS(grid.crs)
        points = carried(shapely.points(x, y), own, None if crs is None else LONLAT)
        at = shapely.get_coordinates(points).reshape(NODES, NODES, 2)
        return at[..., 0], at[..., 1]


def _scaled(box: Box, across: float, down: float) -> Box:
    left, right = round(box.col * across), round((box.col + box.width) * across)
    top, bottom = round(box.row * down), round((box.row + box.height) * down)
    return Box(top, left, max(1, bottom - top), max(1, right - left))


def open_view(layer: ChangeLayer, t1: str | None = None, t2: str | None = None) -> View:
    """The scene that a layer was made from.

    Args:
        layer: whose provenance names the rasters.
        t1: raster of the earlier date, instead of the one named there.
        t2: of the later date.

    Raises:
        DataError: no raster is named, or no polygon lies on them.
        SceneError: a raster is gone, was replaced, or cannot be read.
    """
    require_polygons(layer)
    about = inputs_of(layer.provenance)
    paths = [_raster(layer, date, about.get(date), own) for date, own in (("t1", t1), ("t2", t2))]
    pair = _registered(_open_pair(paths, layer.provenance, about), layer.provenance)
    check_same_world("change polygons", layer.path, layer.table.crs, pair.grid.crs)
    view = View(pair, _stretches(pair), _scale(pair))
    bounds = shapely.total_bounds(view.to_display(layer.table.geometry.to_numpy(), layer.table.crs))
    part = _common(view, bounds)
    if part is None:
        raise DataError(
            f"expected rasters under the polygons of {layer.path}, found none of them on "
            f"{grid_text(pair.grid)}; give the rasters it was made from with --t1 and --t2"
        )
    searched = str(layer.provenance.get("alignment", {}).get("grid", ""))
    if searched in ("", grid_text(pair.grid)):
        return view
    cut = replace(pair, window=part.moved(*pair.window.corner))  # only an area was searched
    return View(cut, _stretches(cut), view.scale)


def _common(view: View, bounds: Any) -> Box | None:
    """The pixels of the grid around some bounds in display pixels; None if they are elsewhere."""
    if not np.isfinite(bounds).all():
        return None
    left, top, right, bottom = bounds / np.tile(view.scale, 2)
    height, width = view.pair.shape_hw
    if right < 0 or bottom < 0 or left > width or top > height:
        return None
    x0, y0 = (max(0, math.floor(value) - MARGIN_PX) for value in (left, top))
    x1, y1 = (math.ceil(value) + MARGIN_PX for value in (right, bottom))
    return Box(y0, x0, y1 - y0, x1 - x0).common(Box(0, 0, height, width))


def _raster(layer: ChangeLayer, date: str, about: Provenance | None, own: str | None) -> str:
    """Path of a raster: as given, or as the layer names it."""
    if own is not None:
        if about is not None and not _same_file(own, about):
            log.warning("%s %s is not the file that %s was made from", date, own, layer.path)
        return own
    if about is None:
        raise DataError(
            f"expected the rasters of both dates in the provenance of {layer.path}, found none; "
            "give them with --t1 and --t2"
        )
    name = str(about["path"])
    if not is_file_name(name):
        if not _same_file(name, about):
            raise _replaced(layer, date, name)
        return name
    return find_raster(layer.path, date, about, f"with --{date}")


def _replaced(layer: ChangeLayer, date: str, path: str) -> SceneError:
    return SceneError(
        f"expected {date} {shown(path)} as it was when {layer.path} was made, found that it "
        f"changed since; predict again, or name the right file with --{date}"
    )


def _same_file(path: str | Path, about: Provenance) -> bool:
    """Whether a file is the one that was described."""
    here = is_file_name(path) and Path(path).is_file()
    if here and Path(path).stat().st_size != about.get("bytes"):
        return False  # without reading all of it
    found = describe_file(path)
    return all(found.get(key) == about[key] for key in about.keys() - _NO_IDENTITY)


def _open_pair(
    paths: Sequence[str], provenance: Provenance, about: Mapping[str, Provenance]
) -> ScenePair:
    """Both dates as they were compared, in the bands that are shown."""
    parameters = provenance.get("parameters") or {}
    options: dict[str, Any] = {name: parameters.get(name) for name in ("src_nodata", "gsd_m")}
    options["align"] = parameters.get("align") or "t1"
    t1, t2 = paths
    numbers = {tuple(found["bands"]) for found in about.values()}
    if any(map(is_item, paths)):  # bands of an item are named
        return ScenePair.open(t1, t2, **options)
    if len(numbers) == 1:
        return ScenePair.open(t1, t2, bands=_first(numbers.pop()), **options)
    pair = ScenePair.open(t1, t2, **options)
    if pair.t1.bands == pair.t2.bands and _first(pair.t1.bands) != pair.t1.bands:
        return ScenePair.open(t1, t2, bands=_first(pair.t1.bands), **options)
    return pair


def _registered(pair: ScenePair, provenance: Provenance) -> ScenePair:
    """The pair with a date moved as it was when the dates were compared."""
    moved = provenance.get("registration")
    if not moved:
        return pair
    if moved["register"] == "local":  # what it was bent by is not stored
        found, _ = register(pair, "local", (provenance.get("parameters") or {}).get("align", "t1"))
        return found
    if moved["cols"] == moved["rows"] == 0:
        return pair
    return pair.registered(moved["moved"], (moved["cols"], moved["rows"]))


def _first(bands: tuple[int, ...]) -> tuple[int, ...]:
    """Those bands that are shown."""
    return bands[:SHOWN_BANDS] if len(bands) >= SHOWN_BANDS else bands[:1]


def _stretches(pair: ScenePair) -> tuple[Stretch, Stretch]:
    height, width = pair.shape_hw
    step = max(1.0, max(height, width) / SAMPLE_PX)
    image, _ = pair.thumbnail((max(1, round(height / step)), max(1, round(width / step))))
    return Stretch.of(image[0]), Stretch.of(image[1])


def _scale(pair: ScenePair) -> tuple[float, float]:
    """How display pixels become square on the ground."""
    a, b, _, d, e, _ = pair.grid.affine[:6]
    across, down = math.hypot(a, d), math.hypot(b, e)
    crs = None if pair.grid.crs is None else CRS(pair.grid.crs)
    if crs is not None and crs.is_geographic:
        height, width = shape_hw(pair.grid)
        _, latitude = apply(pair.grid.affine, np.array([width / 2]), np.array([height / 2]))
        radians = float(latitude[0]) * crs.axis_info[0].unit_conversion_factor
        across *= max(math.cos(radians), 0.01)
    ratio = across / down
    if abs(ratio - 1) < SQUARE:
        return 1.0, 1.0
    return (ratio, 1.0) if ratio < 1 else (1.0, 1 / ratio)
