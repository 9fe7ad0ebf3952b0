"""Lists of pairs: tables, two folders, STAC item collections."""

import csv
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet
from pyproj import CRS

from rscd.base.border import border, found_in, reason
from rscd.base.errors import DataError, UsageError
from rscd.base.files import by_stem, natural_key
from rscd.geo.area import Area
from rscd.geo.vectors import PARQUET_SUFFIXES, read_layer

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
"""Of images in folders of pairs."""

COLUMNS = ("t1", "t2", "id", "aoi", "t1_date", "t2_date")
JSON_SUFFIXES = (".json", ".geojson")

MOST_ID = 100
_ID = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{MOST_ID - 1}}}")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """Two rasters to compare, by an id that may be the name of a folder."""

    id: str
    t1: str
    """Path or address of a raster, or of a STAC item."""
    t2: str
    aoi: str | Area | None = None
    """Area of interest: a vector file, or the area."""
    t1_date: str | None = None
    t2_date: str | None = None

    @property
    def area(self) -> Area | None:
        """The area of interest; a file is read now."""
        return Area.from_file(self.aoi) if isinstance(self.aoi, str) else self.aoi

    def plain(self) -> dict[str, str | None]:
        """The columns of the pair as text."""
        aoi = self.aoi.geometry.wkt if isinstance(self.aoi, Area) else self.aoi
        return {
            "id": self.id,
            "t1": self.t1,
            "t2": self.t2,
            "aoi": aoi,
            "t1_date": self.t1_date,
            "t2_date": self.t2_date,
        }


def read_pairs(given: Sequence[str]) -> list[Pair]:
    """The pairs that a command names.

    Args:
        given: a CSV, a GeoParquet or a STAC ItemCollection; or two folders, or two ItemCollections.
            Tables have the columns ``t1`` and ``t2`` and may have ``id``, ``aoi``, ``t1_date`` and
            ``t2_date``; without ``id`` a pair has the name of its t1. Relative paths begin at the
            table's folder. The polygons of a GeoParquet are areas of interest.

    Returns:
        At least one; ids differ, also where upper case does not count.

    Raises:
        UsageError: for anything else.
        DataError: a list that is damaged or names no pairs.
    """
    paths = [Path(path) for path in given]
    suffixes = {path.suffix.lower() for path in paths}
    folders = sum(path.is_dir() for path in paths)
    if len(paths) == 2 and folders == 2:
        found = [Pair(t1.stem, str(t1), str(t2)) for t1, t2 in of_folders(*paths)]
    elif folders == 0 and len(paths) <= 2 and suffixes <= {*JSON_SUFFIXES}:
        found = _of_items(given)
    elif folders == 0 and len(paths) == 1 and suffixes == {".csv"}:
        found = _of_rows(_csv_rows(paths[0]), paths[0])
    elif folders == 0 and len(paths) == 1 and suffixes <= {*PARQUET_SUFFIXES}:
        found = _of_rows(_parquet_rows(paths[0]), paths[0])
    else:
        raise UsageError(
            "expected a list of pairs (.csv, .parquet or a STAC ItemCollection .json), two folders "
            f"or two ItemCollections, found {', '.join(given)}"
        )
    _check_ids([pair.id for pair in found], " and ".join(given))
    return found


def of_folders(t1: Path, t2: Path) -> list[tuple[Path, Path]]:
    """Images of the same name, sorted with numbers in numeric order.

    Raises:
        UsageError: for images without a partner, or no images.
    """
    first, second = by_stem(t1, SUFFIXES), by_stem(t2, SUFFIXES)
    alone = sorted(first.keys() ^ second.keys())
    if alone or not first:
        found = f"{len(alone)} without a partner, such as {alone[0]}" if alone else "none"
        raise UsageError(
            f"expected images with the same names in {t1} and {t2}, found {found}; rename or "
            "remove images without a partner"
        )
    return [(first[name], second[name]) for name in sorted(first, key=natural_key)]


def _check_ids(ids: Sequence[str], where: str) -> None:
    if not ids:
        raise DataError(f"expected at least one pair in {where}, found none")
    for name in ids:
        if _ID.fullmatch(name) is None:
            raise DataError(
                f"expected ids of letters, digits, '_', '-' and '.', at most {MOST_ID}, in {where},"
                f" found {name!r}; rename it, or give a column id"
            )
    seen: dict[str, str] = {}
    for name in ids:
        if name.lower() in seen:
            raise DataError(
                f"expected ids that differ in {where}, found {seen[name.lower()]} and {name}; "
                "give a column id"
            )
        seen[name.lower()] = name


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    def to_error(error: Exception) -> DataError:
        found = found_in(path, error, "write it as text in UTF-8", "vector")
        return DataError(f"expected a table of pairs, {found}")

    with border(to_error), path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True, skipinitialspace=True)
        names = [str(name).strip().lower() for name in reader.fieldnames or ()]
        reader.fieldnames = names
        rows = list(reader)
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise DataError(
                f"expected {len(names)} values in every row of {path}, found another number in "
                f"line {number}; quote values that have a comma"
            )
    _check_columns(names, path)
    return rows


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    def to_error(error: Exception) -> DataError:
        found = found_in(path, error, "write it again", "vector")
        return DataError(f"expected a table of pairs, {found}")

    with border(to_error):
        placed = b"geo" in (pyarrow.parquet.read_schema(path).metadata or {})
        frame = read_layer(path, "pairs in") if placed else pd.read_parquet(path)
    areas: list[Area | None] = [None] * len(frame)
    if placed:
        crs = None if frame.crs is None else CRS(frame.crs)
        shapes = frame.geometry.to_numpy()
        areas = [None if shape is None or shape.is_empty else Area(shape, crs) for shape in shapes]
        frame = pd.DataFrame(frame.drop(columns=frame.geometry.name))
    frame.columns = [str(name).strip().lower() for name in frame.columns]
    _check_columns(list(frame.columns), path)
    rows = [
        {name: None if pd.isna(value) else str(value) for name, value in row.items()}
        for row in frame[[name for name in COLUMNS if name in frame]].to_dict("records")
    ]
    return [
        row if area is None else row | {"area": area} for row, area in zip(rows, areas, strict=True)
    ]


def _check_columns(names: Sequence[str], path: Path) -> None:
    missing = [name for name in ("t1", "t2") if name not in names]
    if missing or len(set(names)) < len(names):
        raise DataError(
            f"expected the columns t1 and t2, each once, in {path}, found {', '.join(names)}; "
            "rename them"
        )
    if unknown := [name for name in names if name not in COLUMNS]:
        log.warning("%s: columns that mean nothing here: %s", path, ", ".join(unknown))


def _of_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> list[Pair]:
    def text(row: Mapping[str, Any], name: str) -> str:
        return (row.get(name) or "").strip()

    return [
        Pair(
            text(row, "id") or _stem(text(row, "t1")),
            _placed(text(row, "t1"), path),
            _placed(text(row, "t2"), path),
            row.get("area") or _placed(text(row, "aoi"), path) or None,
            text(row, "t1_date") or None,
            text(row, "t2_date") or None,
        )
        for row in rows
    ]


def _stem(name: str) -> str:
    return Path(name.partition("#")[0].partition("?")[0]).stem


def _placed(name: str, table: Path) -> str:
    """A path from a table, from where it is read; empty where there is none."""
    if not name or "://" in name or name.startswith("/vsi"):
        return name
    return str(table.parent / name)


def _of_items(given: Sequence[str]) -> list[Pair]:
    """Pairs of STAC items of one place, from one collection with both dates or from two."""
    collections = [_items(path) for path in given]
    if len(collections) == 1:
        return _consecutive(collections[0], given[0])
    first, second = (_one_each(items, path) for items, path in zip(collections, given, strict=True))
    alone = first.keys() ^ second.keys()
    both = [(first[place], second[place]) for place in first if place in second]
    _warn_alone([(first | second)[place] for place in alone])
    return [_pair_of_items(t1, given[0], t2, given[1]) for t1, t2 in both]


def _items(path: str) -> list[Any]:
    import pystac

    def to_error(error: Exception) -> DataError:
        return DataError(
            f"expected a STAC ItemCollection in {path}, found {reason(error)}; save the result of "
            "a search as one (pystac_client: search.item_collection().save_object)"
        )

    with border(to_error):
        items = list(pystac.ItemCollection.from_file(path))
        if len({item.id for item in items}) < len(items):
            raise ValueError("two items of one id")
        return items


def _place(item: Any) -> object:
    """What tells items of one place from others: their tile, else their grid, else their bounds."""
    about = item.properties
    if "grid:code" in about:
        return about["grid:code"]
    if "proj:transform" in about and "proj:shape" in about:
        code = about.get("proj:code") or about.get("proj:epsg")
        return (code, *about["proj:transform"][:6], *about["proj:shape"])
    return tuple(round(side, 6) for side in item.bbox or ())


def _when(item: Any) -> Any:
    return item.datetime or item.common_metadata.start_datetime


def _consecutive(items: Sequence[Any], path: str) -> list[Pair]:
    places = defaultdict(list)
    for item in items:
        places[_place(item)].append(item)
    pairs = []
    for group in places.values():
        group.sort(key=_when)
        pairs += [_pair_of_items(t1, path, t2, path) for t1, t2 in pairwise(group)]
    _warn_alone([group[0] for group in places.values() if len(group) == 1])
    return pairs


def _one_each(items: Iterable[Any], path: str) -> dict[object, Any]:
    found: dict[object, Any] = {}
    for item in items:
        place = _place(item)
        if place in found:
            raise DataError(
                f"expected one item per place in each of two searches, found {found[place].id} and "
                f"{item.id} in {path}; keep one of them, or give one file with all dates"
            )
        found[place] = item
    return found


def _warn_alone(items: Sequence[Any]) -> None:
    if items:
        names = sorted(item.id for item in items)
        log.warning(
            "%d items have no other date of their place and are skipped, such as %s",
            *(len(names), names[0]),
        )


def _pair_of_items(t1: Any, path1: str, t2: Any, path2: str) -> Pair:
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", f"{t1.id}__{t2.id}")
    return Pair(name, f"{path1}#{t1.id}", f"{path2}#{t2.id}")
