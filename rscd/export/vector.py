"""Change polygons as a table, and the table as a file: the suffix selects the driver.

A GeoPackage contains style and provenance; GeoParquet contains the provenance. Otherwise the style
is written to ``<stem>.qml`` and the provenance to
``<name>.json`` (``change.geojson.json``) beside the file.
"""

import json
import logging
import os
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyarrow.parquet
import pyogrio
import pyproj
import shapely

from rscd.base.errors import OutputError, UsageError
from rscd.base.files import require_as_written, write_text
from rscd.base.quiet import quiet
from rscd.base.redact import redacted_data
from rscd.base.types import DateName, Provenance
from rscd.export.atomic import atomic_folder
from rscd.export.crs import check_crs
from rscd.export.readback import check_geopackage, check_layer
from rscd.export.style import change_qml
from rscd.geo.columns import distinct_names, for_ogr
from rscd.geo.dates import dates_of
from rscd.geo.measure import Ground
from rscd.geo.origin import PROVENANCE_KEY
from rscd.geo.polygons import Polygons, mean_under, to_world, trace
from rscd.geo.table import feature_table
from rscd.geo.vectors import cut_edges, gdal_path

logger = logging.getLogger(__name__)

STANDING = "standing"
"""Kind of an object that is there at one date, whatever became of it."""

KINDS = ("appeared", "vanished", "changed", STANDING)

LAYER = "changes"
"""Name of the layer of changes in formats that name layers."""

_DECIMALS = 7  # of a degree: RFC 7946, about a centimetre
# bytes of the file change counter and of the version it is valid for, which must be equal
# (https://www.sqlite.org/fileformat2.html#the_database_header)
_COMMITS_AT = (24, 92)
_GPKG_DATE = "2000-01-01T00:00:00.000Z"  # the format demands a date; the same input, the same bytes

_EXACT = 12
"""Decimals of coordinates in any CRS, finer than any file distinguishes."""


def change_polygons(
    mask_path: str | Path,
    prob_path: str | Path | None,
    ground: Ground,
    *,
    min_area_m2: float = 0.0,
    min_score: float = 0.0,
    simplify_m: float = 0.0,
    regularize: bool = False,
    model: str | None = None,
    class_name: str | None = None,
    t1: str | None = None,
    t2: str | None = None,
    kind: str = "changed",
    kinds_of: Callable[[Polygons], Any] | None = None,
    full: float = 1.0,
    measures: Mapping[str, Callable[[Polygons], Any]] | None = None,
) -> geopandas.GeoDataFrame:
    """Vectorise a change mask on disk, scored and measured.

    Args:
        mask_path: uint8 raster: 0 no change, 1 change, 255 nodata.
        prob_path: raster of the same shape, probability from 0 to ``full``; None leaves ``score``
            null.
        ground: How the pixels of both lie on it; without CRS and pixel size ``area_m2`` is null.
        min_area_m2: Polygons smaller than this are dropped, before simplification.
        min_score: Polygons of a lower score are dropped; those without a score are kept.
        simplify_m: Douglas-Peucker tolerance in metres on the ground; 0 keeps pixel outlines.
        regularize: Give polygons right angles or few vertices, see `rscd.geo.regularize`.
        model: Name of the model that made the mask.
        class_name: Class of the changed objects, if the model has one.
        t1: ISO date of the earlier image, with or without time.
        t2: ISO date of the later image.
        kind: One of `KINDS`.
        kinds_of: Gives the kinds of polygons in pixel coordinates, (N,), instead of ``kind``.
        full: Stored value of probability 1.
        measures: Further columns before ``t1``, by name: each gives (N,) values of polygons in
            pixel coordinates.

    Returns:
        One row per 4-connected region, ordered by first pixel: ``id`` (from 1), ``kind``,
        ``class``, ``score`` (mean probability of its pixels, 4 decimals), ``area_m2`` (of its
        pixels, before simplification), ``t1``, ``t2`` (days), ``model``, ``geometry``. The same
        columns and types when nothing changed.

    Raises:
        UsageError: Unknown kind, invalid or reversed dates, or metres requested with unknown pixel
            size.
        SceneError: A raster cannot be read.
    """
    if kind not in KINDS:
        raise UsageError(f"expected kind {', '.join(KINDS)}, found {kind!r}; choose one of them")
    days = dates_of((t1, t2))
    if min_area_m2 > 0:
        ground.require_metres("filter by area")
    if simplify_m > 0:
        ground.require_metres("simplify")
    polygons = trace(mask_path)
    areas = ground.areas_m2(polygons)
    if min_area_m2 > 0:
        large = areas >= min_area_m2
        polygons, areas = polygons[large], areas[large]
    scores = (
        np.full(len(polygons), np.nan)
        if prob_path is None
        else mean_under(polygons, prob_path) / full
    )
    if min_score > 0:
        sure = ~(scores < min_score)
        polygons, areas, scores = polygons[sure], areas[sure], scores[sure]
    columns = {
        "id": np.arange(1, len(polygons) + 1),
        "kind": kind if kinds_of is None else kinds_of(polygons),
        "class": class_name,
        "score": scores,
        "area_m2": areas,
        **{name: measure(polygons) for name, measure in (measures or {}).items()},
        "t1": days[0],
        "t2": days[1],
        "model": model,
    }
    outlines = ground.simplify(polygons, simplify_m)
    geometry = to_world(ground.regularize(outlines) if regularize else outlines, ground.transform)
    return feature_table(columns, geometry, ground.crs)


