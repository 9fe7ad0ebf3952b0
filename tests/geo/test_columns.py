"""Columns of several layers as one, their names, and what a format can hold of them."""

import datetime
import decimal
import json
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rscd.geo.columns import as_text, distinct_names, for_ogr, joined

WHOLE = st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5)
NAMES = st.lists(st.sampled_from(["id", "ID", "Name", "name", "source_id", "id_2", "kind"]))


def values(column: Any) -> list[Any]:
    return [None if pd.isna(value) else value for value in column.astype(object)]


@given(NAMES.map(lambda names: list(dict.fromkeys(names))))
def test_names_differ_whatever_their_case_and_stay_where_they_can(names: list[Any]) -> None:
    taken = ("id", "kind", "geometry")
    found = distinct_names(names, taken, "source_")
    assert len(found) == len(names)
    assert len({name.lower() for name in (*taken, *found)}) == len(taken) + len(names)
    first = [name for i, name in enumerate(names) if name.lower() not in taken
             and name.lower() not in {other.lower() for other in names[:i]}]  # fmt: skip
    assert set(first) <= set(found)


def test_a_renamed_field_does_not_take_the_name_of_another() -> None:
    found = distinct_names(["id", "source_id", "Name", "name"], ["id"], "source_")
    assert found == ["source_id_2", "source_id", "Name", "name_2"]


@given(WHOLE, WHOLE)
def test_whole_numbers_stay_whole(first: list[Any], second: list[Any]) -> None:
    parts = [pd.Series(pd.array(part, dtype="Int64")) for part in (first, second)]
    assert values(joined(parts)) == first + second
    assert values(for_ogr(joined(parts), binary=False)[0]) == first + second


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([2**53 + 1], [0.5], ["9007199254740993", "0.5"]),  # no float holds the first
        ([3], [0.5], [3.0, 0.5]),
        (np.array([2**64 - 1], "uint64"), [1], [2**64 - 1, 1]),
        (np.array([2**64 - 1], "uint64"), [-1], [str(2**64 - 1), "-1"]),
        ([1], ["a"], ["1", "a"]),
        ([True, None], [False], [True, None, False]),
        ([None], [7], [None, 7]),
        ([None], [None], [None, None]),
        ([1, "a"], [None], ["1", "a", None]),
    ],
)
def test_layers_of_different_types(
    first: NDArray[Any] | list[Any], second: list[Any], expected: list[Any]
) -> None:
    assert values(joined([pd.Series(first), pd.Series(second)])) == expected


MOMENT = datetime.datetime(
    2020, 1, 2, 3, 4, 5, tzinfo=datetime.timezone(datetime.timedelta(0, 7200))
)


@pytest.mark.parametrize(
    ("column", "expected", "became"),
    [
        (pd.to_timedelta([1, 2], unit="D"), ["P1DT0H0M0S", "P2DT0H0M0S"], "durations"),
        (np.array([2**63 + 5, 1], "uint64"), [str(2**63 + 5), "1"], "beyond 2\\^63"),
        (np.array([5, 1], "uint64"), [5, 1], None),
        ([["a", "b"], None], ['["a", "b"]', None], "JSON"),
        ([{"a": 1.5}, {"a": None}], ['{"a": 1.5}', '{"a": null}'], "JSON"),
        (pd.Categorical(["x", "y"]), ["x", "y"], None),
        (pd.Categorical([2**60 + 1, 2]), [2**60 + 1, 2], None),
        ([decimal.Decimal("12.34"), None], [12.34, None], None),
        ([decimal.Decimal("0.12345678901234567890"), None],
         ["0.12345678901234567890", None], "decimal"),
        ([b"\x00\xff", None], ["AP8=", None], "base64"),
        ([datetime.time(1, 2, 3), None], ["01:02:03", None], "times of day"),
        ([1, "a"], ["1", "a"], "mixed"),
        ([datetime.date(2020, 1, 2), None], [datetime.date(2020, 1, 2), None], None),
        ([True, None], [True, None], None),
        (pd.to_datetime([MOMENT]), [MOMENT], None),
        (["a", None], ["a", None], None),
    ],
)  # fmt: skip
def test_what_ogr_holds(column: Any, expected: list[Any], became: str | None) -> None:
    import re

    rows = pd.RangeIndex(7, 7 + len(column))  # of a table that lost its first seven rows
    found, note = for_ogr(pd.Series(column, rows), binary=False)
    assert values(found) == expected
    assert found.index.equals(rows)
    if became is None:
        assert note is None
    else:
        assert note is not None
        assert re.search(became, note)


def test_bytes_stay_where_the_format_has_them() -> None:
    column = pd.Series([b"ab"], dtype=pd.ArrowDtype(pa.binary()))
    assert for_ogr(column, binary=True)[1] is None


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_nested_values_are_json(value: Any) -> None:
    (text,) = as_text(pd.Series([[value]]))
    assert json.loads(text) == [value]
