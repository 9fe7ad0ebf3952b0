"""Attribute columns: one type each, distinct names, and conversion to what a format supports."""

import base64
import datetime
import decimal
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rscd.geo.vectors import MOST_EXACT, exact_type

DAY = pd.ArrowDtype(pa.date32())
"""A calendar day: OGR's Date, Arrow's date32."""

Column = Any
"""A pandas Series; pandas is untyped."""


def distinct_names(names: Sequence[str], taken: Iterable[str], prefix: str) -> list[str]:
    """Make names distinct from each other and from those taken, ignoring case.

    Databases and OGR do not distinguish ``Name`` from ``name``. A free name is kept; a taken one
    gets a prefix, and a number if that is not enough.

    Args:
        names: in their order.
        taken: names already in use.
        prefix: for names already taken, such as ``source_``.
    """
    used = {name.lower() for name in taken}
    found: list[str | None] = []
    for name in names:  # reserve unchanged names first, so that renaming cannot take them
        free = name.lower() not in used
        found.append(name if free else None)
        used.add(name.lower())
    used |= {name.lower() for name in names}
    others = {name.lower() for name in taken}
    for index, name in enumerate(names):
        if found[index] is None:
            stem = f"{prefix}{name}" if name.lower() in others else name
            new, number = stem, 2
            while new.lower() in used:
                new, number = f"{stem}_{number}", number + 1
            found[index] = new
            used.add(new.lower())
    return [name for name in found if name is not None]


def joined(parts: Sequence[Column]) -> Column:
    """Concatenate the columns of several layers into one of a single type.

    Numbers keep their values: integers mixed with fractions become floating-point only if that
    represents them exactly. Columns without a common type become text.
    """
    try:
        arrays = [_arrow(part) for part in parts]
        kind = _common_type([array for array in arrays if array.null_count < len(array)] or arrays)
        if kind is not None:
            one = pa.chunked_array([array.cast(kind) for array in arrays], kind)
            found = one.to_pandas(types_mapper=exact_type)
            return found.astype("string") if found.dtype == object else found  # text without rows
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        pass  # values of several types
    return pd.concat([as_text(part) for part in parts], ignore_index=True)


def _arrow(values: Column) -> Any:
    found = pa.array(values, from_pandas=True)
    if isinstance(found, pa.ChunkedArray):
        found = found.combine_chunks()
    return found.dictionary_decode() if pa.types.is_dictionary(found.type) else found


def _common_type(arrays: Sequence[Any]) -> Any:
    """The type that represents all values of all arrays exactly; None if there is none."""
    kinds = [array.type for array in arrays]

    def every(*tests: Callable[[Any], bool]) -> bool:
        return all(any(test(kind) for test in tests) for kind in kinds)

    common = None
    if every(pa.types.is_null):
        common = pa.string()
    elif len(set(kinds)) == 1:
        common = kinds[0]
    elif every(pa.types.is_string, pa.types.is_large_string):
        common = pa.string()
    elif every(pa.types.is_timestamp) and len({kind.tz is None for kind in kinds}) == 1:
        common = pa.timestamp("us", None if kinds[0].tz is None else "UTC")
    elif every(pa.types.is_integer, pa.types.is_floating):
        common = _common_number(arrays)
    return common


def _common_number(arrays: Sequence[Any]) -> Any:
    limits = [pc.min_max(a).as_py() for a in arrays if pa.types.is_integer(a.type)]
    least = min(limit["min"] for limit in limits) if limits else 0
    most = max(limit["max"] for limit in limits) if limits else 0
    if len(limits) == len(arrays):
        return pa.int64() if most < 2**63 else pa.uint64() if least >= 0 else None
    return pa.float64() if max(-least, most) <= MOST_EXACT else None


def as_text(values: Column) -> Column:
    """Any values as text: nested ones as JSON, durations and dates as in ISO 8601."""
    plain = values.astype(object)
    texts = [None if _is_missing(value) else _text(value) for value in plain]
    return pd.Series(texts, index=values.index, dtype="string")