def objects_layer(date: DateName) -> str:
    """Name of the layer of what stands at a date."""
    return f"buildings_{date}"


def vector_files(path: str | Path) -> list[Path]:
    """Files that `write_vector` writes for a path: sidecars first, the file itself last.

    Raises:
        UsageError: The suffix is not one of `SUFFIXES`.
    """
    path = Path(path)
    form = _format(path)
    sidecars = []
    if form.style_beside:
        sidecars.append(path.with_suffix(".qml"))
    if form.provenance_beside:
        sidecars.append(path.with_name(f"{path.name}.json"))
    return [*sidecars, path]


def write_vector(
    polygons: geopandas.GeoDataFrame,
    path: str | Path,
    *,
    provenance: Provenance,
    layer_options: Mapping[str, str] | None = None,
    pixel_coordinates: bool = False,
    style: str | None = None,
    layer: str = LAYER,
) -> None:
    """Write change polygons; the suffix selects the format (`SUFFIXES`).

    ``.geojson`` is RFC 7946: longitude and latitude on WGS 84, at most 7 decimals, right-hand
    rings, polygons cut at the antimeridian. The other formats keep the CRS. The same polygons and
    provenance give byte-identical files. Everything is written in a hidden folder beside the target
    and renamed, the file itself last; existing files are replaced.

    Args:
        polygons: Table of `change_polygons`, or one like it; multipolygons are kept whole. Of
            points all geometries must be points.
        path: Target.
        provenance: JSON data on how the result was made.
        layer_options: Creation options of the GDAL driver; for ``.parquet`` COMPRESSION and
            ROW_GROUP_SIZE.
        pixel_coordinates: Accept polygons without CRS in ``.geojson``: those of a picture without
            georeferencing have x = column, y = -row, as QGIS shows it.
        style: QML text; default `change_qml`.
        layer: Name of the layer in formats that name layers.

    Raises:
        UsageError: Unknown suffix or option, ``.geojson`` without CRS, or a CRS that the format
            cannot store.
        OutputError: The files cannot be written.
    """
    path = Path(path)
    form = _format(path)
    text = json.dumps(redacted_data(provenance), indent=2, sort_keys=True, ensure_ascii=False)
    if form.lonlat and polygons.crs is None and not pixel_coordinates:
        raise UsageError(
            f"{path}: expected images with a CRS for GeoJSON (longitude and latitude), found none; "
            "write .gpkg, or pass --pixel-coordinates"
        )
    if len(polygons) and polygons.crs is not None:
        left, bottom, right, top = polygons.geometry.iloc[0].bounds
        check_crs(path, polygons.crs, ((left + right) / 2, (bottom + top) / 2))
    polygons = _fitted(polygons, path, form)
    style = change_qml() if style is None else style
    job = _Job(provenance=text, options=dict(layer_options or {}), style=style, layer=layer)
    with atomic_folder(path) as staging:
        if form.style_beside:
            write_text(staging / path.with_suffix(".qml").name, style)
        if form.provenance_beside:
            write_text(staging / f"{path.name}.json", text + "\n")
        # written under a name without special characters that libraries would interpret
        made = staging / f"table{path.suffix}"
        with gdal_path(made) as plain:
            form.write(polygons, Path(plain), job)
        made.replace(staging / path.name)


