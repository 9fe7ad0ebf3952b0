"""Georeferenced scenes as a TorchGeo dataset: two dates on one grid, with labels of any kind."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import rasterio
import shapely
import torch
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS
from torchgeo.datasets import GeoDataset

from rscd.base.arguments import check_names
from rscd.base.errors import DataError, GridMismatchError
from rscd.base.files import by_stem
from rscd.base.types import IGNORE, Align, BoolArray, ByteArray
from rscd.data.images import IMAGE_SUFFIXES
from rscd.data.labels import image_label
from rscd.data.plotted import Plotted
from rscd.data.scene_labels import (
    BuildingDifference,
    LabelLayer,
    Polygons,
    bounds_of,
    crs_of,
    open_layer,
)
from rscd.geo.grid import apply, compose, crs_name, footprint_px, intersection, shape_hw
from rscd.geo.labels import MaskRule
from rscd.geo.pictures import has_pixel_coordinates
from rscd.geo.scene import ScenePair
from rscd.geo.source import inspect
from rscd.geo.tiles import Box

log = logging.getLogger(__name__)

Sample = dict[str, Any]
KEYS = frozenset({"image", "mask", "valid", "label"})
MOST_NAMED = 5
"""Most rasters without partner listed in a message."""
SAME_RES = 1e-6
"""Two pixel sizes are equal if they differ by less than this fraction."""


@dataclass(frozen=True)
class Scene:
    """One place at two dates. Plain data, so that it can be written in a YAML file.

    Every path may be anything GDAL opens: a file, a VRT, the URL of a COG. If ``t1`` and ``t2`` are
    folders, their rasters are paired by name, or else by location.
    """

    t1: str
    t2: str
    labels: str | None = None
    """Change between the dates: polygons (GeoPackage, GeoJSON, ...) or a raster, in any CRS."""
    buildings: tuple[str, str] | None = None
    """Instead of ``labels``: building layers at t1 and t2, polygons or rasters."""
    building_id: str | None = None
    """Attribute that names a building at both dates; see ``BuildingDifference``."""
    where: str | None = None
    """SQL condition that selects polygons by attribute, such as ``kind = 'appeared'``."""
    area: str | None = None
    """Polygons of the labelled area; pixels outside are 255 = ignore."""
    dates: tuple[str, str] | None = None
    """Dates of t1 and t2, such as ``2018-05-01``; None: unknown, matches any time."""
    name: str | None = None


@dataclass(frozen=True, eq=False)
class Placed:
    """A scene on a grid of the dataset, ready to be read."""

    name: str
    pair: ScenePair
    labels: LabelLayer | None
    area: LabelLayer | None


class ScenePairs(Plotted, GeoDataset):
    """Georeferenced scenes of two dates, indexed by place and time as TorchGeo's datasets are.

    Every scene is read on one grid: its own (t1's) if CRS and pixel size are the dataset's, else
    resampled (bilinear) onto a north-up grid in the dataset's CRS. Patches that extend beyond a
    scene are padded by reflection and invalid there. Use it with ``RandomGeoSampler``,
    ``GridGeoSampler`` and their successors through :func:`rscd.data.samplers.guarded`.

    A sample has ``keys`` and always ``name``, ``crs``, ``bounds`` and ``transform``:

    * ``image`` (2,C,H,W) float32, raw values, t1 first, 0 where invalid;
    * ``mask`` (1,H,W) int64: 0 no change, 1 change, 255 ignore (invalid or unlabelled);
    * ``valid`` (1,H,W) bool: usable at both dates;
    * ``label`` () int64: 1 if the patch has change.
    """

    def __init__(
        self,
        scenes: Sequence[Scene] | Scene,
        *,
        keys: Sequence[str] | set[str] | frozenset[str] | None = None,
        crs: str | None = None,
        res: float | tuple[float, float] | None = None,
        align: Align = "t1",
        bands: Sequence[int] | None = None,
        src_nodata: float | None = None,
        mask_values: MaskRule = "strict",
        min_change_pixels: int = 1,
        transforms: Callable[[Sample], Sample] | None = None,
    ) -> None:
        """Inspect every file once; no pixel is read, except label rasters under ``strict``.

        Args:
            scenes: the scenes.
            keys: keys of a sample; default image, valid and, if every scene has labels, mask and
                label. Without mask and label no label file is opened.
            crs: CRS of the dataset; default that of the first scene.
            res: pixel size in CRS units, one number or (x, y); default that of the first scene.
            align: the date whose grid a scene uses, see :meth:`rscd.geo.scene.ScenePair.open`.
            bands: 1-based bands, the same for both dates; default all but alpha.
            src_nodata: nodata value of all images.
            mask_values: how stored values of label rasters are read.
            min_change_pixels: changed pixels from which ``label`` is 1.
            transforms: applied to each sample.

        Raises:
            DataError: for unusable labels, or if only some scenes have a CRS.
            SceneError: for an unusable image; the message names it.
        """
        listed = [scenes] if isinstance(scenes, Scene) else list(scenes)
        self.scenes = [part for scene in listed for part in expand(scene)]
        if not self.scenes:
            raise DataError("expected at least one scene, found none; give t1 and t2")
        self.keys = self._chosen_keys(keys)
        self.min_change_pixels = min_change_pixels
        self.transforms = transforms
        self.paths = [path for scene in self.scenes for path in (scene.t1, scene.t2)]
        chosen = None if bands is None else tuple(bands)
        self._pairs = [
            ScenePair.open(s.t1, s.t2, align=align, bands=chosen, src_nodata=src_nodata)
            for s in self.scenes
        ]
        self._check_bands()
        wants_labels = bool(self.keys & {"mask", "label"})
        self._layers = [
            _layers(scene, pair, mask_values) if wants_labels else (None, None)
            for scene, pair in zip(self.scenes, self._pairs, strict=True)
        ]
        first = self._pairs[0].grid
        own = crs_of(first)
        self._place(own if crs is None else CRS.from_user_input(crs), _res_of(first, own, crs, res))

    def __getitem__(self, query: Any) -> Sample:
        """Read a patch.

        Args:
            query: ``[xmin:xmax, ymin:ymax, tmin:tmax]`` in the dataset's CRS, all optional. Among
                several scenes the one nearest to these dates is read; among ties, the one that
                covers most of the box. Pictures without georeferencing have y = -row; rows that
                count downwards (y from 0) are accepted too.

        Raises:
            IndexError: if there is no scene.
            DataError: for unreadable labels.
            SceneError: for an unreadable image; the message names it.
        """
        x, y, t = self._disambiguate_slice(query)
        if 0 <= y.start < y.stop and has_pixel_coordinates(self._pairs[0].grid):
            y = slice(-y.stop, -y.start, y.step)
        placed = self._placed[self._hit(x, y, t, query)]
        if not _close((x.step, y.step), self.res):
            raise DataError(
                f"expected a query in the dataset's pixel size {self.res}, found {x.step, y.step}; "
                "set res= of the dataset"
            )
        box = _box_of(placed.pair.grid, x, y)
        return self._sample(placed, box)

    @property
    def crs(self) -> CRS:
        """CRS of the index and of every sample; None if the scenes have none."""
        crs: CRS = self.index.crs
        return crs

    @crs.setter
    def crs(self, new_crs: CRS) -> None:
        if new_crs != self.crs:
            self._place(new_crs, _carried_res(self._pairs[0].grid, new_crs))

    @property
    def res(self) -> tuple[float, float]:
        """Pixel size (x, y) in units of the CRS."""
        return self._res

    @res.setter
    def res(self, new_res: float | tuple[float, float]) -> None:
        size = (new_res, new_res) if isinstance(new_res, int | float) else new_res
        if not _close(size, self.res):
            self._place(self.crs, (float(size[0]), float(size[1])))

    @property
    def n_bands(self) -> int:
        """Bands of either date."""
        return self._pairs[0].n_bands

    def _chosen_keys(
        self, keys: Sequence[str] | set[str] | frozenset[str] | None
    ) -> frozenset[str]:
        bare = [s for s in self.scenes if s.labels is None and s.buildings is None]
        if keys is None:
            return KEYS if not bare else KEYS - {"mask", "label"}
        check_names(keys, sorted(KEYS), "keys of scenes", DataError)
        if bare and set(keys) & {"mask", "label"}:
            raise DataError(
                f"{bare[0].t1}: mask or label was requested, but this scene has neither labels nor "
                "buildings; add one, or remove the scene"
            )
        return frozenset(keys)

    def _check_bands(self) -> None:
        counts = {pair.n_bands for pair in self._pairs}
        if len(counts) > 1:
            odd = next(p for p in self._pairs if p.n_bands != self._pairs[0].n_bands)
            raise DataError(
                f"expected {self._pairs[0].n_bands} bands in every scene, found {odd.n_bands} in "
                f"{odd.t1.path}; choose common ones with bands="
            )
        if len(self._pairs) > 1 and any(pair.grid.crs is None for pair in self._pairs):
            odd = next(p for p in self._pairs if p.grid.crs is None)
            raise DataError(
                f"expected a CRS in each of {len(self._pairs)} scenes, found none in "
                f"{odd.t1.path}; read pictures without georeferencing with PairFolder"
            )

    def _place(self, crs: CRS | None, res: tuple[float, float]) -> None:
        """Put every scene on a grid of this CRS and pixel size, and index them."""
        self._res = res
        self._known: tuple[Any, Any] | None = None
        self._sample_crs = None if crs is None else rasterio.crs.CRS.from_wkt(crs.to_wkt())
        origin = (self._pairs[0].grid.affine.c, self._pairs[0].grid.affine.f)
        if crs != crs_of(self._pairs[0].grid):
            origin = (0.0, 0.0)
        pairs = [place(pair, crs, res, origin) for pair in self._pairs]
        self._placed = [
            _placed(scene, pair, layers)
            for scene, pair, layers in zip(self.scenes, pairs, self._layers, strict=True)
        ]
        self.index = geopandas.GeoDataFrame(
            {"scene": range(len(pairs))},
            index=pd.IntervalIndex(
                [_interval(scene, i) for i, scene in enumerate(self.scenes)],
                closed="both",
                name="datetime",
            ),
            geometry=[shapely.box(*bounds_of(pair.grid)) for pair in pairs],
            crs=crs,
        )

    def _hit(self, x: slice, y: slice, t: slice, query: Any) -> int:
        """The scene that a box is read from."""
        bounds, starts, stops = self._where()
        left, bottom, right, top = bounds
        across = np.minimum(right, x.stop) - np.maximum(left, x.start)
        along = np.minimum(top, y.stop) - np.maximum(bottom, y.start)
        # one pixel of tolerance, because rounding puts the last row of a grid just outside the
        # scene
        there = (across > -self.res[0]) & (along > -self.res[1])
        start, stop = _nanoseconds(pd.DatetimeIndex([t.start, t.stop]))
        there &= (starts <= stop) & (stops >= start)
        if not there.any():
            raise IndexError(f"query {query} not found in index with bounds {self.bounds}")
        named = (starts == start) & (stops == stop)
        apart_s = np.round(np.abs(starts / 1e9 - start / 1e9) + np.abs(stops / 1e9 - stop / 1e9))
        covered = np.maximum(across, 0) * np.maximum(along, 0)
        best = np.lexsort((-covered, apart_s, ~named, ~there))[0]
        return int(self.index["scene"].iloc[best])

    def _where(self) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """Bounds (4,n), first and last nanosecond (n,) of the index, which splits may replace."""
        if self._known is None or self._known[0] is not self.index:
            times = self.index.index
            arrays = (
                self.index.geometry.bounds.to_numpy().T,
                _nanoseconds(times.left),
                _nanoseconds(times.right),
            )
            self._known = (self.index, arrays)
        return self._known[1]

    def _sample(self, placed: Placed, box: Box) -> Sample:
        grid = grid_of(placed.pair.grid, box)
        image, valid = placed.pair.read(box)
        sample: Sample = {
            "name": f"{placed.name} row {box.row} column {box.col}",
            "crs": self._sample_crs,
            "bounds": bounds_of(grid),
            "transform": grid.affine,
        }
        if "image" in self.keys:
            sample["image"] = torch.from_numpy(image)
        if "valid" in self.keys:
            sample["valid"] = torch.from_numpy(valid[None])
        if self.keys & {"mask", "label"} and placed.labels is not None:
            mask = _mask(placed, grid, valid)
            if "mask" in self.keys:
                sample["mask"] = torch.from_numpy(mask[None].astype(np.int64))
            if "label" in self.keys:
                sample["label"] = torch.tensor(image_label(mask, self.min_change_pixels, IGNORE))
        return self.transforms(sample) if self.transforms is not None else sample


def expand(scene: Scene) -> list[Scene]:
    """The scenes of two folders: rasters paired by name, or else by location.

    Labels, buildings and area may be folders as well, with files named like those of t1; or one
    file for all. A scene of files is returned unchanged.

    Raises:
        DataError: if only one date is a folder, a folder is empty, or nothing overlaps.
    """
    folders = [Path(path).is_dir() for path in (scene.t1, scene.t2)]
    if not any(folders):
        return [scene]
    if not all(folders):
        raise DataError(
            f"expected t1 and t2 both as files or both as folders, found {scene.t1} and "
            f"{scene.t2}; give the same kind for both"
        )
    first, second = _rasters(scene.t1), _rasters(scene.t2)
    if first.keys() == second.keys():
        return [_part(scene, name, first[name], second[name]) for name in first]
    return _by_place(scene, first, second)


def _rasters(folder: str) -> dict[str, str]:
    files = by_stem(Path(folder), IMAGE_SUFFIXES | {".jp2"})
    if not files:
        raise DataError(
            f"{folder}: no rasters (.tif, .vrt, .jp2, ...); give the folder of one date"
        )
    return {name: str(path) for name, path in files.items()}


def _by_place(scene: Scene, first: Mapping[str, str], second: Mapping[str, str]) -> list[Scene]:
    grids = {path: inspect("t2", path, None, None).grid for path in second.values()}
    found = []
    alone, met = [], set()
    for name, path in first.items():
        grid = inspect("t1", path, None, None).grid
        partners = [other for other, later in second.items() if _overlap(grid, grids[later])]
        if not partners:
            alone.append(path)
        met |= set(partners)
        found += [_part(scene, f"{name}+{other}", path, second[other], name) for other in partners]
    if not found:
        raise DataError(
            f"{scene.t1} and {scene.t2}: the rasters have no common names or places; give the two "
            "dates of one place"
        )
    alone += [path for other, path in second.items() if other not in met]
    if alone:
        log.warning(
            "skipped, because the other date has no raster there: %s%s",
            ", ".join(alone[:MOST_NAMED]),
            f" and {len(alone) - MOST_NAMED} more" if len(alone) > MOST_NAMED else "",
        )
    return found


def _overlap(grid: GeoBox, other: GeoBox) -> bool:
    try:
        intersection(grid, other)
    except GridMismatchError:
        return False
    return True


def _part(scene: Scene, name: str, t1: str, t2: str, stem: str | None = None) -> Scene:
    stem = stem or name

    def of_name(path: str | None) -> str | None:
        if path is None or not Path(path).is_dir():
            return path
        found = sorted(p for p in Path(path).iterdir() if p.stem == stem)
        if len(found) != 1:
            raise DataError(
                f"{path}: expected one file named {stem}.*, found {len(found)}; label every raster "
                "of t1, or give one file for all"
            )
        return str(found[0])

    buildings = scene.buildings
    if buildings is not None:
        buildings = (of_name(buildings[0]) or "", of_name(buildings[1]) or "")
    return replace(
        scene,
        t1=t1,
        t2=t2,
        labels=of_name(scene.labels),
        buildings=buildings,
        area=of_name(scene.area),
        name=name if scene.name is None else f"{scene.name}/{name}",
    )


def place(
    pair: ScenePair, crs: CRS | None, res: tuple[float, float], origin: tuple[float, float]
) -> ScenePair:
    """A pair on a grid of this CRS and pixel size.

    The pair's own grid is kept if it matches; else both dates are resampled once, from their files,
    onto a north-up grid whose pixel corners are at ``origin`` plus multiples of ``res``.
    """
    grid = pair.grid
    own = crs_of(grid)
    a, b, _, d, e, _ = grid.affine[:6]
    upright = b == d == 0 and a > 0 and (e < 0 or own is None)
    if own == crs and upright and _close((a, abs(e)), res):
        return pair
    if (own is None) != (crs is None):
        raise DataError(
            f"expected scenes in {crs_name(crs)}, found {crs_name(own)} in {pair.t1.path}; "
            "assign a CRS to the file"
        )
    box = footprint_px(grid, _endless(crs, res, origin))
    # slightly less, so that a footprint ending on a pixel edge does not gain an empty row
    left, top = (int(np.floor(value + SAME_RES)) for value in box[:2])
    right, bottom = (int(np.ceil(value - SAME_RES)) for value in box[2:])
    transform = Affine(res[0], 0, origin[0] + left * res[0], 0, -res[1], origin[1] - top * res[1])
    target = GeoBox((max(bottom - top, 1), max(right - left, 1)), transform, crs)
    return pair.resampled(target)


def _endless(crs: CRS | None, res: tuple[float, float], origin: tuple[float, float]) -> GeoBox:
    """The north-up grid that scenes are put on; only its transform matters."""
    return GeoBox((1, 1), Affine(res[0], 0, origin[0], 0, -res[1], origin[1]), crs)


def _res_of(
    grid: GeoBox, own: CRS | None, crs: str | None, res: float | tuple[float, float] | None
) -> tuple[float, float]:
    if res is not None:
        x, y = (res, res) if isinstance(res, int | float) else res
        if not (x > 0 and y > 0):
            raise DataError(f"expected res= above 0 in units of the CRS, found {res}")
        return float(x), float(y)
    if crs is None or CRS.from_user_input(crs) == own:
        return _pixel_size(grid)
    return _carried_res(grid, CRS.from_user_input(crs))


def _pixel_size(grid: GeoBox) -> tuple[float, float]:
    a, b, _, d, e, _ = grid.affine[:6]
    return float(np.hypot(a, d)), float(np.hypot(b, e))


def _carried_res(grid: GeoBox, crs: CRS | None) -> tuple[float, float]:
    """Size of square pixels with which the footprint has as many pixels in another CRS as now."""
    box = footprint_px(grid, _endless(crs, (1.0, 1.0), (0.0, 0.0)))
    height, width = shape_hw(grid)
    side = float(np.sqrt((box[2] - box[0]) * (box[3] - box[1]) / (height * width)))
    return side, side


def _close(first: Sequence[float], second: Sequence[float]) -> bool:
    return all(abs(a - b) <= SAME_RES * abs(b) for a, b in zip(first, second, strict=True))


def _interval(scene: Scene, number: int) -> pd.Interval:
    """The dates of a scene, shifted by its index in nanoseconds.

    So every scene has a distinct interval, and a sampler's query identifies its scene even where it
    extends into a neighbour.
    """
    own = pd.Timedelta(number, "ns")
    if scene.dates is None:
        return pd.Interval(pd.Timestamp.min + own, pd.Timestamp.max, closed="both")
    try:
        first, second = (pd.Timestamp(date).as_unit("ns") for date in scene.dates)
    except ValueError as error:
        raise DataError(f"{scene.t1}: dates={scene.dates} are not dates ({error})") from error
    if first > second:
        raise DataError(f"{scene.t1}: t1 of {scene.dates[0]} is later than t2; swap the two")
    return pd.Interval(first + own, second + own, closed="both")


def _nanoseconds(times: pd.DatetimeIndex) -> NDArray[np.int64]:
    return np.asarray(times.as_unit("ns").asi8, np.int64)


def _layers(
    scene: Scene, pair: ScenePair, rule: MaskRule
) -> tuple[LabelLayer | None, LabelLayer | None]:
    """Change labels and labelled area of a scene, opened but not yet read."""
    if scene.labels is not None and scene.buildings is not None:
        raise DataError(f"{scene.t1}: expected labels or buildings, found both; remove one")
    like = pair.t1.grid
    labels: LabelLayer | None = None
    if scene.labels is not None:
        labels = open_layer(scene.labels, like, rule, where=scene.where)
    if scene.buildings is not None:
        sides = [
            open_layer(path, grid, rule, where=scene.where, id_field=scene.building_id)
            for path, grid in zip(scene.buildings, (like, pair.t2.grid), strict=True)
        ]
        labels = BuildingDifference(sides[0], sides[1])
    return labels, None if scene.area is None else Polygons(scene.area)


def _placed(
    scene: Scene, pair: ScenePair, layers: tuple[LabelLayer | None, LabelLayer | None]
) -> Placed:
    bounds, crs = bounds_of(pair.grid), crs_of(pair.grid)
    labels, area = (None if layer is None else layer.within(bounds, crs) for layer in layers)
    return Placed(scene.name or Path(scene.t1).stem, pair, labels, area)


def _box_of(grid: GeoBox, x: slice, y: slice) -> Box:
    """Pixels of a rectangle in CRS units, snapped to the grid."""
    cols, rows = apply(~grid.affine, np.array([x.start, x.stop]), np.array([y.start, y.stop]))
    height, width = (max(1, round(float(np.ptp(ends)))) for ends in (rows, cols))
    return Box(round(float(rows.min())), round(float(cols.min())), height, width)


def grid_of(grid: GeoBox, box: Box) -> GeoBox:
    """The grid of a box of pixels, which may extend beyond the scene."""
    moved = compose(grid.affine, Affine.translation(box.col, box.row))
    return GeoBox(box.shape_hw, moved, grid.crs)


def _mask(placed: Placed, grid: GeoBox, valid: BoolArray) -> ByteArray:
    """(H,W) uint8: 0, 1, and 255 where invalid or unlabelled."""
    if placed.labels is None:
        raise DataError(f"{placed.name}: no labels; add them to the scene")
    mask = placed.labels.read(grid)
    usable = valid if placed.area is None else valid & (placed.area.read(grid) == 1)
    mask[~usable] = IGNORE
    return mask
