"""Polygons from vector files, and their transformation to another CRS."""

import glob
import io
import json
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from rscd.base.border import border, found_in
from rscd.base.errors import DataError
from rscd.base.files import give_name, linked
from rscd.base.place import gdal_name, is_file_name, named
from rscd.base.types import BoolArray, Bounds
from rscd.geo.grid import transformer_between
from rscd.geo.wkb import from_wkb, unknown

if TYPE_CHECKING:
    import geopandas

log = logging.getLogger(__name__)

PARQUET_SUFFIXES = (".parquet", ".geoparquet", ".pq", ".parq")
VECTOR_SUFFIXES = frozenset(
    {
        *PARQUET_SUFFIXES,
        *(".geojson", ".json", ".geojsonl", ".geojsons", ".geojsonseq", ".ndjson", ".topojson"),
        *(".gpkg", ".gpkg.zip", ".fgb", ".shp", ".shp.zip", ".shz", ".gdb", ".gdb.zip", ".zip"),
        *(".kml", ".kmz", ".gml", ".sqlite", ".tab", ".mif"),
    }
)
"""Suffixes of vector files and folders that can be read."""
LAYER_WORD = "|layername="
"""``file.gpkg|layername=NAME`` chooses one of several layers, spelled as in QGIS."""

STRAIGHT_M = 1000.0
"""A longer edge bends visibly in another projection."""
MOST_PARTS = 10_000
"""Most segments an edge is split into, however large its coordinates."""
MOST_EXACT = 2**53
"""Up to this number, float64 represents every integer."""
EARTH_RADIUS_M = 6_371_000.0
EDGE_POINTS = 33
MARGIN = 0.01
"""Fraction of its sides by which a rectangle transformed to another CRS is widened."""

Geometries = NDArray[Any]

_CATALOGUES = {
    ".gpkg": "SELECT table_name FROM gpkg_geometry_columns ORDER BY rowid",
    ".sqlite": "SELECT f_table_name FROM geometry_columns ORDER BY rowid",
    # feature classes, by Esri's type identifier
    ".gdb": "SELECT Name FROM GDB_Items WHERE Type = '{70737809-852C-4A03-9E22-2CECEA5B9BFA}'",
}
"""SQL that lists the layers of files with several, by suffix."""

_LOSSES = re.compile("clamp|out of range|truncat|overflow|lossy", re.IGNORECASE)
"""Words in GDAL's warnings that a value was changed."""

_POLYGONAL = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)

_OF_PARTS = tuple(
    range(shapely.GeometryType.MULTIPOINT, shapely.GeometryType.GEOMETRYCOLLECTION + 1)
)


def is_vector(path: str | Path) -> bool:
    """Whether a file is a vector file, by its suffix; a layer name may follow it."""
    return _name(path).endswith(tuple(VECTOR_SUFFIXES))


def _name(path: str | Path) -> str:
    """Path in lower case without anything that follows its suffix."""
    file = named(path).partition(LAYER_WORD)[0]
    return (file.partition("?")[0] if "://" in file else file).lower().rstrip("/")


@contextmanager
def gdal_path(path: str | Path) -> Iterator[str]:
    """Context manager giving a path that pyogrio takes literally.

    In a local path pyogrio interprets ``!`` as the path into an archive, and ``;`` as the end of
    the name. Such a file and its sidecars are made available under another name by symbolic links.

    Args:
        path: local file, URL or GDAL's virtual path; of the last two as GDAL names them.
    """
    file = named(path)
    if not is_file_name(file) or not set(file) & set("!;#?"):
        yield gdal_name(file)
        return
    real = Path(file).absolute()
    with tempfile.TemporaryDirectory(prefix="rscd-") as scratch:
        folder = Path(scratch) / "folder"
        plain = real.name.translate(dict.fromkeys(map(ord, "!;#?"), "_"))
        if plain != real.name or not linked(real.parent, folder):
            folder.mkdir()
            old, new = real.name.partition(".")[0], plain.partition(".")[0]
            for beside in real.parent.glob(f"{glob.escape(old)}.*"):
                give_name(beside, folder / (new + beside.name[len(old) :]))
            if not (folder / plain).exists():
                give_name(real, folder / plain)
        yield str(folder / plain)