def _fitted(
    polygons: geopandas.GeoDataFrame, path: Path, form: "_Format"
) -> geopandas.GeoDataFrame:
    """The table with columns that the format supports; conversions of others are logged."""
    if form.write is _write_parquet:
        return polygons
    own = polygons.geometry.name
    names = [name for name in polygons.columns if name != own]
    columns, notes = {}, []
    for name, written in zip(names, distinct_names(list(map(str, names)), (), ""), strict=True):
        column, became = for_ogr(polygons[name], binary=form.binary)
        columns[written] = column
        if became is not None:
            notes.append(f"{name}: {became}")
        if written != name:
            notes.append(f"{name}: named {written}")
    if notes:
        logger.warning("%s cannot store every column unchanged: %s", path, "; ".join(notes))
    table = pd.DataFrame(columns, index=polygons.index)
    return geopandas.GeoDataFrame(table, geometry=polygons.geometry.to_numpy(), crs=polygons.crs)


@dataclass(frozen=True)
class _Job:
    """Arguments of a format's writer besides table and path."""

    provenance: str
    options: dict[str, str]
    style: str
    layer: str


def _write_geojson(polygons: geopandas.GeoDataFrame, path: Path, job: _Job) -> None:
    options = {}
    decimals: int | None = _DECIMALS
    if polygons.crs is not None:
        polygons = polygons.set_geometry(lonlat_outlines(polygons), crs="OGC:CRS84")
        options = {"RFC7946": "YES", "COORDINATE_PRECISION": str(_DECIMALS)}
    if "COORDINATE_PRECISION" in job.options:
        decimals = None  # makes the driver repair geometries that rounding makes invalid
    _write_ogr(polygons, path, job, "GeoJSON", options)
    empty = BytesIO()
    _write_ogr(polygons[:0], empty, job, "GeoJSON", options)
    head, _, _ = empty.getvalue().partition(b'"features"')
    with path.open("rb") as file:
        if not any(name.upper() == "WRITE_BBOX" for name in job.options):  # it stands in the head
            require_as_written(file.read(len(head)) == head, "the head")
        file.seek(-2, os.SEEK_END)
        require_as_written(file.read() == b"}\n", "the end")
    check_layer(path, polygons, job.layer, decimals)


def _write_flatgeobuf(polygons: geopandas.GeoDataFrame, path: Path, job: _Job) -> None:
    _write_ogr(polygons, path, job, "FlatGeobuf", {}, **_one_type(polygons))
    check_layer(path, polygons, job.layer, _EXACT)


def _write_geopackage(polygons: geopandas.GeoDataFrame, path: Path, job: _Job) -> None:
    keywords = _one_type(polygons)
    _write_package(polygons, path, job, keywords)
    with closing(sqlite3.connect(path)) as package:
        _finish(package, job)
    _forget_commits(path)
    empty = BytesIO()
    _write_package(polygons[:0], empty, job, keywords)
    with closing(sqlite3.connect(":memory:")) as package:
        package.deserialize(empty.getvalue())
        _finish(package, job)
        check_geopackage(path, package, len(polygons), job.layer)
        check_layer(path, polygons, job.layer, _EXACT)


def _write_package(
    polygons: geopandas.GeoDataFrame, where: Path | BytesIO, job: _Job, keywords: dict[str, Any]
) -> None:
    # On the layer: for metadata of the whole file GDAL writes an .aux.xml whenever it is read.
    metadata = {PROVENANCE_KEY: job.provenance}
    # GDAL before 3.7, and therefore QGIS 3.22, warns of versions above 1.3.
    version = {"VERSION": "1.3"}
    _write_ogr(polygons, where, job, "GPKG", version, layer_metadata=metadata, **keywords)


