"""Tables as they stand in the documentation."""

from collections.abc import Iterable, Sequence
from statistics import mean, stdev


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; numbers that are no whole ones get three decimals."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation of some values; the mean alone of one."""
    deviation = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{deviation}"


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
