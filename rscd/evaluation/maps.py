"""Evaluation of a finished change map against a reference, in any CRS, in bounded memory."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling

from rscd.base.border import border, reason, shown
from rscd.base.errors import DataError, UsageError
from rscd.base.redact import redacted
from rscd.base.types import IGNORE, ByteArray, FloatArray, Progress, silent
from rscd.evaluation.judge import Scratch, only_counted
from rscd.evaluation.layers import (
    Reader,
    check_overlap,
    check_probability,
    classes_of,
    open_source,
    polygons_on,
)
from rscd.evaluation.report import Pixels, Probabilities, Report, Sample, extremes, pooled
from rscd.export.atomic import output_error
from rscd.geo.changemap import binarise
from rscd.geo.grid import grid_text, shape_hw
from rscd.geo.labels import Values, one_band
from rscd.geo.measure import PixelAreas, ground_of
from rscd.geo.onto import BandReader, opened, raster_on
from rscd.geo.source import Source
from rscd.geo.tiles import Box, plan_tiles
from rscd.geo.vectors import is_vector
from rscd.inference.memory import GDAL_CACHE
from rscd.metrics.pixels import count

if TYPE_CHECKING:  # torch and matplotlib, without which classes are compared
    from rscd.evaluation.sheet import Row
    from rscd.metrics.probabilities import ChangeMetrics

SQUARE_PX = 256
"""Side of the squares in which a map is read and which a sheet shows."""

DEFAULT_THRESHOLD = 0.5
"""Threshold of probability rasters that do not store one."""


@dataclass(frozen=True)
class MapOptions:
    """How to read prediction and truth."""

    threshold: float | None = None
    """For probability rasters; None uses the one stored in them."""
    change_values: tuple[float, ...] | None = None
    """Values of change in a truth raster."""
    predicted_values: tuple[float, ...] | None = None
    """Values of change in a prediction raster."""
    unlabelled: tuple[float, ...] | None = None
    """Unlabelled values of a truth raster; None uses its declared nodata."""
    missing_is_no_change: bool = False
    """Count labelled pixels without prediction as predicted "no change" instead of omitting
    them."""
    like: str | None = None
    """Raster whose grid is used; required if prediction and truth are both vectors."""


def evaluate_maps(
    prediction: str | Path,
    truth: str | Path,
    options: MapOptions = MapOptions(),
    *,
    images: tuple[str, str] | None = None,
    sheet: "Callable[[Sequence[tuple[str, Sample, Row]]], None] | None" = None,
    errors: Callable[[geopandas.GeoDataFrame], None] | None = None,
    progress: Progress = silent,
) -> Report:
    """Compare a predicted raster or vector with a truth raster or vector.

    Both are brought onto the pixels of ``options.like``, else of the truth raster, else of the
    prediction raster: rasters by the nearest pixel, polygons by pixel centres. Objects are the
    4-connected regions of change there. Pixels without label, and pixels with label but without
    prediction, are ignored in pixel and object counts; the fraction of the latter is reported.

    Args:
        prediction: raster of classes (such as uint8) or of probabilities (float), or polygons of
            change, which imply "no change" everywhere else.
        truth: raster of classes, or polygons of change.
        options: meaning of stored values.
        images: t1 and t2 for the sheet.
        sheet: called with the group, sample and row of the best, median and worst squares.
        errors: called with the objects, see `rscd.evaluation.judge.Judged.table`.
        progress: progress callback, called after each square.

    Raises:
        RscdError: anything the user must fix.
    """
    grid = _grid(prediction, truth, options)
    squares = [tile.write for tile in plan_tiles(shape_hw(grid), SQUARE_PX)]
    with ExitStack() as stack:
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rscd-")))
        try:
            scratch = Scratch.create(folder, shape_hw(grid))
        except OSError as error:
            raise output_error(folder / "scratch", error) from error
        read_truth = stack.enter_context(_truth_on(truth, grid, options))
        predict = stack.enter_context(_prediction_on(prediction, grid, options))
        read_images = stack.enter_context(_images_on(images, grid))
        tally = _Tally.empty(predict.threshold, grid)
        for number, box in enumerate(squares):
            tally.add(number, box, predict.read(box), read_truth(box), scratch, options)
            progress("reading", number + 1, len(squares))
        report = tally.report(_subject(prediction, truth, grid), scratch)
        if errors is not None:
            errors(scratch.judged().table(Path(prediction).name, grid))
        if sheet is not None:
            chosen = extremes(report.samples)
            rows = [_row(squares[sample.index], scratch, read_images) for _, sample in chosen]
            sheet([(*known, row) for known, row in zip(chosen, rows, strict=True)])
    return report


def _grid(prediction: str | Path, truth: str | Path, options: MapOptions) -> GeoBox:
    if options.like is not None:
        return open_source("the grid", options.like).grid
    for role, path in (("the truth", truth), ("the prediction", prediction)):
        if not is_vector(path):
            return open_source(role, path).grid
    raise UsageError(
        "expected a raster among prediction and truth, found two vectors; name one whose pixel "
        "grid to use with --like, such as the later image"
    )


@contextmanager
def _truth_on(path: str | Path, grid: GeoBox, options: MapOptions) -> Iterator[Reader]:
    if is_vector(path):
        if options.change_values is not None or options.unlabelled is not None:
            raise UsageError(
                f"expected a truth raster for --change-value and --unlabelled, found {path}; drop "
                "them: inside a polygon is change, outside is no change"
            )
        yield polygons_on("the truth", path, grid)
        return
    source = open_source("the truth", path)
    check_overlap(source, grid)
    with raster_on(source, grid) as read:
        yield classes_of(source, read, Values(options.change_values, options.unlabelled))


@dataclass(frozen=True)
class _Predicted:
    read: Callable[[Box], ByteArray | FloatArray]
    """(h,w): classes 0, 1 and 255, or probabilities with NaN."""
    threshold: float | None
    """None for classes."""


@contextmanager
def _prediction_on(path: str | Path, grid: GeoBox, options: MapOptions) -> Iterator[_Predicted]:
    if is_vector(path):
        given = {"--threshold": options.threshold, "--predicted-value": options.predicted_values}
        if unused := [name for name, value in given.items() if value is not None]:
            raise UsageError(
                f"expected a raster for {unused[0]}, found polygons in {path}; drop it"
            )
        yield _Predicted(polygons_on("the prediction", path, grid), None)
        return
    source = open_source("the prediction", path)
    check_overlap(source, grid)
    with raster_on(source, grid) as read:
        if np.issubdtype(np.dtype(source.dtype), np.floating) and options.predicted_values is None:
            stated = options.threshold
            threshold = _own_threshold(source) if stated is None else stated
            yield _Predicted(_probabilities(source, read), threshold)
            return
        if options.threshold is not None:
            raise UsageError(
                f"expected a raster of probabilities for --threshold, found classes in {path}; "
                "drop the option or give the raster of rscd predict --prob"
            )
        yield _Predicted(classes_of(source, read, Values(options.predicted_values)), None)


def _own_threshold(source: Source) -> float:
    """The threshold that `rscd predict` stored in a raster, else `DEFAULT_THRESHOLD`."""

    def to_error(error: Exception) -> DataError:
        return DataError(
            f"expected the threshold that rscd predict stored in {shown(source.path)}, found "
            f"damage ({reason(error)}); give --threshold"
        )

    with border(to_error):
        with opened(source) as dataset:
            text = dataset.tags().get("rscd_provenance", "{}")
        threshold = float(json.loads(text).get("threshold", DEFAULT_THRESHOLD))
        if not 0 <= threshold <= 1:
            raise ValueError(f"{threshold} instead of 0 to 1")
        return threshold


def _probabilities(source: Source, read: BandReader) -> Callable[[Box], FloatArray]:
    def probabilities(box: Box) -> FloatArray:
        values, covered = read(box)
        own = one_band(f"{source.date} {source.path}", values)
        prob: FloatArray = own.astype(np.float32)
        if source.nodata is not None:
            covered &= own != source.nodata
        prob[~covered] = np.nan
        check_probability(f"{source.date} {source.path}", prob)
        return prob

    return probabilities


@dataclass
class _Tally:
    threshold: float | None
    metrics: "ChangeMetrics | None"
    """None for classes."""
    samples: list[Sample]
    pixel_areas: PixelAreas
    area_m2: dict[str, float]
    unlabelled: int = 0
    without_prediction: int = 0

    @classmethod
    def empty(cls, threshold: float | None, grid: GeoBox) -> "_Tally":
        areas = ground_of(grid).pixel_areas_m2(shape_hw(grid))
        metrics = None
        if threshold is not None:
            from rscd.metrics.probabilities import ChangeMetrics

            metrics = ChangeMetrics(threshold)
        return cls(threshold, metrics, [], areas, defaultdict(float))

    def add(
        self,
        number: int,
        box: Box,
        predicted: ByteArray | FloatArray,
        true: ByteArray,
        scratch: Scratch,
        options: MapOptions,
    ) -> None:
        classes = (
            predicted.astype(np.uint8)
            if self.threshold is None
            else binarise(predicted.astype(np.float32), self.threshold)
        )
        self.unlabelled += int(np.count_nonzero(true == IGNORE))
        missing = (classes == IGNORE) & (true != IGNORE)
        if options.missing_is_no_change:
            classes[missing] = 0
        else:
            self.without_prediction += int(np.count_nonzero(missing))
        classes, true = only_counted(classes, true)
        if self.metrics is not None:
            import torch

            prob = np.nan_to_num(predicted.astype(np.float32))
            self.metrics.update(torch.from_numpy(prob), torch.from_numpy(true))
        name = f"row {box.row}, column {box.col}"
        self.samples.append(Sample(name, number, count(classes, true)))
        found, there = classes == 1, true == 1
        for kind, mask in (("predicted", found), ("true", there), ("hit", found & there)):
            self.area_m2[kind] += self.pixel_areas.total(mask, box.row, box.col)
        scratch.write(box, classes, true)

    def report(self, subject: dict[str, Any], scratch: Scratch) -> Report:
        counts = pooled(self.samples)
        counted = sum(counts.true)
        if counted == 0:
            raise DataError(
                "expected pixels with a label and a prediction, found none "
                f"({self.unlabelled:,} without label, {self.without_prediction:,} with label but "
                "without prediction); check --unlabelled, --change-value and the nodata of both "
                "files"
            )
        return Report(
            subject=subject,
            threshold=self.threshold,
            counts=counts,
            pixels=Pixels(counted, self.unlabelled, self.without_prediction),
            objects=scratch.objects(),
            samples=self.samples,
            probabilities=None if self.metrics is None else Probabilities.of(self.metrics),
            area_m2=_areas(self.area_m2),
        )


def _areas(total: Mapping[str, float]) -> dict[str, float] | None:
    """Square metres of change by kind; None if the pixel size is unknown."""
    if not np.isfinite(list(total.values())).all():
        return None
    return dict(total) | {
        "false_positive": total["predicted"] - total["hit"],
        "false_negative": total["true"] - total["hit"],
    }


@contextmanager
def _images_on(images: tuple[str, str] | None, grid: GeoBox) -> Iterator[list[BandReader]]:
    with ExitStack() as stack:
        readers = []
        for date, path in zip(("t1", "t2"), images or (), strict=False):
            source = open_source(date, path)
            check_overlap(source, grid)
            readers.append(stack.enter_context(raster_on(source, grid, Resampling.bilinear)))
        yield readers


def _row(box: Box, scratch: Scratch, images: Sequence[BandReader]) -> "Row":
    from rscd.evaluation.sheet import Row

    dates = []
    for read in images:
        values, covered = read(box)
        dates.append(np.where(covered, values, 0).astype(np.float32))
    predicted, true = (raster.read(box) for raster in (scratch.predicted, scratch.true))
    return Row(np.stack(dates) if dates else None, predicted, true)


def _subject(prediction: str | Path, truth: str | Path, grid: GeoBox) -> dict[str, Any]:
    paths = {"prediction": redacted(str(prediction)), "truth": redacted(str(truth))}
    return paths | {"grid": grid_text(grid)}