def _finish(package: sqlite3.Connection, job: _Job) -> None:
    """Date a GeoPackage that GDAL wrote and add the style to it.

    GDAL's own setting for the date holds for the whole process, in which other threads may write.
    """
    package.execute("PRAGMA secure_delete = ON")  # nothing stays of the date before
    with package:
        package.execute("UPDATE gpkg_contents SET last_change = ?", (_GPKG_DATE,))
        package.execute("UPDATE gpkg_metadata_reference SET timestamp = ?", (_GPKG_DATE,))
        _embed_style(package, job)


def _forget_commits(path: Path) -> None:
    """Let a GeoPackage say that it was written at once.

    SQLite counts the commits in two fields of the file's head, and GDAL 3.12 does not always need
    as many for the same layer.
    """
    with path.open("r+b") as file:
        for offset in _COMMITS_AT:
            file.seek(offset)
            file.write((1).to_bytes(4, "big"))


def _one_type(polygons: geopandas.GeoDataFrame) -> dict[str, Any]:
    """The single geometry type of a layer: MultiPolygon if any geometry has several parts."""
    if len(polygons) and bool((polygons.geometry.geom_type == "Point").all()):
        return {"geometry_type": "Point", "promote_to_multi": False}
    several = bool((polygons.geometry.geom_type == "MultiPolygon").any())
    return {"geometry_type": "MultiPolygon" if several else "Polygon", "promote_to_multi": several}


def _write_ogr(
    polygons: geopandas.GeoDataFrame,
    where: Path | BytesIO,
    job: _Job,
    driver: str,
    options: dict[str, str],
    **keywords: Any,
) -> None:
    options = {**options, **{key.upper(): value for key, value in job.options.items()}}
    try:
        # no CRS means pixel coordinates, as the caller intends
        with quiet("'crs' was not provided", UserWarning):
            pyogrio.write_dataframe(
                polygons,
                where,
                driver=driver,
                layer=job.layer,
                use_arrow=True,
                **keywords,
                **options,
            )
    except ValueError as error:
        if not job.options:
            raise
        raise UsageError(f"{driver}: {error}; correct --lco") from error


def _embed_style(package: sqlite3.Connection, job: _Job) -> None:
    """Add the table ``layer_styles`` as QGIS makes it; QGIS applies its default row by itself."""
    package.execute(
        "CREATE TABLE layer_styles (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,"
        " f_table_catalog TEXT(256), f_table_schema TEXT(256), f_table_name TEXT(256),"
        " f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT,"
        " useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),"
        " update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')))"
    )
    package.execute(
        "INSERT INTO gpkg_contents (table_name, data_type, identifier, description,"
        " last_change, srs_id) VALUES ('layer_styles', 'attributes', 'layer_styles', '', ?, 0)",
        (_GPKG_DATE,),
    )
    (geometry_column,) = package.execute(
        "SELECT column_name FROM gpkg_geometry_columns WHERE table_name = ?", (job.layer,)
    ).fetchone()
    package.execute(
        "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name,"
        " f_geometry_column, styleName, styleQML, styleSLD, useAsDefault, description, owner,"
        " update_time) VALUES ('', '', ?, ?, 'change', ?, '', 1, 'Score of change', '', ?)",
        (job.layer, geometry_column, job.style, _GPKG_DATE),
    )


def _write_parquet(polygons: geopandas.GeoDataFrame, path: Path, job: _Job) -> None:
    keywords: dict[str, Any] = {}
    for key, value in job.options.items():
        if key.upper() == "COMPRESSION":
            keywords["compression"] = value.lower()
        elif key.upper() == "ROW_GROUP_SIZE" and value.isdigit():
            keywords["row_group_size"] = int(value)
        else:
            raise UsageError(
                f"{path.name}: expected COMPRESSION=NAME or ROW_GROUP_SIZE=N for GeoParquet, "
                f"found {key}={value}; correct --lco"
            )
    polygons.to_parquet(path)
    # geopandas cannot write custom metadata: read the table back and add it.
    table = pyarrow.parquet.read_table(path)
    metadata = {**table.schema.metadata, PROVENANCE_KEY.encode(): job.provenance.encode()}
    table = table.replace_schema_metadata(metadata)
    pyarrow.parquet.write_table(table, path, **keywords)
    same = pyarrow.parquet.read_table(path).equals(table, check_metadata=True)
    require_as_written(same, "the table")


