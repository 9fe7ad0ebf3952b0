"""Evaluation of a model on a labelled split: each pair is a small scene, counts are pooled."""

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import geopandas
import numpy as np
import torch
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.features import rasterize

from rscd.base.errors import DataError, RscdError, SceneError
from rscd.base.types import IGNORE, BoolArray, ByteArray, FloatArray, Progress, ShapeHW, silent
from rscd.data.folder import PairFolder
from rscd.data.street_conditions import StreetConditions
from rscd.evaluation.judge import Judged, Scratch, only_counted
from rscd.evaluation.report import (
    PROTOCOL,
    Pixels,
    Probabilities,
    Report,
    Sample,
    pooled,
)
from rscd.evaluation.sheet import Row
from rscd.export.vector import change_polygons
from rscd.geo.changemap import RawRaster, binarise
from rscd.geo.grid import is_georeferenced, pixel_size_m
from rscd.geo.labels import MaskRule
from rscd.geo.measure import ground_of
from rscd.geo.scene import ScenePair
from rscd.geo.tiles import Box, batches, reflect
from rscd.inference.predictor import Model, least_object, tile_side
from rscd.inference.shipped import SceneFacts
from rscd.inference.tiled import fit_model, model_tiles, run_block
from rscd.metrics.objects import ObjectCounts
from rscd.metrics.pixels import Counts, count
from rscd.metrics.probabilities import ChangeMetrics

log = logging.getLogger(__name__)

DATA_FAULTS = (DataError, SceneError, OSError)
"""Errors that may affect a single pair; any other affects all of them."""


@dataclass(frozen=True)
class MemoryPair:
    """Two dates in memory, read by boxes like a whole `rscd.geo.scene.ScenePair`."""

    image: FloatArray
    """(2,C,H,W) raw values, 0 where invalid."""
    valid: BoolArray
    """(H,W) usable at both dates."""

    @property
    def shape_hw(self) -> ShapeHW:
        """(height, width) in pixels."""
        return self.valid.shape[0], self.valid.shape[1]

    @property
    def whole(self) -> "MemoryPair":
        """The pair itself, which is never a part."""
        return self

    def inside(self, box: Box) -> BoolArray:
        """(h,w) true: the whole pair is requested."""
        return np.ones(box.shape_hw, bool)

    def context(self, box: Box) -> tuple[FloatArray, BoolArray]:
        """The same as `read`: there are no surroundings."""
        return self.read(box)

    def read(self, box: Box) -> tuple[FloatArray, BoolArray]:
        """Raw values and validity of a box; beyond the edges reflected and invalid."""
        height, width = self.shape_hw
        place = (
            reflect(box.row, box.row + box.height, height)[:, None],
            reflect(box.col, box.col + box.width, width),
        )
        image = np.ascontiguousarray(self.image[:, :, place[0], place[1]])
        return image, self.valid[place] & box.within(self.shape_hw)


def predict_pair(
    model: Model, image: FloatArray, valid: BoolArray, batch_size: int | None = None
) -> tuple[FloatArray, float]:
    """Predict one pair in the same way as a scene: fitted to it, tile by tile.

    A picture is predicted in one piece by networks that prefer that, and by those whose result
    depends on the tiling if it fits the patch they were trained on; as in `rscd.predict`.

    Args:
        model: is fitted to this pair only.
        image: (2,C,H,W) raw values.
        valid: (H,W) usable at both dates.
        batch_size: tiles per call; default the model's.

    Returns:
        (H,W) float32 probability, NaN where invalid; and the model's threshold.
    """
    # the engine uses only the attributes that `MemoryPair` has
    pair = cast(ScenePair, MemoryPair(image, valid))
    predictor = fit_model(pair, model)
    tiling = predictor.tiling
    side = tile_side(tiling, pair.shape_hw, picture=True)
    tiles = model_tiles(pair.shape_hw, side, tiling)
    prob = np.full(valid.shape, np.nan, np.float32)
    for group in batches(tiles, batch_size or tiling.batch_size):
        for piece in run_block(pair, predictor, group):
            prob[piece.tile.write.slices] = piece.prob
    return prob, predictor.threshold


def labelled_folder(
    root: str | Path,
    split: str | None,
    mask_values: MaskRule = "strict",
    bands: Sequence[int] | None = None,
    split_file: str | Path | None = None,
    *,
    gated: bool = False,
) -> PairFolder:
    """The pairs of a split, or of a part of a split file, to evaluate.

    Args:
        root: a folder of image pairs with masks.
        split: one split; None for all pairs.
        mask_values: how stored labels are read.
        bands: 1-based bands to use.
        split_file: a `rscd.data.splits.Split` on disk, of which ``split`` names a part.
        gated: whether image-level labels are needed.

    Raises:
        DataError: if there is no such folder, split or masks.
    """
    return PairFolder(
        root,
        split,
        keys={"image", "mask", "valid"} | ({"label"} if gated else set()),
        mask_values=mask_values,
        bands=bands,
        split_file=split_file,
    )


