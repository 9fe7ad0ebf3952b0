"""Labels of georeferenced scenes on any grid: rasters, polygons, building layers.

A layer is read one grid at a time: a patch reads only the polygons or blocks it overlaps.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS
from rasterio.features import rasterize

from rscd.base.errors import DataError, GridMismatchError
from rscd.base.redact import redacted
from rscd.base.types import IGNORE, BoolArray, Bounds, ByteArray
from rscd.geo.grid import bounds_text, check_same_world, crs_name, footprint_px, shape_hw
from rscd.geo.labels import (
    Coding,
    MaskRule,
    Told255,
    coding_in,
    declared_nodata,
    one_band,
    says_255_is_change,
)
from rscd.geo.onto import opened, raster_on
from rscd.geo.pictures import PICTURE, is_picture, on_picture
from rscd.geo.settings import raster_border
from rscd.geo.source import Source, inspect
from rscd.geo.tiles import Box
from rscd.geo.vectors import carried, exist, is_vector, polygonal, read_layer

log = logging.getLogger(__name__)


class LabelLayer(Protocol):
    """Labels that can be read on any grid of one CRS."""

    def read(self, grid: GeoBox) -> ByteArray:
        """(H,W) uint8 on a grid: 0, 1, and 255 where the layer has no label."""
        ...

    def within(self, bounds: Bounds, crs: CRS | None) -> "LabelLayer":
        """The part of the layer that a scene needs; ``crs`` is that of all grids read later."""
        ...


def open_layer(
    path: str,
    like: GeoBox,
    rule: MaskRule = "strict",
    *,
    where: str | None = None,
    id_field: str | None = None,
) -> LabelLayer:
    """Open a label file as polygons or raster, depending on its suffix.

    Args:
        path: a vector file (1 inside its polygons, 0 elsewhere) or a raster GDAL opens.
        like: grid of the image to which a raster without georeferencing must belong.
        rule: how stored raster values become 0, 1 and 255.
        where: SQL condition on the attributes of the polygons that count.
        id_field: attribute that names a building at both dates.

    Raises:
        DataError: if the file cannot be read or its values do not match the rule.
    """
    if is_vector(path):
        return Polygons(path, where, id_field)
    if where is not None or id_field is not None:
        raise DataError(
            f"{path}: where= and building_id= apply to polygons, this is a raster; remove them"
        )
    return open_label_raster(path, like, rule)


@dataclass(frozen=True)
class Polygons:
    """Polygons of a vector file; 1 where a pixel's centre is in any."""

    path: str
    where: str | None = None
    id_field: str | None = None
    role: str = "labels"
    """What they are, for messages."""
    whole: bool = False
    """Whether `within` also reads what lies outside, which tells a wrong CRS from no change."""

    def within(self, bounds: Bounds, crs: CRS | None) -> "LoadedPolygons":
        """Read the polygons that touch a rectangle and transform them to its CRS.

        Raises:
            DataError: when the file cannot be read.
            GridMismatchError: only one side has a CRS.
        """
        geometries, ids = _read_vector(self, bounds, crs)
        return LoadedPolygons(self.path, geometries, ids)

    def read(self, grid: GeoBox) -> ByteArray:
        """Read the polygons of a grid directly from the file."""
        return self.within(bounds_of(grid), crs_of(grid)).read(grid)


@dataclass(frozen=True, eq=False)
class LoadedPolygons:
    """Polygons in memory, in one CRS."""

    path: str
    geometries: NDArray[Any]
    ids: NDArray[Any] | None = None
    """One value per polygon, if the layer has an id."""

    @cached_property
    def tree(self) -> shapely.STRtree:
        """Spatial index, built on first use in each process."""
        return shapely.STRtree(self.geometries)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "tree"}

    def within(self, bounds: Bounds, crs: CRS | None) -> "LoadedPolygons":
        """The layer itself: its polygons have been selected and transformed."""
        return self

    def read(self, grid: GeoBox) -> ByteArray:
        """(H,W) uint8: 1 where a pixel's centre is in a polygon."""
        found = self.tree.query(shapely.box(*bounds_of(grid)))
        return burn(self.geometries[np.sort(found)], grid)

    def only(self, keep: BoolArray) -> "LoadedPolygons":
        """Some of the polygons."""
        ids = None if self.ids is None else self.ids[keep]
        return LoadedPolygons(self.path, self.geometries[keep], ids)


