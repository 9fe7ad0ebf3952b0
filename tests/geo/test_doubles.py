"""Polygons of pairs that overlap: one per change, none changed, whatever the order."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from rscd.geo.doubles import LEAST_SHARED, Found, without_doubles

DAYS = np.array(["2019-01-01", "2020-01-01", "2021-01-01", "NaT"], "datetime64[D]")


def found(rows: list[tuple[Any, ...]]) -> Found:
    """Rows of (box, pair, kind, start, end, score)."""
    boxes, pairs, kinds, starts, ends, scores = zip(*rows, strict=True)
    return Found(
        np.array([shapely.box(*box) for box in boxes], object),
        np.array(pairs, str),
        np.array(kinds, str),
        np.array(starts, "datetime64[D]"),
        np.array(ends, "datetime64[D]"),
        np.array(scores, float),
    )


@st.composite
def _rows(draw: Callable[..., Any]) -> list[Any]:
    side = st.integers(1, 6)
    rows = []
    # polygons of one pair do not overlap: one per cell of a lattice of its own
    for pair in "abc"[: draw(st.integers(1, 3))]:
        start, end = draw(st.sampled_from([(0, 1), (1, 2), (0, 2), (3, 1), (3, 3)]))
        for cell in range(draw(st.integers(0, 4))):
            x, y = 6 * cell + draw(st.integers(0, 2)), draw(st.integers(0, 3))
            box = (x, y, x + min(draw(side), 6 - (x - 6 * cell)), y + draw(side))
            kind = draw(st.sampled_from(["appeared", "vanished", "changed"]))
            score = draw(st.sampled_from([0.5, 0.9, np.nan]))
            rows.append((box, pair, kind, DAYS[start], DAYS[end], score))
    return rows


def _doubles(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """The rule as its text says it."""
    (a, pair_a, kind_a, *days_a, _), (b, pair_b, kind_b, *days_b, _) = one, other
    a, b = shapely.box(*a), shapely.box(*b)
    if pair_a == pair_b or {kind_a, kind_b} == {"appeared", "vanished"}:
        return False
    before = days_a[1] <= days_b[0] or days_b[1] <= days_a[0]
    if before and days_a != days_b:
        return False
    return a.intersection(b).area >= LEAST_SHARED * min(a.area, b.area)


@settings(max_examples=150, deadline=None)
@given(rows=_rows(), seed=st.integers(0, 9))
def test_no_two_are_doubles_and_none_is_lost(rows: list[Any], seed: int) -> None:
    if not rows:
        return
    keep = without_doubles(found(rows))
    kept = [row for row, stays in zip(rows, keep, strict=True) if stays]
    gone = [row for row, stays in zip(rows, keep, strict=True) if not stays]
    assert not any(_doubles(one, other) for one in kept for other in kept if one is not other)
    for row in gone:
        larger = [one for one in kept if _doubles(one, row)]
        assert max(shapely.box(*one[0]).area for one in larger) >= shapely.box(*row[0]).area
    # the order of polygons does not matter, and once is enough
    order = np.random.default_rng(seed).permutation(len(rows))
    assert without_doubles(found([rows[i] for i in order])).tolist() == keep[order].tolist()
    assert without_doubles(found(kept)).all()


def row(
    box: tuple[int, int, int, int],
    pair: str,
    kind: str = "changed",
    start: str = "2019-01-01",
    end: str = "2020-01-01",
    score: float = 0.5,
) -> tuple[Any, ...]:
    return box, pair, kind, start, end, score


WHOLE, CUT = (0, 0, 10, 10), (0, 0, 4, 10)


@pytest.mark.parametrize(
    ("rows", "keep"),
    [
        pytest.param([row(CUT, "a"), row(WHOLE, "b")], [False, True], id="cut by an edge"),
        pytest.param([row(WHOLE, "a"), row((6, 0, 16, 10), "b")], [True, True], id="less shared"),
        pytest.param([row(WHOLE, "a"), row(CUT, "a")], [True, True], id="of one pair"),
        pytest.param(
            [row(WHOLE, "a"), row(WHOLE, "b", score=0.9)], [False, True], id="the higher score"
        ),
        pytest.param(
            [row(WHOLE, "b"), row(WHOLE, "a")], [False, True], id="equal but for the pair"
        ),
        pytest.param(
            [row(WHOLE, "a"), row(WHOLE, "b", start="2020-01-01", end="2021-01-01")],
            [True, True],
            id="one after the other",
        ),
        pytest.param(
            [row(WHOLE, "a"), row(WHOLE, "b", start="2019-06-01", end="2021-01-01")],
            [True, False],
            id="times overlap",
        ),
        pytest.param(
            [row(WHOLE, "a", start="NaT", end="NaT"), row(WHOLE, "b")], [True, False], id="no dates"
        ),
        pytest.param(
            [row(WHOLE, "a", "appeared"), row(WHOLE, "b", "vanished")], [True, True], id="opposite"
        ),
    ],
)
def test_what_is_a_double(rows: list[tuple[Any, ...]], keep: list[bool]) -> None:
    assert without_doubles(found(rows)).tolist() == keep