LabelledPairs = PairFolder | StreetConditions
"""Datasets to evaluate: samples have ``image``, ``mask`` and ``valid``."""


def facts(data: LabelledPairs, gsd_m: float | None) -> SceneFacts:
    """Facts about the pairs of a folder, from the first readable one.

    Args:
        data: the pairs.
        gsd_m: pixel size in metres, overriding that of the files.
    """
    sample = _first_readable(data)
    grid = grid_of(sample)
    return SceneFacts(
        int(sample["image"].shape[1]),
        pixel_size_m(grid) if gsd_m is None else gsd_m,
        georeferenced=is_georeferenced(grid),
        eight_bit=data.eight_bit,
    )


def _first_readable(data: LabelledPairs) -> dict[str, Any]:
    """The first pair that is not damaged; raises the first error if all are."""
    problem: Exception | None = None
    for index in range(len(data)):
        try:
            return data[index]
        except DATA_FAULTS as error:
            problem = problem or error
    raise problem or DataError(f"{data.root}: no pairs; check the folder")


def grid_of(sample: Mapping[str, Any]) -> GeoBox:
    """The pixel grid of a sample: in the CRS of its files, else in pixels."""
    height, width = sample["image"].shape[-2:]
    crs = sample.get("crs")
    if crs is None:
        return GeoBox((height, width), Affine.identity(), None)
    return GeoBox((height, width), sample["transform"], crs.to_wkt())


@dataclass(frozen=True)
class Split:
    """A labelled split and the model to evaluate."""

    data: LabelledPairs
    model: Model
    threshold: float | None
    """Overrides the model's threshold."""
    conditions: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Indices of pairs whose counts are also reported separately, by name."""
    min_area_m2: float | None = None
    """Smaller polygons are not objects; None uses the model's value, as in `rscd predict`."""
    min_score: float | None = None
    """Polygons with a lower score are not objects; likewise."""
    gsd_m: float | None = None
    """Pixel size in metres, if the files have none."""
    whole_map: Callable[[FloatArray], FloatArray] | None = None
    """(2,C,H,W) raw values -> (H,W) in [0,1]: a map of the whole pair in place of the model's
    prediction, such as `rscd.inference.views.ImageMaps`."""
    gated: bool = False
    """Whether pairs whose ``label`` is no change are predicted as such, as in the map tables of
    KD-MSI; samples then have the key ``label``."""
    exchanged: bool = False
    """Whether the model sees t2 first; truth and grid stay those of t2."""

    def predict(self, index: int) -> tuple[dict[str, Any], FloatArray, float]:
        """One sample, its (H,W) probabilities and the threshold used."""
        sample = self.data[index]
        try:
            prob, own = self._predicted(sample)
        except RscdError as error:
            raise type(error)(f"pair {sample['name']}: {error}") from error
        return sample, prob, own if self.threshold is None else self.threshold

    def _predicted(self, sample: Mapping[str, Any]) -> tuple[FloatArray, float]:
        """(H,W) probabilities, NaN where invalid, and the model's threshold."""
        image, valid = sample["image"].numpy(), sample["valid"][0].numpy()
        if self.exchanged:
            image = image[::-1]
        closed = self.gated and not bool(sample["label"])
        if not closed and self.whole_map is None:
            return predict_pair(self.model, image, valid)
        prob = np.zeros(valid.shape, np.float32)
        if not closed and self.whole_map is not None:
            prob = self.whole_map(np.ascontiguousarray(image)).astype(np.float32)
        prob[~valid] = np.nan
        # a map has no tiling; what it is compared with is chosen for the network
        return prob, float(self.model.card().get("threshold", PROTOCOL))

    def least_object(self, grid: GeoBox) -> tuple[float, float]:
        """Least area and score of the polygons of a pair on a grid."""
        known = is_georeferenced(grid) or self.gsd_m is not None
        return least_object(
            self.model.card(),
            size_known=known and pixel_size_m(grid, None if grid.crs else self.gsd_m) is not None,
            own_threshold=self.threshold is None,
            min_area_m2=self.min_area_m2,
            min_score=self.min_score,
        )

    def row(self, sample: Sample) -> Row:
        """Row of a sheet for a sample, which is predicted again because nothing was kept."""
        found, prob, threshold = self.predict(sample.index)
        predicted, true = only_counted(binarise(prob, threshold), _mask(found))
        return Row(found["image"].numpy(), predicted, true)


