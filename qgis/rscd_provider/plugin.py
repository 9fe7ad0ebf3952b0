"""What QGIS loads and unloads."""

from __future__ import annotations

from typing import Any

from qgis.core import QgsApplication

from .provider import Provider


class Plugin:
    """Adds the provider to the Processing registry."""

    def __init__(self, iface: Any) -> None:
        """Nothing is added yet: ``qgis_process`` calls ``initProcessing`` alone."""
        self.provider: Provider | None = None

    def initProcessing(self) -> None:
        """Add the provider."""
        self.provider = Provider()
        QgsApplication.processingRegistry().addProvider(self.provider)

    def initGui(self) -> None:
        """Add the provider, in QGIS with a window."""
        self.initProcessing()

    def unload(self) -> None:
        """Take the provider away."""
        if self.provider is not None:
            QgsApplication.processingRegistry().removeProvider(self.provider)
            self.provider = None
