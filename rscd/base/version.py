"""The version of the installed package; ``pyproject.toml`` is the only place that states it."""

from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed


@cache
def version() -> str:
    """Version of the installed package; ``unknown`` when run from a folder without installation."""
    try:
        return installed("rscd")
    except PackageNotFoundError:
        return "unknown"
