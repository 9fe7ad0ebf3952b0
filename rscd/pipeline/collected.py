"""What stands over all pairs of a batch: a table of runs, a layer of change, a STAC collection."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pyogrio
import shapely
from pyproj import CRS

from rscd.base.files import appearing, digest_of, require_as_written, write_whole, writing
from rscd.base.quiet import quiet
from rscd.base.types import Provenance
from rscd.base.version import version
from rscd.export.stac import write_collection
from rscd.export.vector import LAYER, write_vector
from rscd.geo.doubles import LEAST_SHARED, Found, without_doubles
from rscd.geo.table import feature_table
from rscd.geo.vectors import carried, gdal_path, read_layer, vector_border
from rscd.pipeline.pairs import Pair

RUNS = "runs.parquet"
COLLECTION = "collection.json"
NOTE = ".runs/collected.json"
FILES = (RUNS, "change.gpkg", "change.parquet", COLLECTION)

LONLAT = CRS("EPSG:4326")
"""CRS of the layer over pairs of several."""

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "t1", "t2", "aoi", "t1_date", "t2_date")),
        *((name, pa.string()) for name in ("status", "reason", "model")),
        *((name, pa.float64()) for name in ("seconds", "threshold", "area_m2", "changed_area_m2")),
        *((name, pa.int64()) for name in ("attempts", "n_polygons")),
        *((name, pa.int64()) for name in ("changed_pixels", "valid_pixels")),
        *((name, pa.string()) for name in ("t1_sha256", "t2_sha256", "model_sha256", "recipe")),
        ("outputs", pa.list_(pa.string())),
    ]
)
"""Columns of the table of runs."""

TAKEN = ("kind", "class", "score", "area_m2", "t1", "t2", "model")
"""Columns of the pairs' polygons that the layer over all keeps."""

log = logging.getLogger(__name__)


def item_path(folder: Path, name: str) -> Path:
    """STAC item of a pair of a batch."""
    return folder / name / f"{name}.json"


def collect(
    folder: Path,
    pairs: Sequence[Pair],
    lines: Mapping[str, Mapping[str, Any] | None],
    suffix: str | None,
) -> list[Path]:
    """Write the files over all pairs, unless they are there and nothing has changed.

    Args:
        folder: of the batch.
        pairs: all.
        lines: what became of each, by id.
        suffix: of the pairs' polygons; None: they have none, and there is no layer over all.

    Returns:
        The files.

    Raises:
        OutputError: one cannot be written.
    """
    found = [(pair, lines[pair.id] or {}) for pair in pairs]
    done = [(pair, line) for pair, line in found if line["status"] == "done"]
    layer = None if suffix is None else folder / f"change{suffix}"
    with_item = [pair.id for pair, line in done if line["item"]]
    wanted = [folder / RUNS, layer, folder / COLLECTION if with_item else None]
    files = [path for path in wanted if path is not None]
    note, state = folder / NOTE, digest_of([version(), [(p.plain(), line) for p, line in found]])
    if (
        note.is_file()
        and note.read_text(encoding="utf-8") == state
        and all(path.is_file() for path in files)
    ):
        return files
    with writing(folder / RUNS):
        _write_runs(folder / RUNS, found)
    if layer is not None:
        table, about = _joined(folder, suffix, done)
        write_vector(table, layer, provenance=about)
    if with_item:
        items = [item_path(folder, name) for name in with_item]
        write_collection(folder / COLLECTION, items, folder.absolute().name)
    if len(with_item) < len(done):
        log.warning(
            "%d pairs without dates are not in %s; give t1_date and t2_date",
            *(len(done) - len(with_item), COLLECTION),
        )
    with writing(note):
        write_whole(note, state)
    return files


def _write_runs(path: Path, found: Sequence[tuple[Pair, Mapping[str, Any]]]) -> None:
    rows = [_row(pair, line) for pair, line in found]
    table = pa.Table.from_pylist(rows, SCHEMA)
    with appearing(path) as part:
        pyarrow.parquet.write_table(table, part)
        require_as_written(pyarrow.parquet.read_table(part).equals(table), path.name)


