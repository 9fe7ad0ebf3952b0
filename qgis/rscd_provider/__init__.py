"""QGIS plugin: the commands of rscd as algorithms of the Processing toolbox."""

from typing import Any


def classFactory(iface: Any) -> Any:
    """The plugin, for QGIS.

    Args:
        iface: the window of QGIS; None in ``qgis_process``.
    """
    from .plugin import Plugin

    return Plugin(iface)