def lonlat_outlines(polygons: geopandas.GeoDataFrame) -> Polygons:
    """Geometries as RFC 7946 requires, but for the direction of their rings.

    Args:
        polygons: in a CRS on the Earth.

    Returns:
        (N,) polygons and multipolygons in degrees on WGS 84 of 7 decimals, cut at +-180.

    Raises:
        OutputError: a polygon lies around a pole.
    """
    crs = polygons.crs
    geometry = polygons.geometry.to_numpy()
    if not crs.is_geographic:
        geometry = cut_edges(geometry, pyproj.CRS(crs))
    transformer = pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    points, owner = shapely.get_coordinates(geometry, return_index=True)
    lon, lat = transformer.transform(*points.T)
    if len(points) and not crs.is_geographic:
        # Coordinates jump from 180 to -180; keep each polygon in one piece.
        first = lon[np.searchsorted(owner, np.arange(len(geometry)))][owner]
        lon = first + (lon - first + 180) % 360 - 180
        if (np.abs(np.diff(lon))[owner[1:] == owner[:-1]] > 180).any():
            raise OutputError(
                "expected polygons with an outline in longitude and latitude, found one around "
                "a pole; write .gpkg, which keeps the CRS of the scene"
            )
    degrees = shapely.set_coordinates(geometry.copy(), np.column_stack([lon, lat]))
    rounded = shapely.transform(_cut_at_antimeridian(degrees), lambda p: np.round(p, _DECIMALS))
    return _repaired(rounded)  # the driver makes the rings right-handed


def _cut_at_antimeridian(polygons: Polygons) -> Polygons:
    """Bring longitudes into [-180, 180]; polygons across its ends become multipolygons."""
    west, _, east, _ = shapely.bounds(polygons).T
    cut = polygons.copy()
    for index in np.flatnonzero((west < -180) | (east > 180)):
        parts: list[Any] = []
        for turn in (-360, 0, 360):
            world = shapely.box(turn - 180, -90, turn + 180, 90)
            piece = shapely.intersection(polygons[index], world)
            shifted = shapely.transform(piece, lambda p, turn=turn: p - [turn, 0])
            # If it only touches the line, a point, a segment or nothing is left.
            parts += [p for p in shapely.get_parts(shapely.get_parts(shifted)) if p.area > 0]
        cut[index] = parts[0] if len(parts) == 1 else shapely.multipolygons(parts)
    return cut


def _repaired(polygons: Polygons) -> Polygons:
    """Repair polygons made invalid by rounding; those it flattened are kept and reported."""
    bad = np.flatnonzero(~shapely.is_valid(polygons))
    repaired = polygons.copy()
    repaired[bad] = shapely.buffer(polygons[bad], 0)
    flat = bad[shapely.is_empty(repaired[bad])]
    repaired[flat] = polygons[flat]
    if len(flat):
        logger.warning("%d polygons are flat at 7 decimals of a degree; use .gpkg", len(flat))
    return repaired


@dataclass(frozen=True)
class _Format:
    """A file format: its writer, and what it cannot store itself."""

    write: Callable[[geopandas.GeoDataFrame, Path, _Job], None]
    style_beside: bool = True
    provenance_beside: bool = True
    lonlat: bool = False
    binary: bool = True
    """Whether it has a binary type."""


_FORMATS = {
    ".geojson": _Format(_write_geojson, lonlat=True, binary=False),
    ".gpkg": _Format(_write_geopackage, style_beside=False, provenance_beside=False),
    ".fgb": _Format(_write_flatgeobuf),
    ".parquet": _Format(_write_parquet, provenance_beside=False),
}

SUFFIXES = tuple(_FORMATS)
"""Suffixes that `write_vector` knows."""


def _format(path: Path) -> _Format:
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        raise UsageError(
            f"{path}: expected a vector file {', '.join(SUFFIXES)}, found {path.suffix!r}; "
            "change the suffix"
        ) from None
