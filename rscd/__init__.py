"""rscd: what changed between two images of one place."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rscd.errors import RscdError
    from rscd.geo.changemap import ChangeMap
    from rscd.geo.scene import ScenePair
    from rscd.pipeline import Options, Result, open_pair, predict
    from rscd.pipeline_events import EventResult, predict_events

_HOMES = {
    "ChangeMap": "rscd.geo.changemap",
    "EventResult": "rscd.pipeline_events",
    "Options": "rscd.pipeline",
    "Result": "rscd.pipeline",
    "RscdError": "rscd.errors",
    "ScenePair": "rscd.geo.scene",
    "open_pair": "rscd.pipeline",
    "predict": "rscd.pipeline",
    "predict_events": "rscd.pipeline_events",
}

__all__ = [
    "ChangeMap",
    "EventResult",
    "Options",
    "Result",
    "RscdError",
    "ScenePair",
    "open_pair",
    "predict",
    "predict_events",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: ``import rscd`` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'rscd' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