def evaluate_split(
    split: Split,
    progress: Progress = silent,
    *,
    errors: Callable[[geopandas.GeoDataFrame], None] | None = None,
) -> Report:
    """Predict every pair of a split and pool the counts.

    Objects are the polygons that `rscd predict` would write, of the model's least area and score.
    An unreadable pair is skipped and named in the report.

    Args:
        split: pairs and model.
        progress: progress callback, called after each pair.
        errors: called with the objects of each pair, see `rscd.evaluation.judge.Judged.table`.

    Raises:
        DataError: if no pair is readable, or the whole split has no labelled pixel.
        ModelError: if the bands do not match the model.
    """
    samples: list[Sample] = []
    objects = ObjectCounts()
    unlabelled = 0
    thresholds: set[float] = set()
    least: set[tuple[float, float]] = set()
    failed: dict[str, Exception] = {}
    metrics = ChangeMetrics()
    with tempfile.TemporaryDirectory(prefix="rscd-") as folder:
        for index, name in enumerate(split.data.names):
            progress("pairs", index, len(split.data))
            try:
                found, prob, threshold = split.predict(index)
            except DATA_FAULTS as error:
                log.error("%s", error)
                failed[name] = error
                continue
            mask = binarise(prob, threshold)
            predicted, true = only_counted(mask, _mask(found))
            metrics.update(torch.from_numpy(np.nan_to_num(prob)), torch.from_numpy(true))
            at_half, _ = only_counted(binarise(prob, PROTOCOL), _mask(found))
            samples.append(Sample(name, index, count(predicted, true), count(at_half, true)))
            grid = grid_of(found)
            least.add(split.least_object(grid))
            stored = _stored(Path(folder) / "whole-prob.img", prob)
            judged = _judged(split, grid, mask, true, stored)
            objects += judged.counts
            if errors is not None:
                errors(judged.table(name, grid, split.gsd_m, stored.path))
            unlabelled += int(np.count_nonzero(true == IGNORE))
            thresholds.add(threshold)
    progress("pairs", len(split.data), len(split.data))
    if failed and not samples:
        raise next(iter(failed.values()))
    counts = pooled(samples)
    if sum(counts.true) == 0:
        raise DataError(
            f"expected labelled pixels in {split.data.root}, found none in {len(samples)} pairs; "
            "check --unlabelled and the masks"
        )
    by_index = {sample.index: sample for sample in samples}
    parts = {
        name: [by_index[index] for index in indices if index in by_index]
        for name, indices in split.conditions.items()
    }
    return Report(
        subject={
            "dataset": str(split.data.root),
            "split": split.data.split or "all",
            "pairs": len(samples),
            "model": split.model.name,
        },
        threshold=thresholds.pop() if len(thresholds) == 1 else None,
        counts=counts,
        pixels=Pixels(sum(counts.true), unlabelled, 0),
        objects=objects,
        samples=samples,
        probabilities=Probabilities.of(metrics),
        area_m2=None,
        conditions={name: pooled(part) for name, part in parts.items()},
        protocol_conditions={
            name: sum((s.protocol for s in part if s.protocol is not None), Counts.none())
            for name, part in parts.items()
        },
        least_object=max(least),
        failed={name: str(error) for name, error in failed.items()},
    )


def _judged(
    split: Split, grid: GeoBox, mask: ByteArray, true: ByteArray, prob: RawRaster
) -> Judged:
    """Polygons that `rscd predict` would write compared with the truth, where pixels count.

    Args:
        split: says which polygons are too small or too weak.
        grid: of the pair.
        mask: (H,W) 0, 1, 255 where invalid.
        true: (H,W) 0, 1, 255 where not counted.
        prob: the probabilities; what else is needed on disk lies beside them.
    """
    shape, folder = prob.shape_hw, prob.path.parent
    area, score = split.least_object(grid)
    ground = ground_of(grid, split.gsd_m if grid.crs is None else None)
    whole = _stored(folder / "whole-mask.img", mask).path
    polygons = change_polygons(whole, prob.path, ground, min_area_m2=area, min_score=score)
    kept = np.zeros(shape, np.uint8)
    if len(polygons):
        kept = rasterize(polygons.geometry, shape, transform=grid.affine, dtype="uint8")
    kept[mask == IGNORE] = IGNORE
    scratch = Scratch.create(folder, shape)
    scratch.write(Box(0, 0, *shape), *only_counted(np.asarray(kept, np.uint8), true))
    return scratch.judged()


def _stored(path: Path, values: NDArray[Any]) -> RawRaster:
    raster = RawRaster(path, (values.shape[0], values.shape[1]), str(values.dtype))
    raster.create()
    raster.write(Box(0, 0, *raster.shape_hw), values)
    return raster


def _mask(sample: Mapping[str, Any]) -> ByteArray:
    mask: ByteArray = sample["mask"][0].numpy().astype(np.uint8)
    return mask
