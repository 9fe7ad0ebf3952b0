"""QGIS plugin: the commands of rscd as algorithms of the Processing toolbox."""

import sys
from typing import Any

LEAST_PYTHON = (3, 9)
"""Of QGIS; rscd has one of its own."""


def classFactory(iface: Any) -> Any:
    """The plugin, for QGIS.

    Args:
        iface: the window of QGIS; None in ``qgis_process``.

    Raises:
        RuntimeError: QGIS has an older Python.
    """
    if sys.version_info < LEAST_PYTHON:  # the other modules cannot be imported there
        wanted, found = (".".join(map(str, one[:2])) for one in (LEAST_PYTHON, sys.version_info))
        raise RuntimeError(
            f"rscd: expected a QGIS with Python {wanted} or later, found {found}; install a newer "
            "QGIS"
        )
    from .plugin import Plugin

    return Plugin(iface)
