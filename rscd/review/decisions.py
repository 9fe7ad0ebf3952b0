"""Decisions as a file: what the review page saves, and what goes into a layer and comes out of it.

``review.geojson`` is a FeatureCollection of RFC 7946 with a member ``rscd_review``: ``version`` of
the format, and ``layer``, the identity of the change layer (`rscd.review.layer`). Each feature is
one decision: ``id`` as in the layer, ``status`` accepted, rejected or unsure, ``note``,
``reviewer``, ``time`` (ISO 8601, UTC), ``edited``, whether the geometry is a redrawn outline.
Polygons without a decision are not in it. Of pictures without georeferencing the coordinates are
those of the layer.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely.geometry import mapping, shape
from shapely.geometry.polygon import orient

from rscd.base.border import border, reason, shown
from rscd.base.errors import DataError
from rscd.base.files import write_verified, writing
from rscd.geo.reviewed import COLUMNS, DECIDED, UNREVIEWED, instant

if TYPE_CHECKING:
    import geopandas

MEMBER = "rscd_review"
VERSION = 1


@dataclass(frozen=True)
class Decision:
    """What a reviewer decided about one polygon."""

    id: int
    status: str
    """One of `rscd.geo.reviewed.DECIDED`."""
    time: str
    """As of `rscd.geo.reviewed.instant`; texts sort as times. Empty where a layer does not say."""
    geometry: Any
    """Polygon or multipolygon in longitude and latitude, or in the layer's pixels."""
    note: str | None = None
    reviewer: str | None = None
    edited: bool = False
    """Whether the geometry is a redrawn outline."""


@dataclass(frozen=True)
class Review:
    """The decisions of one file."""

    layer: str
    """Identity of the change layer they are about."""
    decisions: tuple[Decision, ...]
    name: str = ""
    """Of the file, for messages."""


@dataclass(frozen=True)
class Merged:
    """The latest decision about each polygon, of several reviews."""

    decisions: Mapping[int, Decision]
    conflicts: tuple[int, ...]
    """Ids of polygons for which two reviews have different words."""


def read_review(path: Path) -> Review:
    """Read and check a review.

    Raises:
        DataError: it cannot be read, is not such a file, or holds an id twice or a word, a time or
            a geometry that is none.
    """
    content = _read_json(path)
    about = content.get(MEMBER)
    if not isinstance(about, dict) or not isinstance(content.get("features"), list):
        raise DataError(
            f"expected a review with the member {MEMBER} in {path}, found other JSON; save it with "
            "the review page, or with rscd review export"
        )
    if about.get("version") != VERSION:
        raise DataError(
            f"expected a review of version {VERSION} in {path}, found {about.get('version')!r}; "
            "use the version of rscd that wrote it, or a newer one"
        )
    layer = about.get("layer")
    if not isinstance(layer, str):
        raise DataError(f"expected the identity of a layer in {path}, found {layer!r}")
    decisions = tuple(_decision(feature, path) for feature in content["features"])
    _check_once(decisions, path)
    return Review(layer, decisions, str(path))


