"""How good a change map is, in pixels and in objects."""

from rscd.metrics.pixels import (
    MODE,
    MONITOR,
    THRESHOLDS,
    ChangeMetrics,
    Counts,
    count,
    summarise,
)

__all__ = [
    "MODE",
    "MONITOR",
    "THRESHOLDS",
    "ChangeMetrics",
    "Counts",
    "count",
    "summarise",
]
