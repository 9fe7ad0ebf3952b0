"""Comparison of a change mask with its truth, by pixels and by objects."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS

from rscd.base.errors import DataError
from rscd.base.types import IGNORE, BoolArray, ByteArray, Provenance, ShapeHW
from rscd.export.style import error_qml
from rscd.export.vector import write_vector
from rscd.geo.changemap import RawRaster
from rscd.geo.measure import Ground
from rscd.geo.polygons import Polygons, iou, mean_under, to_world, trace
from rscd.geo.table import feature_table
from rscd.geo.tiles import Box
from rscd.metrics.objects import ObjectCounts, match


@dataclass(frozen=True)
class Scratch:
    """Prediction and truth of one scene on disk: 0 no change, 1 change, 255 ignored.

    Objects are traced from disk, so memory depends on the polygons, not the pixels.
    """

    predicted: RawRaster
    true: RawRaster

    @classmethod
    def create(cls, folder: Path, shape_hw: ShapeHW) -> "Scratch":
        """Reserve the space.

        Raises:
            OSError: if there is not enough space.
        """
        rasters = (RawRaster(folder / f"{n}.img", shape_hw, "uint8") for n in ("predicted", "true"))
        scratch = cls(*rasters)
        scratch.predicted.create()
        scratch.true.create()
        return scratch

    def write(self, box: Box, predicted: ByteArray, true: ByteArray) -> None:
        """Store a box of both."""
        self.predicted.write(box, predicted)
        self.true.write(box, true)

    def judged(self) -> "Judged":
        """Compare the 4-connected regions of change of both."""
        return Judged.of(trace(self.predicted.path), trace(self.true.path))

    def objects(self) -> ObjectCounts:
        """Numbers of objects and of matches."""
        return self.judged().counts


@dataclass(frozen=True, eq=False)
class Judged:
    """Objects of one image in pixel coordinates, predicted and true."""

    predicted: Polygons
    """(N,) shapely polygons."""
    true: Polygons
    """(M,) likewise."""
    pairs: NDArray[np.intp]
    """(K,2) indices of matched objects, see `rscd.metrics.objects.match`."""

    @classmethod
    def of(cls, predicted: Polygons, true: Polygons) -> "Judged":
        """Match predicted and true objects."""
        return cls(predicted, true, match(predicted, true))

    @property
    def counts(self) -> ObjectCounts:
        """Numbers of objects."""
        return ObjectCounts(len(self.true), len(self.predicted), len(self.pairs))

    def table(
        self, name: str, grid: GeoBox, gsd_m: float | None = None, prob: Path | None = None
    ) -> geopandas.GeoDataFrame:
        """The objects as features, in the CRS of a grid.

        Args:
            name: of the image.
            grid: to whose pixels they refer.
            gsd_m: pixel size in metres, if the grid has no CRS.
            prob: raster of probabilities on the grid.

        Returns:
            Columns ``kind`` (``true``, ``false`` or ``missed``), ``name``, ``score`` (mean
            probability), ``iou`` (of true ones with the true object), ``area_m2`` and ``geometry``:
            that of the prediction, or of the truth where it was missed.
        """
        found, there = self.pairs.T
        missed = np.setdiff1d(np.arange(len(self.true)), there)
        polygons = np.concatenate([self.predicted, self.true[missed]])
        kind = np.repeat(["false", "missed"], [len(self.predicted), len(missed)]).astype(object)
        kind[found] = "true"
        shares = np.full(len(polygons), np.nan)
        shares[found] = iou(self.predicted[found], self.true[there])
        score = np.full(len(polygons), np.nan) if prob is None else mean_under(polygons, prob)
        crs = None if grid.crs is None else CRS(grid.crs)
        area = Ground(crs, grid.affine, gsd_m).areas_m2(polygons)
        columns = {"kind": kind, "name": name, "score": score}
        columns |= {"iou": shares, "area_m2": area}
        return feature_table(columns, to_world(polygons, grid.affine), crs)


def write_errors(
    tables: Sequence[geopandas.GeoDataFrame], path: Path, provenance: Provenance
) -> None:
    """Write the objects of all images as one layer, in the CRS of the first.

    Args:
        tables: of `Judged.table`, at least one.
        path: vector file.
        provenance: plain data on what was compared.

    Raises:
        DataError: if some images have a CRS and others have none.
        OutputError: if the file cannot be written.
    """
    crs = tables[0].crs
    if any((table.crs is None) != (crs is None) for table in tables):
        raise DataError(
            f"expected a CRS in all images or in none for {path}, found both; evaluate them apart"
        )
    moved = [table if table.crs == crs else table.to_crs(crs) for table in tables]
    layer = geopandas.GeoDataFrame(pd.concat(moved, ignore_index=True), crs=crs)
    layer.insert(0, "id", np.arange(1, len(layer) + 1))
    write_vector(layer, path, provenance=provenance, pixel_coordinates=True, style=error_qml())


def only_counted(predicted: ByteArray, true: ByteArray) -> tuple[ByteArray, ByteArray]:
    """Set both to 255 wherever either is, so that pixels and objects cover the same area.

    Args:
        predicted: (h,w) 0, 1 or 255 = no prediction.
        true: (h,w) 0, 1 or 255 = no label.
    """
    out = (predicted == IGNORE) | (true == IGNORE)
    return _with_ignored(predicted, out), _with_ignored(true, out)


def _with_ignored(mask: ByteArray, out: BoolArray) -> ByteArray:
    return np.where(out, np.uint8(IGNORE), mask)
