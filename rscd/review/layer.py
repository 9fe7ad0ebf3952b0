"""A change layer as it is reviewed: its polygons, where they came from, and which layer it is."""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyogrio
from affine import Affine
from pyproj import CRS

from rscd.base.errors import DataError, OutputError, UsageError
from rscd.base.files import digest_of, sha256_of
from rscd.base.types import Provenance
from rscd.export.style import is_own_qml
from rscd.export.vector import LAYER, SUFFIXES, lonlat_outlines, write_vector
from rscd.geo.grid import crs_name
from rscd.geo.measure import Ground
from rscd.geo.origin import read_provenance
from rscd.geo.reviewed import checked_review
from rscd.geo.vectors import LAYER_WORD, PARQUET_SUFFIXES, carried, gdal_path, read_layer
from rscd.review.decisions import (
    Merged,
    Review,
    check_belongs,
    decided,
    decisions_of,
    merged,
    read_review,
)

if TYPE_CHECKING:
    import geopandas

LONLAT = CRS("OGC:CRS84")
REVIEWS = "reviews"
"""Key of the provenance under which the reviews that went into a layer are listed."""
BEGUN_AS = "sha256_before_review"
"""Key of the provenance of a layer that had none: the file from which it was made."""

_AREA_DECIMALS = 4
_PACKAGE = ".gpkg"


@dataclass(frozen=True)
class ChangeLayer:
    """A vector file of change polygons, with the columns of a review."""

    path: Path
    name: str
    """Of the layer in a file that names layers."""
    table: "geopandas.GeoDataFrame"
    """Of `rscd.geo.reviewed.checked_review`."""
    provenance: Provenance
    """How it was made; empty where the file does not say."""
    identity: str
    """SHA-256 that stays with the layer whatever is decided about it: of its provenance, which
    names the inputs and all parameters, or of its file where it has none."""


def read_change_layer(path: str | Path) -> ChangeLayer:
    """Read a layer of change polygons, reviewed or not.

    Args:
        path: vector file; ``|layername=NAME`` may follow.

    Raises:
        DataError: it cannot be read, has no usable ``id``, or a status that is none.
    """
    file, _, asked = str(path).partition(LAYER_WORD)
    table = checked_review(read_layer(path, "change polygons in"), path)
    name = asked or _only_layer(Path(file))
    provenance = read_provenance(Path(file), name)
    if _in_pixels(Path(file), table, provenance):
        table = table.set_crs(None, allow_override=True)
    return ChangeLayer(Path(file), name, table, provenance, _identity(Path(file), provenance))


def _only_layer(path: Path) -> str:
    """Name of the one layer with geometries; `read_layer` has found that there is no other."""
    if path.suffix.lower() in PARQUET_SUFFIXES:
        return LAYER
    with gdal_path(path) as link:
        return next(str(name) for name, kind in pyogrio.list_layers(link) if kind is not None)


def _in_pixels(path: Path, table: "geopandas.GeoDataFrame", provenance: Provenance) -> bool:
    """Whether a GeoJSON is in pixels: GDAL ascribes degrees to every one."""
    if "json" not in path.suffix.lower():
        return False
    grid = str(provenance.get("alignment", {}).get("grid", ""))
    beyond = len(table) and bool((np.abs(table.total_bounds) > 180).any())
    return beyond or grid.endswith(crs_name(None))


def _identity(path: Path, provenance: Provenance) -> str:
    begun_as = provenance.get(BEGUN_AS)
    if isinstance(begun_as, str):
        return begun_as
    own = {key: value for key, value in provenance.items() if key != REVIEWS}
    return digest_of(own) if own else sha256_of(path)


def require_polygons(layer: ChangeLayer) -> None:
    """Check that there is something to review.

    Raises:
        DataError: there is none.
    """
    if not len(layer.table):
        raise DataError(f"expected polygons to review in {layer.path}, found none")


def outlines(layer: ChangeLayer) -> Any:
    """(N,) polygons as a review stores them: longitude and latitude, or the layer's pixels."""
    if layer.table.crs is None:
        return layer.table.geometry.to_numpy()
    return lonlat_outlines(layer.table)


def review_of(layer: ChangeLayer) -> Review:
    """The decisions that stand in a layer."""
    return Review(
        layer.identity, tuple(decisions_of(layer.table, outlines(layer))), str(layer.path)
    )


