"""rscd: what changed between two images of one place.

    import rscd

    result = rscd.predict("2019.tif", "2023.tif")
    result.polygons  # a GeoDataFrame
    rscd.predict("2019.tif", "2023.tif", "change.gpkg", rscd.Options(model="irmad"))

`predict` compares two images, `predict_events` finds the objects of each and compares those;
`open_pair` aligns two images without reading them. docs/python.md says more.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rscd.base.moved import find_moved_modules

if TYPE_CHECKING:
    from rscd.base.errors import RscdError
    from rscd.geo.changemap import ChangeMap
    from rscd.geo.scene import ScenePair
    from rscd.pipeline.maps import Result, open_pair
    from rscd.pipeline.objects import EventResult, predict_events
    from rscd.pipeline.prediction import Prediction, predict
    from rscd.pipeline.run import Options

find_moved_modules()

_HOMES = {
    "ChangeMap": "rscd.geo.changemap",
    "EventResult": "rscd.pipeline.objects",
    "Options": "rscd.pipeline.run",
    "Prediction": "rscd.pipeline.prediction",
    "Result": "rscd.pipeline.maps",
    "RscdError": "rscd.base.errors",
    "ScenePair": "rscd.geo.scene",
    "open_pair": "rscd.pipeline.maps",
    "predict": "rscd.pipeline.prediction",
    "predict_events": "rscd.pipeline.objects",
}

__all__ = [
    "ChangeMap",
    "EventResult",
    "Options",
    "Prediction",
    "Result",
    "RscdError",
    "ScenePair",
    "open_pair",
    "predict",
    "predict_events",
]


def __dir__() -> list[str]:
    """The public names, so that ``rscd.`` and Tab, and ``help(rscd)``, show them."""
    return [*__all__, "__all__", "__doc__", "__file__", "__name__", "__path__", "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name on first access, so that ``import rscd`` itself is fast."""
    if name == "__version__":
        return import_module("rscd.base.version").version()
    if name not in _HOMES:
        raise AttributeError(f"module 'rscd' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
