"""Acquisition dates, given by the user or read from TIFF tags."""

import datetime
import logging
import re

from rscd.base.errors import UsageError

CLOCKS_AT_ZERO = frozenset({datetime.date(1970, 1, 1), datetime.date(1980, 1, 1)})
"""Dates written by devices and programs whose clock was never set."""

FIRST_YEAR = 1858
"""Year of the first aerial photograph."""

log = logging.getLogger(__name__)

_TIFF = re.compile(r"\s*(\d{4})[:/.-](\d{2})[:/.-](\d{2})(?:[ T]|\s*\0*$)")


def parse_date(text: str, option: str) -> datetime.date:
    """The day of an ISO date, with or without time.

    Args:
        text: a date such as ``2019-07-14`` or ``2019-07-14T10:30:00Z``.
        option: where it was given, for the message.

    Raises:
        UsageError: for anything else, including a year or month without a day.
    """
    try:
        if re.match(r"\d{4}-\d{2}-\d{2}", text) is None:
            raise ValueError(text)
        return datetime.datetime.fromisoformat(text).date()
    except ValueError:
        part = re.fullmatch(r"\d{4}(-\d{2})?", text)
        found = f"the {'month' if part[1] else 'year'} {text}" if part else repr(text)
        day = "-15" if part and part[1] else "-07-01"
        example = f", such as {text}{day}" if part else ""
        raise UsageError(
            f"expected an ISO date such as 2019-07-14 for {option}, found {found}; give the day as "
            f"YYYY-MM-DD{example}"
        ) from None


def tagged_date(text: str | None) -> datetime.date | None:
    """The day of a TIFFTAG_DATETIME, usually ``YYYY:MM:DD HH:MM:SS``.

    Returns:
        None if there is none, if it is not a date, or if it comes from a clock that was never set.
    """
    match = _TIFF.match(text or "")
    if match is None:
        return None
    try:
        found = datetime.date(*map(int, match.groups()))
    except ValueError:
        return None
    return None if found.year < FIRST_YEAR or found in CLOCKS_AT_ZERO else found


def is_wrong_tag(text: str | None) -> bool:
    """Whether a TIFFTAG_DATETIME was to say something and is no date, such as month 13.

    Blanks and zeros are how files say that the date is not known; they are not wrong, nor is what a
    clock shows that was never set.
    """
    if text is None or not re.search(r"[^\s:\0\-/.TZ0]", text):
        return False
    try:
        match = _TIFF.match(text)
        return match is None or datetime.date(*map(int, match.groups())).year < FIRST_YEAR
    except ValueError:
        return True


def dates_of(
    given: tuple[str | None, str | None],
    tagged: tuple[datetime.date | None, datetime.date | None] = (None, None),
) -> tuple[datetime.date | None, datetime.date | None]:
    """Both dates of a pair: those given, else those stored in the files.

    Raises:
        UsageError: for text that is not a date, or t1 later than t2.
    """
    t1, t2 = (
        own if text is None else parse_date(text, option)
        for text, own, option in zip(given, tagged, ("--t1-date", "--t2-date"), strict=True)
    )
    if t1 is not None and t2 is not None and t1 > t2:
        where = [" (its TIFFTAG_DATETIME)" if text is None else "" for text in given]
        raise UsageError(
            f"expected t1 no later than t2, found {t1}{where[0]} and {t2}{where[1]}; swap the "
            "images, or correct the dates with --t1-date and --t2-date",
            fault="dates-reversed",
        )
    return t1, t2


def days_of(
    given: tuple[str | None, str | None],
    tags: tuple[str | None, str | None],
    paths: tuple[str, str],
) -> tuple[str | None, str | None]:
    """ISO dates of a pair: those given, else the days of the files; these are logged.

    Args:
        given: by the user.
        tags: TIFFTAG_DATETIME of each file.
        paths: of the files, for messages.

    Raises:
        UsageError: see `dates_of`.
    """
    days = dates_of(given, (tagged_date(tags[0]), tagged_date(tags[1])))
    found: list[str | None] = []
    for date, text, day, tag, path in zip(("t1", "t2"), given, days, tags, paths, strict=True):
        if text is None and is_wrong_tag(tag):
            log.warning(
                "%s: its TIFFTAG_DATETIME %r is no date, column %s stays empty; give --%s-date",
                *(path, tag, date, date),
                extra={"fault": "date-tag"},
            )
        found.append(str(day) if text is None and day else text)
    if taken := [
        f"{date} {day}" for date, day in zip(("t1", "t2"), found, strict=True) if day not in given
    ]:
        log.info("dates read from the images: %s", ", ".join(taken))
    return found[0], found[1]
