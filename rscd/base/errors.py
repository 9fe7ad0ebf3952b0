"""Errors a user can act on.

Each message is one line: what was expected, what was found, how to fix it. Messages contain no
secrets: query strings and passwords are removed from URLs.

    RscdError
    ├── Interrupted        a training run stopped by the user (exit code 130)
    ├── UsageError         the command line or a function's arguments (exit code 2)
    ├── SceneError         a raster that cannot be used (also ValueError)
    │   ├── GridMismatchError  two scenes that do not share a grid
    │   └── RemoteError        a raster that could not be fetched; what was computed is kept
    ├── DataError          a dataset, label or split that cannot be used (also ValueError)
    ├── ModelError         a model name, weights file or checkpoint (also ValueError)
    ├── DoubtfulError      a pair whose result should not be trusted (exit code 3)
    └── OutputError        a location that cannot be written (also OSError)
"""

from rscd.base.redact import redacted


class RscdError(Exception):
    """Anything the user must fix in data or environment (exit code 1)."""

    exit_code = 1

    def __init__(self, *args: object, fault: str = "") -> None:
        """As an exception.

        Args:
            args: the message.
            fault: name of what is wrong with a pair, as ``rscd doctor`` lists it.
        """
        super().__init__(*(redacted(arg) if isinstance(arg, str) else arg for arg in args))
        self.fault = fault


class Interrupted(RscdError):
    """A training run that the user stopped and that can be resumed."""

    exit_code = 130


class UsageError(RscdError, ValueError):
    """Arguments that do not fit together (exit code 2)."""

    exit_code = 2


class SceneError(RscdError, ValueError):
    """A raster that cannot be used as one date of a scene."""


class GridMismatchError(SceneError):
    """Two rasters that do not share a pixel grid, or do not overlap."""


class RemoteError(SceneError):
    """A raster that could not be fetched; trying again later may help."""


class DataError(RscdError, ValueError):
    """A dataset, label or split that cannot be used."""


class ModelError(RscdError, ValueError):
    """A model name, weights file or checkpoint that cannot be used."""


class DoubtfulError(RscdError):
    """A pair that can be compared, with a result that should not be trusted."""

    exit_code = 3


class OutputError(RscdError, OSError):
    """A result that cannot be written."""