def write_review(path: Path, review: Review) -> None:
    """Write a review: complete, or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    text = json.dumps(review_data(review), ensure_ascii=False, separators=(",", ":"))
    with writing(path):
        write_verified(path, text.encode() + b"\n")


def review_data(review: Review) -> dict[str, Any]:
    """A review as the plain data of its file."""
    return {
        "type": "FeatureCollection",
        MEMBER: {"version": VERSION, "layer": review.layer},
        "features": [_feature(decision) for decision in review.decisions],
    }


def outline_data(geometry: Any) -> dict[str, Any]:
    """A polygon or multipolygon as the geometry of a GeoJSON feature, rings right-handed."""
    parts = [orient(part) for part in shapely.get_parts(geometry)]
    one = parts[0] if len(parts) == 1 else shapely.multipolygons(parts)
    found: dict[str, Any] = mapping(one)
    return found


def merged(reviews: Iterable[Review]) -> Merged:
    """The latest decision about each polygon; of two of one time, that of the later review."""
    latest: dict[int, Decision] = {}
    words: dict[int, set[str]] = {}
    for review in reviews:
        for decision in review.decisions:
            words.setdefault(decision.id, set()).add(decision.status)
            known = latest.get(decision.id)
            if known is None or decision.time >= known.time:
                latest[decision.id] = decision
    conflicts = sorted(number for number, found in words.items() if len(found) > 1)
    return Merged(latest, tuple(conflicts))


def check_belongs(review: Review, layer: str, ids: Iterable[int], path: str | Path) -> None:
    """Check that a review is about a layer.

    Args:
        review: as it was read.
        layer: identity of the layer.
        ids: of its polygons.
        path: of the layer, for messages.

    Raises:
        DataError: it is about another layer, or has an id that the layer lacks.
    """
    if review.layer != layer:
        raise DataError(
            f"expected a review of {path}, found that {review.name} is of another layer (identity "
            f"{review.layer[:12]}, not {layer[:12]}); give the layer that was reviewed"
        )
    strange = sorted({decision.id for decision in review.decisions} - set(ids))
    if strange:
        raise DataError(
            f"expected ids of {path} in {review.name}, found {_some(strange)}, which the layer "
            "lacks; give the layer that was reviewed"
        )


def decided(
    table: "geopandas.GeoDataFrame", decisions: Mapping[int, Decision]
) -> "geopandas.GeoDataFrame":
    """A layer with decisions in its columns; geometries stay as they are.

    Args:
        table: of `rscd.geo.reviewed.checked_review`.
        decisions: by id.
    """
    import pandas as pd

    rows = table["id"].isin(list(decisions))
    found = table.copy()
    for name, kind in COLUMNS.items():
        new = [getattr(decisions[number], name) or None for number in table.loc[rows, "id"]]
        if name == "edited":  # an outline that was redrawn before stays so
            new = [bool(n) or old for n, old in zip(new, table.loc[rows, name], strict=True)]
        found.loc[rows, name] = pd.Series(new, index=table.index[rows], dtype=kind)
    return found


def decisions_of(table: "geopandas.GeoDataFrame", outlines: Sequence[Any]) -> list[Decision]:
    """The decisions that stand in a layer's columns.

    Args:
        table: of `rscd.geo.reviewed.checked_review`.
        outlines: (N,) geometries in longitude and latitude.
    """
    rows = zip(*(table[name].astype(object) for name in ("id", *COLUMNS)), outlines, strict=True)
    return [
        Decision(
            id=int(number),
            status=status,
            time=_plain(time) or "",
            geometry=outline,
            note=_plain(note),
            reviewer=_plain(reviewer),
            edited=bool(edited),
        )
        for number, status, note, reviewer, time, edited, outline in rows
        if status != UNREVIEWED
    ]


def counts_of(table: "geopandas.GeoDataFrame") -> dict[str, int]:
    """How many polygons have each status, all four in their order."""
    found = Counter(table["status"])
    return {status: int(found[status]) for status in (*DECIDED, UNREVIEWED)}


def _plain(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _read_json(path: Path) -> dict[str, Any]:
    def to_error(error: Exception) -> DataError:
        return DataError(
            f"expected a review (GeoJSON) in {shown(path)}, found: {reason(error)}; save it again"
        )

    with border(to_error):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"{type(content).__name__} instead of an object")
        return content


def _feature(decision: Decision) -> dict[str, Any]:
    return {
        "type": "Feature",
        "properties": {
            "id": decision.id,
            "status": decision.status,
            "note": decision.note or "",
            "reviewer": decision.reviewer or "",
            "time": decision.time,
            "edited": decision.edited,
        },
        "geometry": outline_data(decision.geometry),
    }


def _decision(feature: Any, path: Path) -> Decision:
    properties = feature.get("properties") if isinstance(feature, dict) else None
    if not isinstance(properties, dict):
        raise DataError(f"expected features with properties in {path}, found one without")
    number = properties.get("id")
    if not isinstance(number, int) or isinstance(number, bool):
        raise DataError(f"expected a whole number as id in {path}, found {number!r}")
    where = f"{path}, polygon {number}"
    status = properties.get("status")
    if status not in DECIDED:
        raise DataError(f"expected status {', '.join(DECIDED)} in {where}, found {status!r}")
    texts = {name: properties.get(name) for name in ("note", "reviewer")}
    for name, text in texts.items():
        if not isinstance(text, str | None):
            raise DataError(f"expected text as {name} in {where}, found {text!r}")
    edited = properties.get("edited", False)
    if not isinstance(edited, bool):
        raise DataError(f"expected edited true or false in {where}, found {edited!r}")
    return Decision(
        id=number,
        status=status,
        time=_time(properties.get("time"), where),
        geometry=_geometry(feature.get("geometry"), where, edited=edited),
        note=texts["note"] or None,
        reviewer=texts["reviewer"] or None,
        edited=edited,
    )


def _time(text: Any, where: str) -> str:
    try:
        return "" if text == "" else instant(text)
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise DataError(
            f"expected a time such as 2026-01-31T12:00:00Z in {where}, found {text!r}"
        ) from None


def _geometry(data: Any, where: str, *, edited: bool) -> Any:
    def to_error(error: Exception) -> DataError:
        return DataError(f"expected a polygon in {where}, found: {reason(error)}; save it again")

    with border(to_error):
        if not isinstance(data, dict) or data.get("type") not in ("Polygon", "MultiPolygon"):
            raise ValueError("no polygon")
        found = shape(data)
        # of others the layer's own outline counts, which rounding to 7 decimals may have flattened
        if edited and not (found.is_valid and found.area > 0 and np.isfinite(found.bounds).all()):
            raise ValueError(shapely.is_valid_reason(found))
        return found


def _check_once(decisions: Sequence[Decision], path: Path) -> None:
    numbers = Counter(decision.id for decision in decisions)
    twice = sorted(number for number, count in numbers.items() if count > 1)
    if twice:
        raise DataError(
            f"expected every polygon once in {path}, found {_some(twice)} several times; save the "
            "review again"
        )


def _some(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return ", ".join(map(str, numbers[:5])) + more
