"""A reviewed layer: what an analyst decided about each polygon, as columns of the layer.

The one place that knows the words of a status and the columns of a review; the file that a page
saves is `rscd.review.decisions`.
"""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rscd.base.errors import DataError
from rscd.geo.vectors import read_layer

if TYPE_CHECKING:
    import geopandas
    import pandas as pd

ACCEPTED, REJECTED, UNSURE = "accepted", "rejected", "unsure"
DECIDED = (ACCEPTED, REJECTED, UNSURE)
"""What an analyst decides: the polygon is change, it is none, or nobody can tell."""
UNREVIEWED = "unreviewed"
STATUSES = (*DECIDED, UNREVIEWED)

COLUMNS: Mapping[str, str] = {
    "status": "string",
    "note": "string",
    "reviewer": "string",
    "time": "string",
    "edited": "bool",
}
"""Columns of a review and their types, in order: ``status`` is one of `STATUSES`, ``note`` and
``reviewer`` are free text or null, ``time`` is when it was decided, as `instant` writes it, or
null, ``edited`` is whether the outline was redrawn in the review."""

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def read_reviewed(path: str | Path, what: str = "reviewed polygons in") -> "geopandas.GeoDataFrame":
    """Polygons of a layer with what was decided about each.

    Args:
        path: any vector file, as of `rscd.geo.vectors.read_layer`.
        what: the expected content with a preposition, for messages.

    Returns:
        All columns of the layer, and the `COLUMNS` of a review with their types; ``id`` is int64,
        each once; ``status`` is never null. The index counts from 0.

    Raises:
        DataError: it cannot be read, has no column ``status``, or holds an id or a value that is
            none.
    """
    table = read_layer(path, what)
    if "status" not in table.columns:
        raise DataError(
            f"expected a column status in {path}, found {_names(table)}; put decisions into the "
            f"layer first: rscd review apply {path} review.geojson"
        )
    return checked_review(table, path)


def checked_review(table: "geopandas.GeoDataFrame", path: str | Path) -> "geopandas.GeoDataFrame":
    """A change layer with the columns of a review, checked; those it lacks are added, undecided.

    Args:
        table: as it was read.
        path: of its file, for messages.

    Returns:
        See `read_reviewed`; columns of a review that were missing come last.

    Raises:
        DataError: an id or a value of a review that is none, or points in place of polygons.
    """
    import pandas as pd

    if table.geom_type.isin(("Point", "MultiPoint")).any():
        raise DataError(
            f"expected change polygons in {path}, found points; give the layer of rscd predict "
            "(points of rscd sample-points are estimated with their map: rscd estimate POINTS MAP)"
        )
    found = table.reset_index(drop=True)
    found["id"] = _ids(found, path)
    for name, kind in COLUMNS.items():
        given = found[name].astype(object) if name in found else [None] * len(found)
        values = [_checked(name, None if pd.isna(v) else v, path) for v in given]
        found[name] = pd.Series(values, index=found.index, dtype=kind)
    return found


def instant(text: str) -> str:
    """A point of time in the one form in which texts sort as times: 2026-01-31T12:00:00.000Z.

    Args:
        text: ISO 8601 with an offset from UTC, or milliseconds since 1970, which QGIS can write.

    Raises:
        ValueError: anything else.
    """
    if text.isdigit():
        when = _EPOCH + datetime.timedelta(milliseconds=int(text))
    else:
        when = datetime.datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError(f"no offset from UTC in {text!r}")
    utc = when.astimezone(datetime.UTC).replace(tzinfo=None)
    return utc.isoformat(timespec="milliseconds") + "Z"


def _ids(table: "geopandas.GeoDataFrame", path: str | Path) -> "pd.Series[Any]":
    """Column ``id`` as int64."""
    if "id" not in table.columns:
        raise DataError(f"expected a column id in {path}, found {_names(table)}; number the rows")
    values = table["id"]
    if len(values) and values.dtype.kind not in "iuf":
        raise DataError(f"expected whole numbers as id in {path}, found {values.iloc[0]!r}")
    missing = int((values.isna() | (values % 1 != 0)).sum()) if len(values) else 0
    if missing:
        raise DataError(
            f"expected a whole number as id of every polygon in {path}, found none for {missing}; "
            "number new polygons"
        )
    if values.duplicated().any():
        raise DataError(
            f"expected every id once in {path}, found {values[values.duplicated()].iloc[0]} several"
            " times; number the polygons anew"
        )
    return values.astype("int64")


def _checked(name: str, value: Any, path: str | Path) -> Any:
    """A value of a review's column as it is stored."""
    if name == "edited":
        return bool(value)
    text = _text(value)
    if name == "status":
        if text not in (*STATUSES, None):
            raise DataError(
                f"expected status {', '.join(STATUSES)} in {path}, found {text!r}; correct it"
            )
        return text or UNREVIEWED
    if name == "time" and text is not None:
        try:
            return instant(text)
        except (ValueError, OverflowError):
            raise DataError(
                f"expected times such as 2026-01-31T12:00:00Z in {path}, found {text!r}; correct "
                "column time"
            ) from None
    return text


def _text(value: Any) -> str | None:
    if isinstance(value, datetime.datetime):  # GeoJSON's texts are read as what they look like
        return value.isoformat()
    text = "" if value is None else str(value)
    return text if text.strip() else None


def _names(table: "geopandas.GeoDataFrame") -> str:
    names = [str(name) for name in table.columns if name != table.geometry.name]
    return ", ".join(names[:12]) or "no columns"