def read_layer(
    path: str | Path,
    what: str,
    *,
    layer: str | None = None,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    within: tuple[Bounds, CRS | None] | None = None,
    choose: str | None = None,
) -> "geopandas.GeoDataFrame":
    """Features of one layer of any vector file that GDAL or GeoParquet knows.

    Args:
        path: file, folder (.gdb), or a GDAL path such as ``/vsizip/...``; `LAYER_WORD` and a name
            may follow.
        what: the expected content with a preposition, for messages: ``"polygons in --aoi"``.
        layer: name of the layer, if a file has several with geometries.
        columns: attributes to read; None: all.
        where: SQL condition on the attributes; not for GeoParquet.
        within: read features touching a rectangle (left, bottom, right, top) in that CRS, maybe
            more.
        choose: advice on naming one of several layers; default: with `LAYER_WORD`.

    Returns:
        The features; the index is their number in the file (for GeoParquet its own index). Integers
        and booleans keep their type where some are missing (pandas' nullable types);
        dates, decimals, durations and nested values have pyarrow's. TIN, polyhedral surfaces and
        curves are plain polygons and lines in two dimensions (`rscd.geo.wkb`).

    Raises:
        DataError: if there is no such file or layer, there are several layers, or it is unreadable.
    """
    file, _, asked = named(path).partition(LAYER_WORD)
    if is_file_name(file) and not Path(file).exists():
        raise DataError(f"expected {what} {file}, found no such file; check the path")
    with vector_border(what, file):
        if _is_parquet(file):
            return _of_parquet(_read_parquet(file), file, columns, where, within)
        with gdal_path(file) as link, _heeding_gdal(file):
            # the only layer of a plain file is named after it, whatever name it is read by
            renamed = {Path(link).stem: Path(file).stem} if link != file else {}
            names = [str(name) for name, kind in _layers(link) if kind is not None]
            shown = [renamed.get(name, name) for name in names]
            chosen = names[shown.index(_layer(file, what, shown, layer or asked or None, choose))]
            frame = _of_gdal(link, chosen, columns, where, within)
        _warn_rounded(file, frame)
        return frame


def is_empty(path: str | Path) -> bool:
    """Whether a file that `read_layer` reads is known to have no feature; none is read.

    Raises:
        DataError: if it is unreadable.
    """
    import pyogrio
    from pyarrow import parquet
    from pyogrio.errors import GeometryError

    file, _, asked = named(path).partition(LAYER_WORD)
    with vector_border("features in", file):
        if _is_parquet(file):
            return bool(parquet.read_metadata(file).num_rows == 0)
        try:
            with gdal_path(file) as link:
                about = pyogrio.read_info(link, layer=asked or None, force_feature_count=True)
        except GeometryError:  # a layer type that pyogrio does not support
            return False
        return bool(about["features"] == 0)


def vector_border(what: str, path: str | Path) -> AbstractContextManager[None]:
    """Error handling around libraries that read vector files.

    Args:
        what: what is read, for the message: ``polygons in --aoi``.
        path: of the file.

    Raises:
        DataError: for anything raised inside.
    """

    def to_error(error: Exception) -> DataError:
        found = found_in(path, error, "check the file", "vector")
        return DataError(f"expected {what.removesuffix(' in')}, {found}")

    return border(to_error)


def _of_gdal(
    link: str,
    layer: str,
    columns: Sequence[str] | None,
    where: str | None,
    within: tuple[Bounds, CRS | None] | None,
) -> Any:
    import pyogrio
    from pyogrio.errors import GeometryError

    try:
        about = pyogrio.read_info(link, layer=layer)
    except GeometryError:  # a layer type that pyogrio does not support
        with _of_any_kind(link, layer) as virtual:
            about = pyogrio.read_info(virtual)
    source = None if about["crs"] is None else CRS(about["crs"])
    bbox = None if within is None else carried_bounds(*within, source)
    wanted = {"columns": columns, "where": where, "bbox": bbox}
    try:
        frame = _features(link, layer, about, wanted)
        if not unknown(frame.geometry.to_numpy()).any():
            return _decoded(frame)
    except (GeometryError, shapely.errors.ShapelyError, NotImplementedError):
        pass
    return _decoded(_with_plain_geometries(link, layer, about, wanted))


