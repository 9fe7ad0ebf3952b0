"""Quality of a change map, by pixels and by objects."""

from rscd.metrics.pixels import MODE, MONITOR, THRESHOLDS, ChangeMetrics, Counts, count, summarise

__all__ = ["MODE", "MONITOR", "THRESHOLDS", "ChangeMetrics", "Counts", "count", "summarise"]
