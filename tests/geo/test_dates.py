"""Dates as users and files give them."""

import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rscd.base.errors import UsageError
from rscd.geo.dates import (
    CLOCKS_AT_ZERO,
    FIRST_YEAR,
    dates_of,
    is_wrong_tag,
    parse_date,
    tagged_date,
)

DAYS = st.dates(min_value=datetime.date(FIRST_YEAR, 1, 1))


@given(st.datetimes(min_value=datetime.datetime(FIRST_YEAR, 1, 1)), st.sampled_from(":-/."))
def test_tags_are_read_in_their_forms(moment: Any, mark: str) -> None:
    expected = None if moment.date() in CLOCKS_AT_ZERO else moment.date()
    day = f"{moment:%Y}".zfill(4) + moment.strftime(f"{mark}%m{mark}%d")
    for text in (f"{day} {moment:%H:%M:%S}", f"{day}T{moment:%H:%M:%S}Z", day, f" {day}\0"):
        assert tagged_date(text) == expected


@pytest.mark.parametrize(
    "text",
    [None, "", "0000:00:00 00:00:00", "1970:01:01 00:00:00", "1980:01:01 00:00:00",
     "2019:13:01 00:00:00", "0001:01:01 00:00:00", "    :  :     :  :  ", "July 2019", "2019"],
)  # fmt: skip
def test_what_is_no_date_is_none(text: str | None) -> None:
    assert tagged_date(text) is None


@pytest.mark.parametrize(
    ("text", "wrong"),
    [("2020:13:45 00:00:00", True), ("July 2019", True), ("0001:01:01 00:00:00", True),
     ("2020:02:30 10:00:00", True), ("2020", True), ("2020:02:28 10:00:00", False), (None, False),
     ("", False), ("0000:00:00 00:00:00", False), ("    :  :     :  :  ", False),
     ("1970:01:01 00:00:00", False), ("0000-00-00T00:00:00Z\0", False)],
)  # fmt: skip
def test_a_tag_that_says_nothing_is_not_a_wrong_one(text: str | None, wrong: bool) -> None:
    assert is_wrong_tag(text) is wrong


@given(DAYS)
def test_iso_dates(day: Any) -> None:
    assert parse_date(day.isoformat(), "--t1-date") == day
    assert parse_date(f"{day.isoformat()}T10:11:12+02:00", "--t1-date") == day


@given(st.none() | DAYS, st.none() | DAYS, st.none() | DAYS, st.none() | DAYS)
def test_what_is_given_goes_before_what_files_say_and_nothing_goes_backwards(
    g1: Any, g2: Any, f1: Any, f2: Any
) -> None:
    first, second = (None if day is None else day.isoformat() for day in (g1, g2))
    expected = (g1 or f1, g2 or f2)
    if None not in expected and expected[0] > expected[1]:
        with pytest.raises(UsageError, match=r"t1 no later than t2.*swap the images"):
            dates_of((first, second), (f1, f2))
    else:
        assert dates_of((first, second), (f1, f2)) == expected
