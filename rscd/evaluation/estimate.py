"""The area of change with its confidence interval, from points that an interpreter answered."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS

from rscd.base.errors import DataError
from rscd.base.redact import redacted
from rscd.base.types import IGNORE, BoolArray, ByteArray, Progress, silent
from rscd.evaluation.layers import Reader
from rscd.evaluation.sample_points import REFERENCE, map_classes
from rscd.evaluation.strata import CHANGE, NO_CHANGE, Strata, count_strata
from rscd.export.style import REFERENCE_WORDS
from rscd.geo.grid import apply, check_same_world, shape_hw, transformer_between
from rscd.geo.tiles import Box
from rscd.geo.vectors import read_layer
from rscd.metrics.areas import CONFIDENCE, Estimate, StratifiedSample, unseen_share

FEW = 20
"""Answered points of a stratum below which the normal distribution is a poor guide."""

SQUARE_PX = 256
"""Points of a square of this side are read together."""

_SAME_AREA = 1e-6

_NEEDED = (REFERENCE, "stratum", "pixel_m2", "stratum_pixels", "stratum_m2", "stratum_points")


@dataclass(frozen=True)
class Answered:
    """What became of the points of one stratum."""

    name: str
    pixels: int
    drawn: int
    change: int
    no_change: int
    unsure: int

    @property
    def used(self) -> int:
        """Points that count."""
        return self.change + self.no_change

    @property
    def open(self) -> int:
        """Points without answer, or no longer in the file."""
        return self.drawn - self.used - self.unsure


@dataclass(frozen=True)
class AreaReport:
    """Areas and accuracies with their intervals."""

    subject: Mapping[str, Any]
    confidence: float
    unit: str
    """``m2``, or ``px`` where the pixel size is unknown."""
    mapped: float
    """Area of change on the map."""
    total: float
    """Area that the points were drawn from."""
    change: Estimate
    """Area of change."""
    accuracies: Mapping[str, Estimate]
    """Overall, user's (the fraction of a class of the map that is right) and producer's (the
    fraction of a true class that the map has) accuracy, by their names."""
    matrix: Mapping[str, float]
    """Estimated area by class of the map and truth, ``change/no-change`` and so on."""
    strata: Sequence[Answered]
    unsure_range: tuple[float, float] | None
    """Estimated area of change if no unsure point were change, and if all were; None without
    unsure points."""
    notes: Sequence[str]

    def json(self) -> dict[str, Any]:
        """Everything as plain data for one JSON object."""
        return {
            **self.subject,
            "confidence": self.confidence,
            "unit": self.unit,
            "area_of_change": self._plain(self.change) | {"mapped": self.mapped},
            "total_area": self.total,
            "accuracy": {name: self._plain(own) for name, own in self.accuracies.items()},
            "matrix_map_truth": dict(self.matrix),
            "strata": {
                own.name: {
                    "pixels": own.pixels,
                    "points": own.drawn,
                    "change": own.change,
                    "no_change": own.no_change,
                    "unsure": own.unsure,
                    "unanswered": own.open,
                }
                for own in self.strata
            },
            "area_if_unsure_none_or_all": None
            if self.unsure_range is None
            else list(self.unsure_range),
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """The report as text."""
        low, high = self.change.interval(self.confidence)
        percent = f"{100 * self.confidence:g} %"
        share = "" if self.total == 0 else f" ({100 * self.change.value / self.total:.3g} %)"
        lines = [
            *(f"{key}: {value}" for key, value in self.subject.items()),
            "",
            f"area of change: {self.change.value:,.0f} {self.unit}, {percent} interval "
            f"{low:,.0f} to {high:,.0f} {self.unit}",
            f"of {self.total:,.0f} {self.unit}{share}; the map alone says {self.mapped:,.0f} "
            f"{self.unit}",
            "",
            f"{'':<32}{'estimate':>10}{percent + ' interval':>22}",
            *(self._line(name, own) for name, own in self.accuracies.items()),
        ]
        heads = ("pixels", "points", "change", "no change", "unsure", "open")
        lines += ["", f"{'stratum':<12}" + "".join(f"{head:>12}" for head in heads)]
        for s in self.strata:
            numbers = (s.pixels, s.drawn, s.change, s.no_change, s.unsure, s.open)
            lines.append(f"{s.name:<12}" + "".join(f"{number:>12,}" for number in numbers))
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _line(self, name: str, own: Estimate) -> str:
        if math.isnan(own.value):
            return f"{name:<32}{'none':>10}"
        low, high = own.interval(self.confidence)
        return f"{name:<32}{own.value:>10.4f}{f'{low:.4f} to {high:.4f}':>22}"

    def _plain(self, own: Estimate) -> dict[str, Any]:
        if math.isnan(own.value):
            return {"estimate": None, "standard_error": None, "interval": None}
        return {
            "estimate": own.value,
            "standard_error": own.standard_error,
            "interval": list(own.interval(self.confidence)),
        }


def estimate_areas(
    points: str | Path,
    change_map: str | Path,
    confidence: float = CONFIDENCE,
    progress: Progress = silent,
) -> AreaReport:
    """Estimate the area of change and the accuracy of a map from answered points.

    The map may be another one than that from which the points were drawn: their strata are then not
    its classes, which the estimators of `rscd.metrics.areas` allow for.

    Args:
        points: layer of `rscd.evaluation.sample_points.write_points`, answered in ``reference``.
        change_map: raster of 0 no change, 1 change, 255 nodata.
        confidence: of the intervals.
        progress: progress callback.

    Raises:
        DataError: a file is none of these, or too few points of a stratum are answered.
        GridMismatchError: points and map do not share a CRS, or one has none.
    """
    frame = _points_of(points)
    answers = _answers(frame, points)
    with map_classes(change_map) as (read, grid):
        classes = _classes_at(frame, points, read, grid)
        census = count_strata(read, grid, Strata((CHANGE, NO_CHANGE)), progress)
    strata = _strata(frame, answers)
    sizes = frame.drop_duplicates("stratum").set_index("stratum")
    metres = bool(np.isfinite(frame["pixel_m2"].to_numpy(np.float64, na_value=np.nan)).all())
    used = np.isin(answers, ("change", "no change"))
    names = [own.name for own in strata]

    def sample(kept: BoolArray) -> StratifiedSample:
        mine = frame[kept]
        column = "stratum_m2" if metres else "stratum_pixels"
        return StratifiedSample(
            pd.Index(names).get_indexer(mine["stratum"]),
            sizes.loc[names, "stratum_pixels"].to_numpy(np.int64),
            sizes.loc[names, column].to_numpy(np.float64),
            mine["pixel_m2"].to_numpy(np.float64) if metres else np.ones(len(mine)),
        )

    asked = sample(used)
    census_of_all = bool((asked.drawn == asked.sizes).all())
    true, mapped = answers[used] == "change", classes[used] == 1
    known = classes[used] != IGNORE
    mapped_area = census.areas_m2[0] if metres else float(census.sizes[0])
    map_total = census.areas_m2.sum() if metres else float(census.sizes.sum())
    total = float(asked.areas.sum())
    accuracies = {
        "overall accuracy": asked.ratio((true == mapped) & known, known),
        "user's accuracy, change": asked.ratio(true & mapped & known, mapped & known),
        "user's accuracy, no-change": asked.ratio(~true & ~mapped & known, ~mapped & known),
        "producer's accuracy, change": asked.ratio(true & mapped & known, true & known),
        "producer's accuracy, no-change": asked.ratio(~true & ~mapped & known, ~true & known),
    }
    unsure = answers == "unsure"
    within = used | unsure
    both = sample(within)
    covered = classes[within] != IGNORE
    ends = (answers[within] == "change", (answers[within] == "change") | unsure[within])
    return AreaReport(
        subject={"points": redacted(str(points)), "map": redacted(str(change_map))},
        confidence=confidence,
        unit="m2" if metres else "px",
        mapped=float(mapped_area),
        total=total,
        change=asked.total(true & known),
        accuracies=accuracies,
        matrix={
            f"{of_map}/{of_truth}": asked.total((mapped == m) & (true == t) & known).value
            for of_map, m in ((CHANGE, True), (NO_CHANGE, False))
            for of_truth, t in ((CHANGE, True), (NO_CHANGE, False))
        },
        strata=strata,
        unsure_range=None
        if not unsure.any()
        else (both.total(ends[0] & covered).value, both.total(ends[1] & covered).value),
        notes=[
            *_notes(frame, answers, strata, asked, confidence),
            *(
                f"no point contradicts that {name} is {own.value:g}: an interval of no width says "
                "only that"
                for name, own in accuracies.items()
                if own.standard_error == 0 and not census_of_all
            ),
            *_map_notes(frame, classes, total, float(map_total)),
        ],
    )


def _points_of(path: str | Path) -> geopandas.GeoDataFrame:
    frame = read_layer(path, "points of rscd sample-points in")
    missing = [name for name in _NEEDED if name not in frame.columns]
    if missing:
        raise DataError(
            f"expected the columns that rscd sample-points wrote in {path}, found none named "
            f"{', '.join(missing)}; keep all columns when points are saved elsewhere"
        )
    if not len(frame):
        raise DataError(f"expected points in {path}, found none; draw them with rscd sample-points")
    kinds = set(frame.geometry.geom_type)
    if kinds != {"Point"}:
        found = ", ".join(sorted(map(str, kinds)))
        raise DataError(
            f"expected a point in each row of {path}, found {found}; draw them with rscd "
            "sample-points"
        )
    design = ["stratum_pixels", "stratum_m2", "stratum_points"]
    per_stratum = frame.groupby("stratum", dropna=False)[design].nunique(dropna=False)
    if (per_stratum != 1).to_numpy().any() or frame["stratum"].isna().any():
        raise DataError(
            f"expected one size of each stratum in {path}, found several; points of different "
            "draws cannot be joined: estimate them apart"
        )
    return frame


def _answers(frame: geopandas.GeoDataFrame, path: str | Path) -> NDArray[np.object_]:
    """(n,) one of `REFERENCE_WORDS`, or empty."""
    texts = frame[REFERENCE].astype("string").fillna("").str.strip().str.lower()
    found: NDArray[np.object_] = texts.str.replace("[-_ ]+", " ", regex=True).to_numpy(object)
    strange = sorted({str(word) for word in found} - {*REFERENCE_WORDS, ""})
    if strange:
        raise DataError(
            f"expected {', '.join(REFERENCE_WORDS)} or nothing in column {REFERENCE} of {path}, "
            f"found {strange[0]!r}; correct it"
        )
    return found


def _strata(frame: geopandas.GeoDataFrame, answers: NDArray[np.object_]) -> list[Answered]:
    found = []
    for name, rows in frame.groupby("stratum", sort=True).indices.items():
        own, first = answers[rows], frame.iloc[rows[0]]
        counts = [int(np.count_nonzero(own == word)) for word in REFERENCE_WORDS]
        drawn = int(first["stratum_points"])
        if len(rows) > drawn:
            raise DataError(
                f"expected {drawn} points of stratum {name}, found {len(rows)}; points that were "
                "not drawn at random do not count: remove them"
            )
        found.append(Answered(str(name), int(first["stratum_pixels"]), drawn, *counts))
    for own in found:
        if own.used < min(2, own.pixels):
            raise DataError(
                f"expected at least 2 points of stratum {own.name} answered with change or no "
                f"change, found {own.used} of {own.drawn}; answer more in column {REFERENCE}"
            )
    return found


def _classes_at(
    frame: geopandas.GeoDataFrame, path: str | Path, read: Reader, grid: GeoBox
) -> ByteArray:
    """(n,) class of the map at each point; 255 outside of it."""
    check_same_world("the points", path, frame.crs, grid.crs)
    x, y = shapely.get_coordinates(frame.geometry.to_numpy()).T
    if grid.crs is not None and CRS(frame.crs) != CRS(grid.crs):
        x, y = transformer_between(CRS(frame.crs), CRS(grid.crs)).transform(x, y)
    cols, rows = (np.floor(v) for v in apply(~grid.affine, x, y))
    height, width = shape_hw(grid)
    inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
    found = np.full(len(x), IGNORE, np.uint8)
    at = pd.DataFrame({"row": rows[inside], "col": cols[inside]}, np.flatnonzero(inside), dtype=int)
    for _, near in at.groupby([at["row"] // SQUARE_PX, at["col"] // SQUARE_PX]):
        top, left = int(near["row"].min()), int(near["col"].min())
        box = Box(top, left, int(near["row"].max()) - top + 1, int(near["col"].max()) - left + 1)
        found[near.index] = read(box)[near["row"] - top, near["col"] - left]
    if not inside.any():
        raise DataError(f"expected points of {path} on the map, found none; check map and CRS")
    return found


def _notes(
    frame: geopandas.GeoDataFrame,
    answers: NDArray[np.object_],
    strata: Sequence[Answered],
    asked: StratifiedSample,
    confidence: float,
) -> list[str]:
    notes = []
    lost = sum(own.drawn for own in strata) - len(frame)
    if lost:
        notes.append(f"{lost} drawn points are no longer in the file; they count as unanswered")
    unsure = sum(own.unsure for own in strata)
    if unsure:
        notes.append(
            f"{unsure} unsure points do not count, as if they were like the others of their stratum"
        )
    open_points = answers == ""
    if open_points.any():
        order = np.argsort(frame["id"].to_numpy()) if "id" in frame.columns else None
        in_turn = order is not None and not np.diff(open_points[order].astype(int)).min() < 0
        notes.append(
            f"{int(open_points.sum())} points are not answered and do not count"
            + (
                "; the others are the first by id, a random sample as well"
                if in_turn
                else "; the others are not the first by id: the interval holds only if which "
                "points were answered has nothing to do with what is there"
            )
        )
    for index, own in enumerate(strata):
        if own.used < min(FEW, own.pixels):
            notes.append(
                f"only {own.used} points of stratum {own.name} count; intervals from fewer than "
                f"{FEW} are rough"
            )
        if own.used < own.pixels and own.change == 0:
            most = unseen_share(own.used, confidence)
            notes.append(
                f"none of {own.used} points of stratum {own.name} is change; up to {most:.2g} of "
                f"it ({most * asked.areas[index]:,.0f}) could be, which the interval leaves out"
            )
    return notes


def _map_notes(
    frame: geopandas.GeoDataFrame, classes: ByteArray, total: float, map_total: float
) -> list[str]:
    notes = []
    outside = int(np.count_nonzero(classes == IGNORE))
    if outside:
        notes.append(
            f"the map has no data at {outside} points; the estimates are of its part of the area "
            "that the points were drawn from"
        )
    drawn_on = frame["map"].to_numpy() if "map" in frame.columns else classes
    other = np.any(drawn_on != classes)
    if other or abs(total - map_total) > _SAME_AREA * max(total, map_total):
        notes.append(
            "the points were drawn on another map; strata and classes of this map differ, which "
            "the estimates allow for"
        )
    return notes
