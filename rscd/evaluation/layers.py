"""Rasters and vectors of any CRS on one pixel grid, read box by box."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from rscd.base.errors import GridMismatchError, UsageError
from rscd.base.types import ByteArray
from rscd.data.images import PLAIN_SUFFIXES, check_end
from rscd.data.scene_labels import Polygons, bounds_of, crs_of
from rscd.events.footprints import KEPT, KINDS
from rscd.geo.grid import (
    bounds_text,
    check_same_world,
    cut,
    footprint_px,
    grid_text,
    pixels_within,
    shape_hw,
)
from rscd.geo.labels import Values, coding_in, one_band
from rscd.geo.onto import BandReader, opened
from rscd.geo.pictures import is_picture
from rscd.geo.reviewed import REJECTED
from rscd.geo.settings import raster_border
from rscd.geo.source import Source, inspect
from rscd.geo.tiles import Box
from rscd.geo.vectors import read_layer

Reader = Callable[[Box], ByteArray]
"""Box of the grid -> (h,w): 0 no change, 1 change, 255 unknown."""

log = logging.getLogger(__name__)


def open_source(role: str, path: str | Path) -> Source:
    """Inspect a raster.

    Raises:
        SceneError: if it cannot be used.
    """
    if Path(path).suffix.lower() in PLAIN_SUFFIXES and Path(path).is_file():
        check_end(Path(path))
    return inspect(role, str(path), None, None)


def check_overlap(source: Source, grid: GeoBox) -> None:
    """Check that a raster covers at least one pixel of the grid.

    Raises:
        GridMismatchError: if it does not, or there is no georeferencing and the sizes differ.
    """
    check_same_world(source.date, source.path, source.grid.crs, grid.crs)
    pixels_only = is_picture(source.grid) and is_picture(grid)
    if pixels_only and source.grid.shape != grid.shape:
        raise GridMismatchError(
            "expected prediction and truth of one size where there is no georeferencing, found "
            f"{grid_text(source.grid)} in {source.path} and {grid_text(grid)}; crop one"
        )
    box = footprint_px(source.grid, grid)
    if pixels_within(shape_hw(grid), box) is None:
        raise GridMismatchError(
            f"expected {source.date} {source.path} to overlap its counterpart, found none: it "
            f"covers columns and rows {bounds_text(box)} of a grid of {grid_text(grid)}; check the "
            "files and their CRS"
        )


def classes_of(source: Source, read: BandReader, rule: Values) -> Reader:
    """Read a raster of classes as 0 no change, 1 change and 255 unknown.

    Args:
        source: of `open_source`.
        read: of `rscd.geo.onto.raster_on` for this source.
        rule: which stored values mean what.

    Raises:
        DataError: for values without a clear meaning, here or when a box is read.
    """
    what = f"{source.date} {source.path}"
    with opened(source) as dataset, raster_border(source.date, source.path):
        coding = coding_in(what, dataset, rule)

    def classes(box: Box) -> ByteArray:
        values, covered = read(box)
        return coding.decode(one_band(what, values), covered)

    return classes


def polygons_on(role: str, path: str | Path, grid: GeoBox) -> Reader:
    """Read a vector file as 1 where a pixel's centre lies in a polygon of change, else 0.

    Objects that `rscd events` lists as kept are none.

    Raises:
        DataError: when it cannot be read or holds other shapes than polygons.
        GridMismatchError: a CRS on one side only.
    """
    bounds = bounds_of(grid)
    table = read_layer(path, f"polygons in {role}", columns=["kind", "status"])
    kept = _lists_kept(table)
    if "status" in table.columns and (rejected := int((table["status"] == REJECTED).sum())):
        log.warning(
            "%s %s: %d of %d polygons were rejected in a review and count as change all the same; "
            "leave them out to measure what the review left (ogr2ogr -where \"status <> '%s'\")",
            *(role, path, rejected, len(table), REJECTED),
        )
    polygons = Polygons(str(path), role=role, whole=True, id_field="kind" if kept else None)
    layer = polygons.within(bounds, crs_of(grid))
    if layer.ids is not None:
        change = np.asarray(layer.ids != KEPT, bool)
        log.info(
            "%s %s: %d of %d polygons are of the kind kept and no change",
            role,
            path,
            np.count_nonzero(~change),
            len(change),
        )
        layer = layer.only(change)
    if len(layer.geometries) and not len(layer.tree.query(shapely.box(*bounds))):
        log.warning("no polygon of %s %s lies on the grid; check its CRS", role, path)
    return lambda box: layer.read(cut(grid, box))


def _lists_kept(table: Any) -> bool:
    """Whether a layer is one of events, some of which are objects that stayed."""
    if "kind" not in table.columns:
        return False
    kinds = set(table["kind"])
    return KEPT in kinds and kinds <= set(KINDS)


def check_probability(what: str, values: NDArray[Any]) -> None:
    """Check that probabilities are between 0 and 1; NaN is allowed.

    Raises:
        UsageError: if others are found.
    """
    finite = values[~np.isnan(values)]
    if finite.size and not (finite.min() >= 0 and finite.max() <= 1):
        raise UsageError(
            f"expected probabilities from 0 to 1 in {what}, found {finite.min():.4g} to "
            f"{finite.max():.4g}; if it holds classes, name those of change with --predicted-value"
        )
