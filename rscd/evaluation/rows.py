"""Rows of result tables: a CSV file that several evaluations fill, one after the other.

A row is named by the user. Every evaluation writes its metrics at three thresholds, because papers
differ in which they mean: ``protocol`` is the more probable class (0.5), ``model`` the threshold
chosen on validation, ``best`` the best one for these same pixels (an oracle, as in the map tables
of KD-MSI). Conditions have rows of their own, except at the oracle. For change events ``at`` is the
level and the threshold gamma (`rscd.evaluation.events`).
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from rscd.base.errors import DataError
from rscd.base.files import write_whole
from rscd.evaluation.report import LABELS, PROTOCOL, Report
from rscd.metrics.pixels import Counts, summarise

TITLES = ("row", "condition", "at", "threshold")
COLUMNS = (*TITLES, "pixels", *LABELS)
SHOWN = ("iou_change", "f1_change", "precision", "recall", "f1_macro", "oa", "miou")
"""Metrics of the printed table; the file has all of them."""
ALL = "all"
"""The condition of all pairs together."""

Row = dict[str, str]


def rows_of(report: Report, name: str) -> list[Row]:
    """The rows of one evaluation.

    Args:
        report: of a split or a map.
        name: of the row.
    """
    parts: list[tuple[str, str, float | None, Counts]] = []
    best = report.probabilities
    if best is not None:
        parts.append((ALL, "protocol", PROTOCOL, best.protocol_counts))
    parts.append((ALL, "model", report.threshold, report.counts))
    if best is not None:
        parts.append((ALL, "best", best.best_threshold, best.best_counts))
    for condition, counts in report.protocol_conditions.items():
        parts.append((condition, "protocol", PROTOCOL, counts))
    for condition, counts in report.conditions.items():
        parts.append((condition, "model", report.threshold, counts))
    return [
        row_of(name, condition, rule, threshold, counts)
        for condition, rule, threshold, counts in parts
    ]


def row_of(name: str, condition: str, at: str, threshold: float | None, counts: Counts) -> Row:
    """One row, metrics as fractions with 6 decimals; `COLUMNS` in other words."""
    return {
        "row": name,
        "condition": condition,
        "at": at,
        "threshold": "" if threshold is None else f"{threshold:g}",
        "pixels": str(sum(counts.true)),
        **{metric: f"{value:.6f}" for metric, value in summarise(counts).items()},
    }


def read_rows(path: Path) -> list[Row]:
    """The rows of a file; none if there is no such file.

    Raises:
        DataError: for a file of other columns.
    """
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise DataError(
                f"expected rows written by rscd evaluate in {path}, found other columns; give "
                "another --rows"
            )
        return list(reader)


def add_rows(path: Path, rows: Sequence[Row]) -> list[Row]:
    """Write rows beside those that the file has; rows of the same name are replaced.

    Returns:
        All rows of the file.

    Raises:
        DataError: see `read_rows`.
        OutputError: if it cannot be written.
    """
    names = {row["row"] for row in rows}
    known = read_rows(path)
    place = next((i for i, row in enumerate(known) if row["row"] in names), len(known))
    others = [row for row in known if row["row"] not in names]
    merged = [*others[:place], *rows, *others[place:]]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(merged)
    write_whole(path, text.getvalue())
    return merged


def table(rows: Sequence[Row]) -> str:
    """Rows as text, metrics in percent."""
    heads = (*TITLES, *SHOWN)
    lines = [
        (*(row[name] for name in TITLES), *(f"{100 * float(row[m]):.2f}" for m in SHOWN))
        for row in rows
    ]
    widths = [max(len(line[i]) for line in [heads, *lines]) for i in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < len(TITLES) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in [heads, *lines]
    )
