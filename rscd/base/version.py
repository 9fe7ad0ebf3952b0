"""The version, from the installed package: ``pyproject.toml`` alone states it."""

from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed


@cache
def version() -> str:
    """Version of the installed package; ``unknown`` where it runs from a folder alone."""
    try:
        return installed("rscd")
    except PackageNotFoundError:
        return "unknown"
