"""Errors that GDAL only logs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rscd.base.errors import UsageError

_IGNORED = ("CPLE_NotSupported", "CPLE_IllegalArg")
"""Kinds of warnings about wrong options, which GDAL then ignores."""


class _Collector(logging.Handler):
    """Collects warnings of options, and errors that did not become exceptions."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.options: list[str] = []
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        kind, _, text = record.getMessage().partition(" in ")
        if record.levelno >= logging.ERROR:
            self.errors.append(text or kind)
        elif kind in _IGNORED:
            self.options.append(text)


@contextmanager
def heeding_gdal(option: str | None = None) -> Iterator[None]:
    """Raise an error if GDAL logs one, which is sometimes its only sign of failure.

    Args:
        option: command-line option for creation options that GDAL ignores with a warning; None:
            there are none.

    Raises:
        OSError: if an error was logged.
        UsageError: if a creation option was ignored.
    """
    logger = logging.getLogger("rasterio._env")
    logged = _Collector()
    logger.addHandler(logged)
    try:
        yield
    finally:
        logger.removeHandler(logged)
    if logged.options and option is not None:
        raise UsageError(
            f"expected creation options known to GDAL, found: {logged.options[0]}; correct {option}"
        )
    if logged.errors:
        raise OSError(logged.errors[0])