def _is_missing(value: Any) -> bool:
    return bool(value is None or (pd.api.types.is_scalar(value) and pd.isna(value)))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, datetime.timedelta):  # includes pandas' own types
        return str(pd.Timedelta(value).isoformat())
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, dict | list | tuple | set | np.ndarray):
        return json.dumps(_plain(value), ensure_ascii=False)
    return str(value)


def _plain(value: Any) -> Any:
    """Nested values as JSON has them."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return _text(value)


def arrow_kind(values: Column) -> Any:
    """The Arrow type of a column with a pyarrow dtype, else None."""
    return values.dtype.pyarrow_dtype if isinstance(values.dtype, pd.ArrowDtype) else None


def is_decimal(values: Column) -> bool:
    """Whether a column holds decimal numbers."""
    kind = arrow_kind(values)
    return kind is not None and bool(pa.types.is_decimal(kind))


def for_ogr(values: Column, *, binary: bool) -> tuple[Column, str | None]:
    """Convert a column to a type that OGR's formats support.

    Args:
        values: of any type.
        binary: whether the format has a binary type.

    Returns:
        The column, and a description of the conversion, or None if it was not converted.
    """
    for test, convert, word in _CONVERSIONS:
        if test(values):
            if word == _BASE64 and binary:
                return values, None
            found: tuple[Column, str | None] = convert(values)
            return found
    return values, None


def _converted(word: str) -> Callable[[Column], tuple[Column, str | None]]:
    return lambda values: (as_text(values), word)


def _of_decimals(values: Column) -> tuple[Column, str | None]:
    exact = [None if _is_missing(value) else value for value in values.astype(object)]
    floats = [np.nan if value is None else float(value) for value in exact]
    same = all(
        value is None or decimal.Decimal(repr(number)) == value
        for value, number in zip(exact, floats, strict=True)
    )
    if same:
        return pd.Series(floats, index=values.index, dtype="float64"), None
    return as_text(values), "decimal numbers as text"


def _of_unsigned(values: Column) -> tuple[Column, str | None]:
    if values.isna().all() or int(values.max()) < 2**63:
        return values.astype("Int64"), None
    return as_text(values), "whole numbers beyond 2^63 as text"


def _of_objects(values: Column) -> tuple[Column, str | None]:
    found = joined([values]).set_axis(values.index)
    mixed = (
        found.dtype == "string" and not values.map(lambda v: _is_missing(v) or type(v) is str).all()
    )
    return (found, "mixed values as text") if mixed else for_ogr(found, binary=False)


def _arrow_test(*tests: Callable[[Any], bool]) -> Callable[[Column], bool]:
    def test(values: Column) -> bool:
        kind = arrow_kind(values)
        return kind is not None and any(one(kind) for one in tests)

    return test


_BASE64 = "bytes as text (base64)"
_CONVERSIONS: tuple[tuple[Callable[[Column], bool], Any, str], ...] = (
    (
        lambda values: str(values.dtype) == "category",
        lambda v: for_ogr(v.astype(v.dtype.categories.dtype), binary=False),
        "",
    ),
    (is_decimal, _of_decimals, ""),
    (lambda v: str(v.dtype).lower() == "uint64" or arrow_kind(v) == pa.uint64(), _of_unsigned, ""),
    (_arrow_test(pa.types.is_duration), _converted("durations as text (ISO 8601)"), ""),
    (lambda v: v.dtype.kind == "m", _converted("durations as text (ISO 8601)"), ""),
    (_arrow_test(pa.types.is_time), _converted("times of day as text"), ""),
    (_arrow_test(pa.types.is_nested), _converted("nested values as text (JSON)"), ""),
    (_arrow_test(pa.types.is_binary, pa.types.is_large_binary), _converted(_BASE64), _BASE64),
    (lambda v: v.dtype.kind == "c", _converted("complex numbers as text"), ""),
    (lambda v: str(v.dtype) == "geometry", _converted("a second geometry as text (WKT)"), ""),
    (lambda v: str(v.dtype) == "object", _of_objects, ""),
)
"""Tests for columns that OGR does not support, and their conversions; the first match applies."""
