"""Georeferenced scenes as a TorchGeo dataset: two dates on one grid, with labels of any kind."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
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
from rscd.base.errors import DataError
from rscd.base.redact import redacted
from rscd.base.types import IGNORE, LAYERS, Align, BoolArray, Bounds, ByteArray
from rscd.data.answers import Answer, answers_in, open_answers
from rscd.data.labels import image_label
from rscd.data.leaks import Ground
from rscd.data.plotted import Plotted
from rscd.data.review_labels import LoadedReview, ReviewLabels
from rscd.data.scene_files import Scene, expand, say_read_otherwise
from rscd.data.scene_labels import (
    BuildingDifference,
    LabelLayer,
    LoadedPolygons,
    Polygons,
    bounds_of,
    burn,
    check_agreement,
    crs_of,
    open_layer,
)
from rscd.geo.grid import apply, compose, crs_name, footprint_px, shape_hw
from rscd.geo.labels import MaskRule
from rscd.geo.pictures import has_pixel_coordinates
from rscd.geo.scene import ScenePair
from rscd.geo.tiles import Box
from rscd.geo.vectors import is_empty

__all__ = ["Scene", "ScenePairs"]

log = logging.getLogger(__name__)

Sample = dict[str, Any]
KEYS = frozenset({"image", "mask", "valid", "label"})
"""Keys that are no layers."""
SLACK = 0.1
"""Fraction of its sides by which a changed place may exceed a patch: cells of a grid in another CRS
are turned a little."""
SAME_RES = 1e-6
"""Two pixel sizes are equal if they differ by less than this fraction."""


Layers = dict[str, LabelLayer]
"""Label layers of a scene by key; ``mask`` is the change between the dates."""


@dataclass(frozen=True, eq=False)
class Placed:
    """A scene on a grid of the dataset, ready to be read."""

    scene: Scene
    pair: ScenePair
    layers: Layers
    area: LabelLayer | None
    answer: Answer | None = None
    """The answered place that patches are drawn from; None: the scene."""
    focus: Any = None
    """Another place that patches are drawn from; all around it is valid."""

    @property
    def name(self) -> str:
        """Name of the scene."""
        return self.scene.title

    @property
    def ground(self) -> shapely.Geometry:
        """What patches are drawn from, in the CRS of the grid: place, area or whole scene."""
        if self.answer is not None:
            return self.answer.place
        if self.focus is not None:
            return self.focus
        whole = shapely.box(*bounds_of(self.pair.grid))
        if not isinstance(self.area, LoadedPolygons):
            return whole
        return shapely.intersection(shapely.union_all(self.area.geometries), whole)


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
    * ``label`` () int64: 1 if the patch has change, from the mask or the scene's answers;
    * any other key, such as ``vl_change``: a layer of the scenes, (1,H,W) int64 as ``mask``.

    Where ``label`` comes from answers, the index has one row per answered place: samplers draw
    patches from these places, and what lies outside the place is invalid, so that the answer holds
    for what the patch shows.
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
        layer_values: MaskRule = "strict",
        min_change_pixels: int = 1,
        transforms: Callable[[Sample], Sample] | None = None,
    ) -> None:
        """Inspect every file once; no pixel is read, except label rasters under ``strict``.

        Args:
            scenes: the scenes.
            keys: keys of a sample; default image, valid and what every scene has of mask, label and
                layers. Label files are opened only for requested keys.
            crs: CRS of the dataset; default that of the first scene.
            res: pixel size in CRS units, one number or (x, y); default that of the first scene.
            align: the date whose grid a scene uses, see :meth:`rscd.geo.scene.ScenePair.open`.
            bands: 1-based bands, the same for both dates; default all but alpha.
            src_nodata: nodata value of all images.
            mask_values: how stored values of label rasters are read.
            layer_values: the same for rasters of further layers.
            min_change_pixels: changed pixels from which ``label`` is 1.
            transforms: applied to each sample.

        Raises:
            DataError: for unusable labels or answers, or if only some scenes have a CRS.
            SceneError: for an unusable image; the message names it.
        """
        listed = [scenes] if isinstance(scenes, Scene) else list(scenes)
        for other in (scene for scene in listed if not isinstance(scene, Scene)):
            raise DataError(
                f"expected scenes as rscd.data.scenes.Scene, found {type(other).__name__}; write "
                "Scene(t1=..., t2=...), of a dictionary Scene(**it)"
            )
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
        from_review = {scene.review for scene in listed if not scene.t1}
        for scene, pair in zip(self.scenes, self._pairs, strict=True):
            if scene.review is not None and scene.review in from_review:
                say_read_otherwise(scene, pair, src_nodata)
        self._rules = mask_values, layer_values
        self._layers = [
            self._opened(scene, pair) for scene, pair in zip(self.scenes, self._pairs, strict=True)
        ]
        for key in sorted({key for layers, *_ in self._layers for key in layers}):
            alike = (layers[key] for layers, *_ in self._layers if key in layers)
            check_agreement(_of_dates(alike), "mask_values" if key == "mask" else "layer_values")
        first = self._pairs[0].grid
        own = crs_of(first)
        self._place(own if crs is None else CRS.from_user_input(crs), _res_of(first, own, crs, res))
        self._say_untouched()

    def __getitem__(self, query: Any) -> Sample:
        """Read a patch; see `locate`.

        Raises:
            DataError: for unreadable labels, or a patch smaller than its changed place.
            SceneError: for an unreadable image; the message names it.
        """
        return self._sample(*self.locate(query))

    def locate(self, query: Any) -> tuple[Placed, Box]:
        """The scene and the pixels of its grid that a query reads.

        Args:
            query: ``[xmin:xmax, ymin:ymax, tmin:tmax]`` in the dataset's CRS, all optional. Among
                several scenes the one nearest to these dates is read; among ties, the one that
                covers most of the box. Pictures without georeferencing have y = -row; rows that
                count downwards (y from 0) are accepted too.

        Raises:
            IndexError: if there is no scene.
            DataError: for another pixel size than the dataset's.
        """
        x, y, t = self._disambiguate_slice(query)
        if 0 <= y.start < y.stop and has_pixel_coordinates(self._pairs[0].grid):
            y = slice(-y.stop, -y.start, y.step)
        placed = self.places[self._hit(x, y, t, query)]
        if not _close((x.step, y.step), self.res):
            raise DataError(
                f"expected a query in the dataset's pixel size {self.res}, found {x.step, y.step}; "
                "set res= of the dataset"
            )
        return placed, _box_of(placed.pair.grid, x, y)

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

    @property
    def eight_bit(self) -> bool:
        """Whether all images have 8-bit values."""
        return all(date.dtype == "uint8" for pair in self._pairs for date in (pair.t1, pair.t2))

    def ground(self) -> list[Ground]:
        """What patches are drawn from, to compare with another dataset."""
        return [
            Ground(
                place.name,
                frozenset(place.pair.files),
                place.scene.dates,
                place.ground,
                crs_of(place.pair.grid),
                max(self.res),
            )
            for place in self.places
        ]

    def _chosen_keys(
        self, keys: Sequence[str] | set[str] | frozenset[str] | None
    ) -> frozenset[str]:
        had = [_keys_of(scene) for scene in self.scenes]
        if keys is None:
            return frozenset.intersection(*had)
        check_names(keys, sorted(KEYS.union(*had, LAYERS)), "keys of scenes", DataError)
        for scene, known in zip(self.scenes, had, strict=True):
            for key in sorted(set(keys) - known):
                raise DataError(
                    f"{scene.t1}: {key} was requested, but {_LACKS.get(key, _NO_LAYER)}"
                )
        return frozenset(keys)

    def _opened(self, scene: Scene, pair: ScenePair) -> tuple[Layers, Any, LabelLayer | None]:
        """Layers, answers and area of a scene, opened but not yet read."""
        layers: Layers = {}
        area = None if scene.area is None else Polygons(scene.area, role="area")
        for key in sorted(self.keys - KEYS):
            layers[key] = open_layer(scene.layer_paths()[key], pair.t1.grid, self._rules[1])
        if scene.review is not None and self.keys & {"mask", "label"}:
            review = ReviewLabels(scene.review)
            return layers | ({"mask": review} if "mask" in self.keys else {}), review, area
        by_answer = "label" in self.keys and scene.answers is not None
        if "mask" in self.keys or ("label" in self.keys and not by_answer):
            layers["mask"] = _change_layer(scene, pair, self._rules[0])
        answers = open_answers(scene.answers or "", pair.grid, scene.title) if by_answer else None
        return layers, answers, area

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

    def _say_untouched(self) -> None:
        """Warn of polygons that lie in no scene: nothing would be change, or a building."""
        met: Counter[tuple[str, str]] = Counter()
        scenes = {id(place.pair): place for place in self.places}
        for place in scenes.values():
            box = bounds_of(place.pair.grid)
            for key, layer in place.layers.items():
                for one in _of_dates([layer]):
                    if isinstance(one, LoadedPolygons):
                        met[one.path, key] += _touches(one.geometries, box)
        for (path, key), count in met.items():
            if not count and not is_empty(path):
                log.warning(
                    "no polygon of %s lies in a scene, so %s gets nothing from it: if that is not "
                    "meant, check its CRS, and where= if that is given",
                    *(redacted(path), key),
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
        found = [
            place
            for scene, pair, opened in zip(self.scenes, pairs, self._layers, strict=True)
            for place in _placed(scene, pair, *opened)
        ]
        if not found:
            first = self.scenes[0]
            asked = first.answers or first.review or first.area
            raise DataError(
                f"expected places in the scenes to draw patches from, found none of {asked} there; "
                "check its CRS and what is answered"
            )
        self.places = tuple(found)
        """What patches are drawn from, by the column ``place`` of the index."""
        self.index = geopandas.GeoDataFrame(
            {"place": range(len(found))},
            index=pd.IntervalIndex(
                [_interval(place.scene, i) for i, place in enumerate(found)],
                closed="both",
                name="datetime",
            ),
            geometry=[shapely.box(*place.ground.bounds) for place in self.places],
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
        return int(self.index["place"].iloc[best])

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
        if placed.answer is not None:
            _check_whole(placed, box)
            valid &= burn([placed.answer.place], grid) == 1
            image[:, :, ~valid] = 0
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
        usable = valid if placed.area is None else valid & (placed.area.read(grid) == 1)
        read = {key: _read(layer, grid, usable) for key, layer in placed.layers.items()}
        for key in self.keys & read.keys():
            sample[key] = torch.from_numpy(read[key][None].astype(np.int64))
        if "label" in self.keys:
            sample["label"] = torch.tensor(
                int(placed.answer.changed)
                if placed.answer is not None
                else image_label(read["mask"], self.min_change_pixels, IGNORE)
            )
        return self.transforms(sample) if self.transforms is not None else sample


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


_LACKS = {
    "mask": "this scene has neither labels nor buildings; add one, or remove the scene",
    "label": "this scene has no labels, buildings or answers; add one, or remove the scene",
}
_NO_LAYER = (
    "the layers of this scene do not name it; add its file, or layers: FOLDER of "
    "rscd pseudolabel T1 T2 --segmenter NAME -o FOLDER"
)


def _keys_of(scene: Scene) -> frozenset[str]:
    """Keys that the files of a scene can give."""
    masks = any(own is not None for own in (scene.labels, scene.buildings, scene.review))
    keys = {"image", "valid", *scene.layer_paths()} | ({"mask"} if masks else set())
    return frozenset(keys | ({"label"} if masks or scene.answers is not None else set()))


def _change_layer(scene: Scene, pair: ScenePair, rule: MaskRule) -> LabelLayer:
    """Change between the dates of a scene, opened but not yet read."""
    like = pair.t1.grid
    if scene.buildings is None:
        return open_layer(scene.labels or "", like, rule, where=scene.where)
    if scene.labels is not None:
        raise DataError(f"{scene.t1}: expected labels or buildings, found both; remove one")
    sides = [
        open_layer(path, grid, rule, where=scene.where, id_field=scene.building_id)
        for path, grid in zip(scene.buildings, (like, pair.t2.grid), strict=True)
    ]
    return BuildingDifference(sides[0], sides[1])


def _touches(geometries: NDArray[Any], box: Bounds) -> bool:
    """Whether the bounds of any geometry meet a box."""
    left, bottom, right, top = shapely.bounds(geometries).T
    return bool(((left <= box[2]) & (right >= box[0]) & (bottom <= box[3]) & (top >= box[1])).any())


def _of_dates(layers: Iterable[LabelLayer]) -> Iterator[LabelLayer]:
    """Layers, and those of both dates in place of building layers."""
    for layer in layers:
        yield from (layer.t1, layer.t2) if isinstance(layer, BuildingDifference) else (layer,)


def _placed(
    scene: Scene, pair: ScenePair, layers: Layers, answers: Any, area: LabelLayer | None
) -> list[Placed]:
    """The parts of a scene that patches are drawn from: its answered places, or one."""
    bounds, crs = bounds_of(pair.grid), crs_of(pair.grid)
    here = {key: layer.within(bounds, crs) for key, layer in layers.items()}
    area = None if area is None else area.within(bounds, crs)
    whole = Placed(scene, pair, here, area)
    if isinstance(answers, ReviewLabels):
        return _reviewed(whole, answers.within(bounds, crs))
    if answers is not None:
        found = answers_in(answers.within(bounds, crs), pair.grid, area)
        return [replace(whole, answer=answer) for answer in found]
    return [] if whole.ground.is_empty else [whole]


def _reviewed(whole: Placed, review: LoadedReview) -> list[Placed]:
    """The surroundings of each decided polygon; answered ones where no mask is wanted."""
    grid, ground = whole.pair.grid, whole.ground
    if "mask" in whole.layers:
        return [replace(whole, focus=place) for place in review.places(grid, ground)]
    return [replace(whole, answer=answer) for answer in review.answers(grid, ground)]


def _check_whole(placed: Placed, box: Box) -> None:
    """A patch gets the answer "changed" only with the whole place that it is about."""
    if placed.answer is None or not placed.answer.changed:
        return
    left, bottom, right, top = placed.answer.place.bounds
    whole = _box_of(placed.pair.grid, slice(left, right), slice(bottom, top))
    if max(whole.height / box.height, whole.width / box.width) > 1 + SLACK:
        raise DataError(
            f"{placed.name}: expected patches that hold a whole changed place, found one of "
            f"{whole.height} x {whole.width} pixels and patches of {box.height} x {box.width}; "
            "raise patch_size, or answer for smaller places"
        )


def _box_of(grid: GeoBox, x: slice, y: slice) -> Box:
    """Pixels of a rectangle in CRS units, snapped to the grid."""
    cols, rows = apply(~grid.affine, np.array([x.start, x.stop]), np.array([y.start, y.stop]))
    height, width = (max(1, round(float(np.ptp(ends)))) for ends in (rows, cols))
    return Box(round(float(rows.min())), round(float(cols.min())), height, width)


def grid_of(grid: GeoBox, box: Box) -> GeoBox:
    """The grid of a box of pixels, which may extend beyond the scene."""
    moved = compose(grid.affine, Affine.translation(box.col, box.row))
    return GeoBox(box.shape_hw, moved, grid.crs)


def _read(layer: LabelLayer, grid: GeoBox, usable: BoolArray) -> ByteArray:
    """(H,W) uint8: 0, 1, and 255 where there is no label or the pixel is not usable."""
    values = layer.read(grid)
    values[~usable] = IGNORE
    return values
