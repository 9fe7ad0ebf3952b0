"""Points to interpret: a stratified random sample of the pixels of a change map."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import shapely
from odc.geo.geobox import GeoBox
from pyproj import CRS

from rscd.base.errors import DataError, UsageError
from rscd.base.types import Progress, Provenance, silent
from rscd.base.version import version
from rscd.evaluation.layers import Reader, classes_of, open_source
from rscd.evaluation.strata import CHANGE, LEAST, Strata, allocate, count_strata, draw
from rscd.export.style import point_qml
from rscd.export.vector import write_vector
from rscd.geo.grid import apply, shape_hw
from rscd.geo.labels import Values
from rscd.geo.measure import ground_of
from rscd.geo.onto import raster_on
from rscd.geo.table import feature_table
from rscd.geo.vectors import is_vector
from rscd.pipeline.provenance import describe_file

LAYER = "points"
"""Name of the layer in formats that name layers."""

REFERENCE = "reference"
"""Column of the interpreter's answer: one of `rscd.export.style.REFERENCE_WORDS`, or empty."""


@dataclass(frozen=True)
class PointOptions:
    """How points are drawn."""

    number: int = 300
    strata: Strata = field(default_factory=Strata)
    least: int = LEAST
    """Points in each stratum, where it has as many pixels."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class SamplePoints:
    """The points, and how they were drawn."""

    table: geopandas.GeoDataFrame
    """One row per point: ``id`` (from 1, in random order: the first k are a random sample too),
    ``stratum``, ``map`` (0 or 1), ``reference`` and ``note`` (empty), ``pixel_m2`` (area of the
    pixel), and of its stratum ``stratum_pixels``, ``stratum_m2`` and ``stratum_points``. Square
    metres are null where the pixel size is unknown."""
    provenance: Provenance
    empty: tuple[str, ...]
    """Strata without a pixel."""


@contextmanager
def map_classes(path: str | Path) -> Iterator[tuple[Reader, GeoBox]]:
    """Read a change map as 0 no change, 1 change and 255 nodata, and its grid.

    Raises:
        DataError: polygons, probabilities, or other values than those of change.
        SceneError: it cannot be read.
    """
    if is_vector(path):
        raise DataError(
            f"expected a change map as raster, found polygons in {path}; write it with rscd "
            "predict ... -o change.tif"
        )
    source = open_source("the map", path)
    if np.issubdtype(np.dtype(source.dtype), np.floating):
        raise DataError(
            f"expected a change map of classes in {path}, found {source.dtype}, as "
            "probabilities are; give the mask that rscd predict -o change.tif wrote"
        )
    with raster_on(source, source.grid) as read:
        yield classes_of(source, read, Values()), source.grid


def sample_points(
    path: str | Path, options: PointOptions = PointOptions(), progress: Progress = silent
) -> SamplePoints:
    """Draw pixels of a change map at random, so many in each stratum.

    Memory does not grow with the map. The same map, options and version of NumPy give the same
    points.

    Args:
        path: raster of 0 no change, 1 change, 255 nodata, as `rscd predict` writes it.
        options: how many, and where.
        progress: progress callback, called after each square.

    Raises:
        DataError: the map has no pixel with data, or no change map is there.
        UsageError: too few points for the minimum of each stratum.
    """
    with map_classes(path) as (read, grid):
        census = count_strata(read, grid, options.strata, progress)
        sizes = dict(zip(options.strata.names, census.sizes.tolist(), strict=True))
        present = {name: size for name, size in sizes.items() if size}
        if not present:
            raise DataError(
                f"expected pixels with data in {path}, found none; check its nodata value"
            )
        given = allocate(present, options.number, options.least)
        points = [given.get(name, 0) for name in sizes]
        random = np.random.default_rng(options.seed)
        drawn = draw(read, grid, options.strata, census, points, random)
        classes = np.array(options.strata.names)[drawn.stratum] == CHANGE
    ground = ground_of(grid).pixel_areas_m2(shape_hw(grid))
    columns: dict[str, Any] = {
        "stratum": np.array(options.strata.names)[drawn.stratum],
        "map": classes.astype(np.int64),
        "pixel_m2": ground.at(drawn.rows, drawn.cols),
        "stratum_pixels": census.sizes[drawn.stratum],
        "stratum_m2": census.areas_m2[drawn.stratum],
        "stratum_points": np.array(points)[drawn.stratum],
    }
    x, y = apply(grid.affine, drawn.cols + 0.5, drawn.rows + 0.5)
    order = random.permutation(len(drawn.rows))
    table = _table(
        {name: values[order] for name, values in columns.items()}, x[order], y[order], grid
    )
    provenance: Provenance = {
        "software": f"rscd {version()}",
        "map": describe_file(path),
        "points": asdict(options),
        "strata": {
            name: {"pixels": size, "points": given.get(name, 0)} for name, size in sizes.items()
        },
    }
    return SamplePoints(table, provenance, tuple(name for name in sizes if name not in present))


def _table(columns: dict[str, Any], x: Any, y: Any, grid: GeoBox) -> geopandas.GeoDataFrame:
    asked: dict[str, Any] = {"id": np.arange(1, len(x) + 1), "stratum": columns.pop("stratum")}
    asked |= {"map": columns.pop("map"), REFERENCE: None, "note": None} | columns
    crs = None if grid.crs is None else CRS(grid.crs)
    table = feature_table(asked, shapely.points(x, y), crs, own=("id",))
    for name in ("stratum", REFERENCE, "note"):
        table[name] = table[name].astype("string")
    return table


def write_points(points: SamplePoints, path: Path) -> None:
    """Write points as a layer with a form for QGIS.

    Raises:
        OutputError: it cannot be written.
        UsageError: the suffix names no vector format.
    """
    write_vector(
        points.table,
        path,
        provenance=points.provenance,
        pixel_coordinates=True,
        style=point_qml(),
        layer=LAYER,
    )


def words(text: str) -> tuple[str, ...]:
    """``change,near,no-change`` as a tuple, without spaces around the names.

    Raises:
        UsageError: for an empty name.
    """
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise UsageError(f"expected names with commas between them, found {text!r}")
    return names