def _row(pair: Pair, line: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the table of runs."""
    hashes = {f"{name}_sha256": value for name, value in line.get("hashes", {}).items()}
    days = {f"{date}_date": day for date, day in line.get("days", {}).items()}
    known = pair.plain() | line.get("result", {}) | line | hashes | days
    known |= {"outputs": sorted(line["outputs"]) if line["status"] == "done" else []}
    return {name: known.get(name) for name in SCHEMA.names}


def _joined(
    folder: Path, suffix: str | None, done: Sequence[tuple[Pair, Mapping[str, Any]]]
) -> tuple[geopandas.GeoDataFrame, Provenance]:
    """The polygons of all pairs without doubles, and how they came about."""
    layers = [
        _read(folder / pair.id / f"change{suffix}", pair.id)
        for pair, line in done
        if line["result"]["n_polygons"]
    ]
    placed = [(table, crs) for table, crs in layers if crs is not None]
    if len(placed) < len(layers):
        log.warning(
            "%d pairs without georeferencing are not in change%s", len(layers) - len(placed), suffix
        )
    systems = {text: CRS(text) for _, text in placed}
    crs = next(iter(systems.values())) if len(systems) == 1 else LONLAT  # also where none changed
    tables = [
        table.assign(geometry=carried(table["geometry"].to_numpy(), systems[text], crs))
        for table, text in placed
    ]
    if tables:
        table = pd.concat(tables, ignore_index=True)
        table = table[_kept(table)].reset_index(drop=True)
    else:
        table = pd.DataFrame(columns=[*TAKEN, "pair", "geometry"])
    columns = {"id": np.arange(1, len(table) + 1), "pair": table["pair"]}
    columns |= {name: table[name] for name in TAKEN}
    about = {
        "software": f"rscd {version()}",
        "pairs": {pair.id: line["recipe"] for pair, line in done},
        "doubles": f"polygons of two pairs that share at least {LEAST_SHARED:g} of the smaller one",
        "omitted": sum(map(len, tables)) - len(table),
    }
    return feature_table(columns, table["geometry"].to_numpy(), crs), about


def _read(path: Path, pair: str) -> tuple[pd.DataFrame, str | None]:
    """Polygons of a pair, and the text of their CRS.

    A GeoPackage is read as `write_vector` writes it: `read_layer`, which expects anything, takes
    five times as long, and was most of what a small pair costs beside its comparison.
    """
    if path.suffix == ".gpkg":
        # of what pyogrio does with dates, NumPy 2.5 says that it will not be possible for ever
        numpy_warns = quiet("The 'generic' unit for NumPy timedelta", DeprecationWarning)
        with vector_border("polygons in", path), gdal_path(str(path)) as link, numpy_warns:
            about, _, shapes, values = pyogrio.raw.read(link, layer=LAYER, columns=TAKEN)
            geometry, crs = shapely.from_wkb(shapes), about["crs"]
        columns = dict(zip(about["fields"], values, strict=True))
    else:
        layer = read_layer(path, "polygons in")
        geometry, crs = layer.geometry.to_numpy(), layer.crs and str(layer.crs.srs)
        columns = {name: layer[name].to_numpy() for name in TAKEN}
    # copies: columns that GDAL gives share buffers of megabytes, however few the rows
    table = pd.DataFrame({name: np.array(columns[name], object) for name in TAKEN})
    return table.assign(pair=pair, geometry=geometry), crs


def _kept(table: pd.DataFrame) -> Any:
    """Which rows of the polygons of all pairs are no doubles."""
    return without_doubles(
        Found(
            polygons=table["geometry"].to_numpy(),
            pair=table["pair"].to_numpy(str),
            kind=table["kind"].to_numpy(str),
            start=pd.to_datetime(table["t1"]).to_numpy("datetime64[D]"),
            end=pd.to_datetime(table["t2"]).to_numpy("datetime64[D]"),
            score=table["score"].to_numpy(float),
        )
    )