def with_reviews(layer: ChangeLayer, paths: Sequence[Path]) -> tuple[ChangeLayer, Merged]:
    """A layer with the decisions of reviews in its columns, the latest of each polygon.

    What was decided in the layer itself counts as a review, the first one.

    Args:
        layer: as it was read.
        paths: files of reviews; none only adds the columns.

    Returns:
        The layer; its provenance lists the reviews; areas of redrawn outlines are measured anew.
        And what was merged.

    Raises:
        DataError: a review cannot be read, or is about another layer.
    """
    reviews = [read_review(path) for path in paths]
    for review in reviews:
        check_belongs(review, layer.identity, layer.table["id"], layer.path)
    found = merged([review_of(layer), *reviews])
    table = _redrawn(decided(layer.table, found.decisions), found)
    listed = [
        {"sha256": sha256_of(path), "decisions": len(review.decisions)}
        for path, review in zip(paths, reviews, strict=True)
    ]
    provenance = layer.provenance or {BEGUN_AS: layer.identity}
    provenance = provenance | {REVIEWS: [*provenance.get(REVIEWS, []), *listed]}
    return replace(layer, table=table, provenance=provenance), found


def _redrawn(table: "geopandas.GeoDataFrame", found: Merged) -> "geopandas.GeoDataFrame":
    """The layer with the outlines that were redrawn, and their areas."""
    edited = {number: one.geometry for number, one in found.decisions.items() if one.edited}
    rows = np.flatnonzero(table["id"].isin(list(edited)))
    if not len(rows):
        return table
    new = np.array([edited[number] for number in table["id"].iloc[rows]], dtype=object)
    crs = None if table.crs is None else CRS(table.crs)
    geometry = table.geometry.to_numpy().copy()
    geometry[rows] = carried(new, LONLAT if crs is not None else None, crs)
    table = table.set_geometry(geometry, crs=table.crs)
    if "area_m2" in table.columns and crs is not None:
        areas = Ground(crs, Affine.identity()).areas_m2(geometry[rows])
        table.loc[table.index[rows], "area_m2"] = areas.round(_AREA_DECIMALS)
    return table


def check_target(layer: ChangeLayer, target: Path, *, overwrite: bool) -> None:
    """Check before any work that a layer can be written to a file.

    Args:
        layer: as it was read.
        target: the same file, or another.
        overwrite: whether another file may be replaced.

    Raises:
        UsageError: the format cannot be written.
        OutputError: the file is there, or holds more than the layer.
    """
    if target.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"expected an output ending in one of {', '.join(SUFFIXES)}, found {target}; name one "
            "with -o"
        )
    if target.absolute() != layer.path.absolute():
        if target.exists() and not overwrite:
            raise OutputError(
                f"expected a new file, found {target}; choose another name, or --overwrite"
            )
        return
    more = _more_in(layer)
    if more:
        raise OutputError(
            f"expected only layer {layer.name} in {layer.path}, found {', '.join(more)} as well, "
            "which would be lost; write another file with -o"
        )


def _more_in(layer: ChangeLayer) -> list[str]:
    """Tables of a GeoPackage besides the layer and its style."""
    if layer.path.suffix.lower() != _PACKAGE:
        return []
    with closing(sqlite3.connect(layer.path)) as package:
        names = [name for (name,) in package.execute("SELECT table_name FROM gpkg_contents")]
    return sorted({*names} - {layer.name, "layer_styles"})


def write_layer(layer: ChangeLayer, target: Path, style: str) -> None:
    """Write a layer: complete, or not at all.

    Args:
        layer: with its decisions.
        target: see `check_target`.
        style: QML; a style of the user's own, in the GeoPackage or beside the target, stays.

    Raises:
        OutputError: it cannot be written.
    """
    beside = target.with_suffix(".qml")
    if target.suffix.lower() == _PACKAGE:
        own = _users_style(layer)
    else:
        own = beside.read_text("utf-8", "replace") if beside.is_file() else None
    own = None if own is None or is_own_qml(own) else own
    write_vector(
        layer.table,
        target,
        provenance=layer.provenance,
        pixel_coordinates=True,
        style=own or style,
        layer=layer.name,
    )


def _users_style(layer: ChangeLayer) -> str | None:
    """The default style of the layer in a GeoPackage, if any."""
    if layer.path.suffix.lower() != _PACKAGE:
        return None
    with closing(sqlite3.connect(layer.path)) as package:
        tables = {name for (name,) in package.execute("SELECT name FROM sqlite_master")}
        if "layer_styles" not in tables:
            return None
        found = package.execute(
            "SELECT styleQML FROM layer_styles WHERE f_table_name = ? ORDER BY useAsDefault DESC",
            (layer.name,),
        ).fetchone()
    return None if found is None else str(found[0])


def inputs_of(provenance: Provenance) -> Mapping[str, Provenance]:
    """What is known of the rasters of both dates, by date; empty for layers not of two rasters."""
    found = {date: provenance.get(date) for date in ("t1", "t2")}
    rasters = {
        date: about
        for date, about in found.items()
        if isinstance(about, dict) and "path" in about and "bands" in about
    }
    return rasters if len(rasters) == len(found) else {}
