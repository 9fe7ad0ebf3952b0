"""What GDAL says in its log instead of failing."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rscd.base.errors import UsageError

_IGNORED = ("CPLE_NotSupported", "CPLE_IllegalArg")
"""Kinds of warnings of options that are wrong: GDAL goes on without them."""


class _Said(logging.Handler):
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
    """Fail where GDAL logs that it failed, which it does not always say in another way.

    Args:
        option: of the command line, for creation options that GDAL leaves out with a warning;
            None: there are none.

    Raises:
        OSError: an error was logged.
        UsageError: a creation option was left out.
    """
    logger = logging.getLogger("rasterio._env")
    said = _Said()
    logger.addHandler(said)
    try:
        yield
    finally:
        logger.removeHandler(said)
    if said.options and option is not None:
        raise UsageError(
            f"expected creation options that GDAL knows, found: {said.options[0]}; correct {option}"
        )
    if said.errors:
        raise OSError(said.errors[0])
