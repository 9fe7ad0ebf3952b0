"""Quality of a change map, by pixels and by objects."""

from typing import TYPE_CHECKING, Any

from rscd.metrics.pixels import MODE, MONITOR, THRESHOLDS, Counts, count, summarise

if TYPE_CHECKING:
    from rscd.metrics.probabilities import ChangeMetrics

__all__ = ["MODE", "MONITOR", "THRESHOLDS", "ChangeMetrics", "Counts", "count", "summarise"]


def __getattr__(name: str) -> Any:
    """Import `ChangeMetrics`, and torch with it, on first access."""
    if name == "ChangeMetrics":
        from rscd.metrics.probabilities import ChangeMetrics

        return ChangeMetrics
    raise AttributeError(f"module 'rscd.metrics' has no attribute {name!r}")
