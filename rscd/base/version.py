"""Versions, from the installed packages: of this one, ``pyproject.toml`` alone states it."""

from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed


@cache
def version(package: str = "rscd") -> str:
    """Version of an installed package; ``unknown`` where it runs from a folder alone."""
    try:
        return installed(package)
    except PackageNotFoundError:
        return "unknown"