def _features(
    link: str, layer: str, about: dict[str, Any], wanted: dict[str, Any], **keywords: Any
) -> Any:
    """Rows with their numbers in the file as index, values with their exact types."""
    import pandas as pd
    import pyogrio

    exact = {"use_arrow": True, "arrow_to_pandas_kwargs": {"types_mapper": exact_type}}
    options = {"layer": layer, **wanted, **keywords}
    if (about["fid_column"] or "OGC_FID") not in about["fields"]:
        return pyogrio.read_dataframe(link, fid_as_index=True, **options, **exact)
    # an attribute named like the feature id (id in GeoJSON): Arrow keeps only one of them
    frame = pyogrio.read_dataframe(link, **options, **exact)
    without_columns = {**options, "columns": [], "read_geometry": wanted["bbox"] is not None}
    _, fids, *_ = pyogrio.raw.read(link, return_fids=True, **without_columns)
    return frame.set_index(pd.Index(fids, name="fid"))


def _layers(link: str) -> Any:
    import pyogrio
    from pyogrio.errors import GeometryError

    try:
        return pyogrio.list_layers(link)
    except GeometryError:
        return [(name, "Unknown") for name in _names_by_sql(link)]


def _names_by_sql(link: str) -> list[str]:
    """Names of layers with geometries, if pyogrio fails on the type of one of them."""
    import pyogrio

    suffix = next((suffix for suffix in _CATALOGUES if _name(link).endswith(suffix)), None)
    if suffix is None:
        return [Path(link).stem]
    _, _, _, (names,) = pyogrio.raw.read(link, sql=_CATALOGUES[suffix], read_geometry=False)
    return [str(name) for name in names]


def _layer(file: str, what: str, names: list[str], asked: str | None, choose: str | None) -> str:
    if not names:
        raise DataError(f"expected {what} {file}, found no geometries; check the file")
    found = ", ".join(names)
    if asked is None and len(names) != 1:
        how = choose or f"choose one with {file}{LAYER_WORD}NAME"
        raise DataError(f"expected one layer of {what} {file}, found {found}; {how}")
    if asked is not None and asked not in names:
        raise DataError(f"expected layer {asked} in {file}, found {found}; correct its name")
    return asked or names[0]


def _with_plain_geometries(
    link: str, layer: str, about: dict[str, Any], wanted: dict[str, Any]
) -> Any:
    """The features of a layer, with geometries decoded by `rscd.geo.wkb`."""
    import geopandas
    import pandas as pd
    import pyogrio

    with _of_any_kind(link, layer) as virtual:
        found, table = pyogrio.read_arrow(virtual, return_fids=True, **{**wanted, "columns": []})
        rows = pd.DataFrame(index=pd.Index(table.column(0), name="fid"))
        if wanted["columns"] is None or len(wanted["columns"]):
            everywhere = {**wanted, "bbox": None}
            named = {**about, "fid_column": found["fid_column"]}
            attributes = _features(virtual, layer, named, everywhere, read_geometry=False)
            rows = attributes.loc[rows.index]
    texts = table[found["geometry_name"] or "wkb_geometry"].to_pylist()
    geometries = from_wkb(np.array([*texts, None], object)[:-1])
    return geopandas.GeoDataFrame(rows, geometry=geometries, crs=found["crs"])


@contextmanager
def _of_any_kind(link: str, layer: str) -> Iterator[str]:
    """A virtual layer that declares its geometries to be of any type."""
    text = (
        f"<OGRVRTDataSource><OGRVRTLayer name={quoteattr(layer)}>"
        f"<SrcDataSource>{escape(link)}</SrcDataSource><SrcLayer>{escape(layer)}</SrcLayer>"
        "<GeometryType>wkbUnknown</GeometryType></OGRVRTLayer></OGRVRTDataSource>"
    )
    with tempfile.TemporaryDirectory(prefix="rscd-") as scratch:
        virtual = Path(scratch) / "layer.vrt"
        virtual.write_text(text, encoding="utf-8")
        yield str(virtual)


