"""From a pair of images to files: change maps, change events and their provenance."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rscd.pipeline.maps import Result, open_pair
    from rscd.pipeline.objects import EventResult, predict_events
    from rscd.pipeline.prediction import Prediction, predict
    from rscd.pipeline.run import Options

__all__ = [
    "EventResult",
    "Options",
    "Prediction",
    "Result",
    "open_pair",
    "predict",
    "predict_events",
]

_HOMES = {
    "EventResult": "objects",
    "Options": "run",
    "Prediction": "prediction",
    "Result": "maps",
    "open_pair": "maps",
    "predict": "prediction",
    "predict_events": "objects",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first access: maps need nothing of what finds objects."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