def crs_of(grid: GeoBox) -> CRS | None:
    """The CRS of a grid as pyproj's."""
    return None if grid.crs is None else CRS(grid.crs)


def bounds_of(grid: GeoBox) -> Bounds:
    """(left, bottom, right, top) of a grid in CRS units."""
    left, bottom, right, top = grid.boundingbox.bbox
    return float(left), float(bottom), float(right), float(top)


def burn(geometries: Sequence[Any], grid: GeoBox) -> ByteArray:
    """(H,W) uint8: 1 where a pixel's centre is in one of the polygons."""
    if len(geometries) == 0:
        return np.zeros(shape_hw(grid), np.uint8)
    burnt = rasterize(geometries, shape_hw(grid), transform=grid.affine, dtype="uint8")
    return np.asarray(burnt, np.uint8)


def _read_vector(
    layer: Polygons, bounds: Bounds, crs: CRS | None
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    frame = read_layer(
        layer.path,
        f"polygons in {layer.role}",
        columns=[] if layer.id_field is None else [layer.id_field],
        where=layer.where,
        # rows of pictures may count downwards: where polygons lie is known once they are read
        within=None if crs is None or layer.whole else (bounds, crs),
    )
    source = None if frame.crs is None else CRS(frame.crs)
    if crs is None and Path(layer.path).suffix.lower() in (".geojson", ".json"):
        source = None  # GDAL ascribes degrees to every GeoJSON, also to one in pixels
    check_same_world(layer.role, layer.path, source, crs)
    polygons, ids = _kept(layer, frame, source, crs)
    return on_rows(polygons, bounds, crs, layer.path), ids


def on_rows(polygons: NDArray[Any], bounds: Bounds, crs: CRS | None, path: str) -> NDArray[Any]:
    """Polygons on a picture, whichever way their rows count; others unchanged."""
    bottom, top = bounds[1], bounds[3]
    if crs is None and bottom < top <= 0:
        height = int(np.ceil(-bottom))
        return on_picture(polygons, GeoBox((height, 1), PICTURE, None), path)
    return polygons


def _kept(
    layer: Polygons, frame: Any, source: CRS | None, crs: CRS | None
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    if layer.id_field is not None and layer.id_field not in frame.columns:
        raise DataError(
            f"{layer.path}: no column {layer.id_field!r} in these {layer.role}; correct the name"
        )
    geometries = np.asarray(frame.geometry.values, dtype=object)
    polygons = polygonal(geometries)
    areal = ~shapely.is_empty(polygons)
    if len(geometries) and not areal.any():
        kind = getattr(geometries[0], "geom_type", "features without geometry")
        raise DataError(
            f"expected polygons in {layer.role} {layer.path}, found {kind} and the like; give a "
            "layer of polygons"
        )
    moved = carried(polygons[areal], source, crs)
    here = exist(moved)
    ids = None if layer.id_field is None else frame[layer.id_field].to_numpy()[areal][here]
    return moved[here], ids


@dataclass(frozen=True)
class LabelRaster:
    """A label raster; values are never interpolated (nearest)."""

    source: Source
    coding: Coding
    says_255: bool | None = None
    """See `rscd.geo.labels.says_255_is_change`."""

    def within(self, bounds: Bounds, crs: CRS | None) -> "LabelRaster":
        """The layer itself: blocks are read when a patch needs them.

        A raster that lies elsewhere ignores the whole scene, which is said: one file may serve
        several scenes, so that it is no error.

        Raises:
            GridMismatchError: when only one of raster and scene has a CRS.
        """
        check_same_world(self.source.date, self.source.path, self.source.grid.crs, crs)
        if crs is not None and not _meets(self.source.grid, bounds, crs):
            log.warning(
                "labels %s do not touch the scene at %s (left, bottom, right, top in %s), all of "
                "which is ignored: check the file and its CRS",
                *(redacted(self.source.path), bounds_text(bounds), crs_name(crs)),
            )
        return self

    def read(self, grid: GeoBox) -> ByteArray:
        """(H,W) uint8 by the raster's rule; 255 on nodata and beyond the raster.

        Raises:
            DataError: the file holds values the rule does not cover.
            SceneError: the file is damaged.
        """
        with raster_on(self.source, grid) as read:
            values, covered = read(Box(0, 0, *shape_hw(grid)))
        return self.coding.decode(one_band(self.source.path, values), covered)


def _meets(grid: GeoBox, bounds: Bounds, crs: CRS) -> bool:
    """Whether a raster and a rectangle have ground in common."""
    left, bottom, right, top = bounds
    place = GeoBox((1, 1), Affine(right - left, 0, left, 0, bottom - top, top), crs)
    try:
        x0, y0, x1, y1 = footprint_px(place, grid)
    except GridMismatchError:
        return False
    return x0 < grid.shape[1] and y0 < grid.shape[0] and x1 > 0 and y1 > 0


def open_label_raster(path: str, like: GeoBox, rule: MaskRule) -> LabelRaster:
    """Inspect a label raster.

    With the rule ``strict`` the whole file is scanned once, block by block: a single patch does not
    show whether 255 means change.

    Raises:
        DataError: when it holds colours, does not lie on ``like`` although it has no
            georeferencing, or holds values the rule does not cover.
        SceneError: the file cannot be read.
    """
    source = inspect("labels", path, None, None)
    if is_picture(source.grid):
        if source.grid.shape != like.shape:
            raise DataError(
                f"{path}: labels without georeferencing must have the size of t1, "
                f"{like.shape[1]} x {like.shape[0]} pixels, found {source.grid.shape[1]} x "
                f"{source.grid.shape[0]}"
            )
        source = replace(source, grid=like)
    with opened(source) as dataset, raster_border("labels", path):
        coding = coding_in(path, dataset, rule)
        return LabelRaster(
            source, coding, says_255_is_change(rule, declared_nodata(dataset), coding)
        )


def check_agreement(layers: Iterable[LabelLayer], argument: str) -> None:
    """Rasters of one kind that lie in one folder must not contradict each other about 255.

    Args:
        layers: of one kind.
        argument: that names what their values mean.

    Raises:
        DataError: two of them do.
    """
    told = Told255(argument)
    for layer in (raster for raster in layers if isinstance(raster, LabelRaster)):
        told.add(Path(redacted(layer.source.path)), layer.says_255)


@dataclass(frozen=True)
class BuildingDifference:
    """Change between two dated building layers.

    A pixel is change if it has a building at exactly one date. If both layers are polygons with an
    id, a building whose id occurs at one date only is change over its whole outline, as in
    :mod:`rscd.synthetic.towns`: a replaced building then counts although its pixels are built at
    both dates.
    """

    t1: LabelLayer
    t2: LabelLayer
    once: LoadedPolygons | None = None
    """Buildings whose id occurs at one date only."""

    def within(self, bounds: Bounds, crs: CRS | None) -> "BuildingDifference":
        """Both layers restricted, and buildings matched by id if there is one."""
        t1, t2 = self.t1.within(bounds, crs), self.t2.within(bounds, crs)
        return replace(self, t1=t1, t2=t2, once=_standing_once(t1, t2))

    def read(self, grid: GeoBox) -> ByteArray:
        """(H,W) uint8: 1 where built at exactly one date, 255 where either layer has no label."""
        first, second = self.t1.read(grid), self.t2.read(grid)
        change = np.asarray(first != second, np.uint8)
        if self.once is not None:
            change |= self.once.read(grid)
        change[(first == IGNORE) | (second == IGNORE)] = IGNORE
        return change


def _among(ids: NDArray[Any], others: NDArray[Any]) -> BoolArray:
    """Which ids are among others; missing ids match nothing."""
    mine = pd.Series(ids)
    return np.asarray(mine.notna() & mine.isin(others), bool)


def _standing_once(t1: LabelLayer, t2: LabelLayer) -> LoadedPolygons | None:
    if not (isinstance(t1, LoadedPolygons) and isinstance(t2, LoadedPolygons)):
        return None
    if t1.ids is None or t2.ids is None:
        return None
    parts = (t1.only(~_among(t1.ids, t2.ids)), t2.only(~_among(t2.ids, t1.ids)))
    geometries = np.concatenate([part.geometries for part in parts])
    return LoadedPolygons(f"{t1.path} and {t2.path}", geometries)