@contextmanager
def _heeding_gdal(file: str) -> Iterator[None]:
    """Log what GDAL changes while reading, which pyogrio reports as Python warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for kind, text in dict.fromkeys((w.category, str(w.message)) for w in caught):
        if not issubclass(kind, RuntimeWarning):
            warnings.warn(text, kind, stacklevel=4)
        elif _LOSSES.search(text):
            log.warning("%s: values are lost while reading: %s", file, " ".join(text.split()))
        else:
            log.debug("%s: %s", file, " ".join(text.split()))


def _warn_rounded(file: str, frame: Any) -> None:
    """Warn of rounded integers: GDAL reads a JSON column as float64 if any value needs it."""
    if "json" not in Path(_name(file)).suffix:
        return
    rounded = [
        str(name)
        for name, values in frame.items()
        if values.dtype == "float64" and (values.abs() > MOST_EXACT).any()
    ]
    if rounded:
        log.warning(
            "%s: numbers beyond 2^53 may have been rounded in %s, where some are larger than 64 "
            "bits or have decimals; write identifiers as text",
            file,
            ", ".join(rounded),
        )


def exact_type(kind: Any) -> Any:
    """The pandas type equivalent to an Arrow type; None leaves the choice to pyarrow.

    Without it integers become floating-point where some are missing, and dates become objects.
    """
    import pandas as pd
    import pyarrow as pa

    if pa.types.is_boolean(kind):
        return pd.BooleanDtype()
    if pa.types.is_integer(kind):  # Int8 for int8, UInt8 for uint8
        return pd.array([], dtype=str(kind).replace("i", "I").replace("u", "U")).dtype
    tests = (
        *(pa.types.is_date, pa.types.is_time, pa.types.is_duration, pa.types.is_decimal),
        *(pa.types.is_nested, pa.types.is_binary, pa.types.is_large_binary),
    )
    return pd.ArrowDtype(kind) if any(test(kind) for test in tests) else None


def _decoded(frame: Any) -> Any:
    """Replace categories with their values."""
    for name, kind in frame.dtypes.items():
        if str(kind) == "category":
            frame[name] = frame[name].astype(kind.categories.dtype)
    return frame


def _is_parquet(file: str) -> bool:
    if _name(file).endswith(PARQUET_SUFFIXES):
        return True
    if not (is_file_name(file) and Path(file).is_file()):
        return False
    with Path(file).open("rb") as opened:
        return opened.read(4) == b"PAR1"


def _read_parquet(file: str) -> Any:
    """All of a GeoParquet; an index with a name is a column too."""
    import geopandas

    keywords = {"to_pandas_kwargs": {"types_mapper": exact_type}}
    try:
        frame = geopandas.read_parquet(file, **keywords)
        plain = not unknown(frame.geometry.to_numpy()).any()
    except (shapely.errors.ShapelyError, NotImplementedError):
        plain = False
    if not plain:
        frame = geopandas.read_parquet(_with_plain_wkb(file), **keywords)
    frame = _decoded(frame)
    index = frame.index
    for name in index.names:
        if name is not None and name not in frame.columns:
            frame[name] = index.get_level_values(name)
    if index.nlevels > 1:
        frame.index = ["/".join(map(str, key)) for key in index]
    return frame


def _with_plain_wkb(file: str) -> io.BytesIO:
    """A copy of a GeoParquet whose geometries GEOS can read."""
    import pyarrow as pa
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(file)
    about = json.loads(table.schema.metadata[b"geo"])
    for name, column in about["columns"].items():
        column.pop("geometry_types", None)
        texts = np.array([*table[name].to_pylist(), None], object)[:-1]
        plain = pa.array(shapely.to_wkb(from_wkb(texts)), pa.binary())
        table = table.set_column(table.schema.get_field_index(name), name, plain)
        column["geometry_types"] = []
    metadata = {**table.schema.metadata, b"geo": json.dumps(about).encode()}
    copy = io.BytesIO()
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), copy)
    copy.seek(0)
    return copy


def _of_parquet(
    frame: Any,
    file: str,
    columns: Sequence[str] | None,
    where: str | None,
    within: tuple[Bounds, CRS | None] | None,
) -> Any:
    if where is not None:
        raise DataError(
            f"expected a file whose features a condition can choose, found GeoParquet {file}; "
            "write it as .gpkg, or drop the condition"
        )
    if columns is not None:
        kept = [name for name in columns if name in frame.columns]
        frame = frame[[*kept, frame.geometry.name]]
    if within is not None:
        bounds = carried_bounds(*within, None if frame.crs is None else CRS(frame.crs))
        if bounds is not None:
            frame = frame[shapely.intersects(frame.geometry.to_numpy(), shapely.box(*bounds))]
    return frame


def polygonal(geometries: Geometries) -> Geometries:
    """The polygons in each geometry, projected to two dimensions and made valid.

    Args:
        geometries: (N,) shapely geometries or None.

    Returns:
        (N,) valid Polygon or MultiPolygon in two dimensions. Self-crossing rings enclose the area
        they go around; overlapping parts, such as roof and floor of a building model, and polygons
        of a collection, at any depth, are merged; lines and points become an empty polygon.
    """
    flat = shapely.force_2d(np.asarray(geometries, dtype=object))
    good = np.isin(shapely.get_type_id(flat), _POLYGONAL) & shapely.is_valid(flat)
    made: Geometries = flat.copy()
    for index in np.flatnonzero(~good):
        parts = _polygons_of(shapely.make_valid(_polygons_of(flat[index : index + 1])))
        if len(parts) == 1:
            made[index] = parts[0]
        else:
            made[index] = shapely.union_all(parts) if len(parts) else shapely.Polygon()
    return made


def _polygons_of(geometries: Geometries) -> Geometries:
    parts = shapely.get_parts(geometries)
    while np.isin(shapely.get_type_id(parts), _OF_PARTS).any():
        parts = shapely.get_parts(parts)
    polygons: Geometries = parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]
    return polygons


def carried(geometries: Geometries, source: CRS | None, target: CRS | None) -> Geometries:
    """Transform geometries to another CRS; points that do not exist there become infinite.

    Long edges are split first, because straight lines bend. If either CRS is missing, the
    geometries are returned unchanged.
    """
    if source == target or source is None or target is None or not len(geometries):
        return geometries
    transformer = transformer_between(source, target)

    def carry(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack(transformer.transform(points[:, 0], points[:, 1]))

    return np.asarray(shapely.transform(cut_edges(geometries, source), carry), dtype=object)


def cut_edges(geometries: Geometries, crs: CRS) -> Geometries:
    """Add points so that no edge is longer than about `STRAIGHT_M`."""
    if not len(geometries):
        return geometries
    unit = crs.axis_info[0].unit_conversion_factor  # factor to metres or radians
    longest = STRAIGHT_M / (unit * EARTH_RADIUS_M if crs.is_geographic else unit)
    left, bottom, right, top = shapely.total_bounds(geometries)
    extent = float(np.nan_to_num(max(right - left, top - bottom), posinf=0.0))
    return np.asarray(shapely.segmentize(geometries, max(longest, extent / MOST_PARTS)), object)


def exist(geometries: Geometries) -> BoolArray:
    """(N,) whether all coordinates are finite; false for empty and missing geometries."""
    finite: BoolArray = np.isfinite(shapely.bounds(geometries)).all(axis=-1)
    return finite


def carried_bounds(bounds: Bounds, source: CRS | None, target: CRS | None) -> Bounds | None:
    """Bounds of a rectangle in another CRS, slightly widened; None if there are none."""
    if source == target or source is None or target is None:
        return bounds
    transformer = transformer_between(source, target)
    left, bottom, right, top = transformer.transform_bounds(*bounds, densify_pts=EDGE_POINTS)
    if not np.isfinite((left, bottom, right, top)).all() or left > right:
        return None  # across the antimeridian or beyond the projection: read everything
    dx, dy = MARGIN * (right - left), MARGIN * (top - bottom)
    return left - dx, bottom - dy, right + dx, top + dy
