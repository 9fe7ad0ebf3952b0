"""The group rscd of the Processing toolbox, and its setting."""

from __future__ import annotations

from processing.core.ProcessingConfig import ProcessingConfig, Setting
from qgis.core import QgsProcessingProvider

from .algorithms import PYTHON, Doctor, Events, Predict


class Provider(QgsProcessingProvider):
    """Algorithms that run rscd in a process of its own."""

    def id(self) -> str:
        """First part of ``rscd:predict``."""
        return "rscd"

    def name(self) -> str:
        """Title in the toolbox."""
        return "rscd"

    def longName(self) -> str:
        """Title where there is room."""
        return "rscd: what changed between two images"

    def load(self) -> bool:
        """Declare the setting and the algorithms."""
        text = "Python in which rscd is installed (empty: the command rscd on PATH)"
        ProcessingConfig.addSetting(Setting(self.name(), PYTHON, text, "", valuetype=Setting.FILE))
        ProcessingConfig.readSettings()
        self.refreshAlgorithms()
        return True

    def unload(self) -> None:
        """Take the setting away; its value stays in the profile."""
        ProcessingConfig.removeSetting(PYTHON)

    def loadAlgorithms(self) -> None:
        """One algorithm per command."""
        for kind in (Predict, Events, Doctor):
            self.addAlgorithm(kind())

    def defaultVectorFileExtension(self, hasGeometry: bool = True) -> str:
        """GeoPackage: it carries its style."""
        return "gpkg"

    def supportedOutputVectorLayerExtensions(self) -> list[str]:
        """The formats of rscd that every QGIS reads."""
        return ["gpkg", "geojson", "fgb"]

    def supportedOutputRasterLayerExtensions(self) -> list[str]:
        """Masks are GeoTIFF."""
        return ["tif"]

    def supportsNonFileBasedOutput(self) -> bool:
        """Only files are written."""
        return False
