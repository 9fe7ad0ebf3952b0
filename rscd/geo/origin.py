"""What a vector file says of how it was made: its provenance, and the two rasters it came from."""

import json
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath

import pyarrow.parquet
import pyogrio

from rscd.base.border import shown
from rscd.base.errors import DataError, SceneError
from rscd.base.files import sha256_of
from rscd.base.place import is_file_name
from rscd.base.types import DateName, Provenance
from rscd.geo.vectors import LAYER_WORD, PARQUET_SUFFIXES, gdal_path, vector_border

PROVENANCE_KEY = "provenance"
"""Metadata key of the provenance (JSON text) in GeoPackage and GeoParquet."""

DATES: tuple[DateName, DateName] = ("t1", "t2")


def read_provenance(path: Path, layer: str | None = None) -> Provenance:
    """What `rscd.export.vector.write_vector` stored on how a layer was made; else empty.

    Args:
        path: a vector file of any program.
        layer: name of the layer; None: the first with geometries.

    Raises:
        DataError: what is stored is no JSON object.
    """
    suffix = path.suffix.lower()
    with vector_border("provenance in", path):
        if suffix in PARQUET_SUFFIXES:
            stored = pyarrow.parquet.read_schema(path).metadata or {}
            text = stored.get(PROVENANCE_KEY.encode(), b"{}").decode()
        elif suffix == ".gpkg":
            with gdal_path(path) as link:
                name = layer or next(name for name, kind in pyogrio.list_layers(link) if kind)
                stored = pyogrio.read_info(link, layer=name)["layer_metadata"] or {}
            text = stored.get(PROVENANCE_KEY, "{}")
        else:
            beside = path.with_name(f"{path.name}.json")
            text = beside.read_text(encoding="utf-8") if beside.is_file() else "{}"
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError(f"{type(found).__name__} instead of an object as its provenance")
        return found


def rasters_of(layer: str | Path, provenance: Provenance) -> Mapping[DateName, str]:
    """Where the two rasters are that a layer was made from, by date.

    A relative name is looked for from here and from the folder of the layer, and the last part of
    any name beside the layer, as when both were moved together.

    Args:
        layer: file of the layer.
        provenance: `read_provenance` of it.

    Raises:
        DataError: the layer does not name two rasters.
        SceneError: one is gone, or is another file now.
    """
    path = Path(str(layer).partition(LAYER_WORD)[0])
    named: dict[DateName, Provenance] = {
        date: about
        for date in DATES
        if isinstance(about := provenance.get(date), dict) and isinstance(about.get("path"), str)
    }
    if len(named) < len(DATES):
        raise DataError(
            f"expected the rasters of both dates in the provenance of {path}, found none; give a "
            "layer that rscd predict wrote, or name t1 and t2"
        )
    return {date: find_raster(path, date, about, "as t1 and t2") for date, about in named.items()}


def find_raster(layer: Path, date: str, about: Provenance, how: str) -> str:
    """Where a raster is that a layer was made from: as named, seen from the layer, or beside it.

    Args:
        layer: file of the layer.
        date: t1 or t2, for messages.
        about: what the provenance says of the raster.
        how: a user can name another one, for messages: ``with --t1``.

    Raises:
        SceneError: it is gone, or is another file now.
    """
    name = str(about["path"])
    if not is_file_name(name):
        return name  # on a server, or one of GDAL's own names
    last = PureWindowsPath(name).name  # of either system's paths: layers travel
    beside = (layer.parent / one for one in (name, Path(name).name, last))
    places = dict.fromkeys([Path(name), *beside])
    there = [place for place in places if place.is_file()]
    for place in there:
        if _is_file(place, about):
            return str(place)
    if there:
        raise SceneError(
            f"expected {date} {shown(there[0])} as it was when {layer} was made, found that it "
            f"changed since; predict again, or name the right file {how}"
        )
    raise SceneError(
        f"expected {date} {shown(name)}, which {layer} was made from, found no such file from here "
        f"nor beside the layer; put it there, or name it {how}"
    )


def _is_file(path: Path, about: Provenance) -> bool:
    """Whether a file is the one that was described, as far as it was."""
    if path.stat().st_size != about.get("bytes", path.stat().st_size):
        return False  # without reading all of it
    return "sha256" not in about or sha256_of(path) == about["sha256"]
