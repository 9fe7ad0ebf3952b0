"""Rows of result tables: what they hold, and how several evaluations fill one file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rscd.base.errors import DataError
from rscd.evaluation.report import Pixels, Probabilities, Report
from rscd.evaluation.rows import add_rows, read_rows, rows_of, table
from rscd.metrics.objects import ObjectCounts
from rscd.metrics.pixels import Counts, count
from rscd.metrics.probabilities import ChangeMetrics


def report(seed: int = 0, threshold: float = 0.3) -> tuple[Report, NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 2, 4000).astype(np.uint8)
    prob = np.clip(true * 0.3 + rng.random(4000) * 0.6, 0, 1).astype(np.float32)
    metrics = ChangeMetrics()
    metrics.update(torch.from_numpy(prob), torch.from_numpy(true))

    def at(level: float, part: slice = slice(None)) -> Counts:
        return count(prob[part] >= np.float32(level), true[part])

    halves = {"day": slice(0, 2000), "night": slice(2000, None)}
    made = Report(
        subject={},
        threshold=threshold,
        counts=at(threshold),
        pixels=Pixels(4000, 0, 0),
        objects=ObjectCounts(),
        samples=[],
        probabilities=Probabilities.of(metrics),
        area_m2=None,
        conditions={name: at(threshold, part) for name, part in halves.items()},
        protocol_conditions={name: at(0.5, part) for name, part in halves.items()},
    )
    return made, prob, true


def test_rows_are_what_counting_gives() -> None:
    made, prob, true = report()
    rows = rows_of(made, "ours")
    kinds = [(row["condition"], row["at"]) for row in rows]
    assert kinds == [
        ("all", "protocol"), ("all", "model"), ("all", "best"), ("day", "protocol"),
        ("night", "protocol"), ("day", "model"), ("night", "model"),
    ]  # fmt: skip
    parts = {"all": slice(None), "day": slice(0, 2000), "night": slice(2000, None)}
    for row in rows:
        part = parts[row["condition"]]
        guess, truth = prob[part] >= np.float32(row["threshold"]), true[part] == 1
        both, either = (guess & truth).sum(), (guess | truth).sum()
        assert float(row["iou_change"]) == pytest.approx(both / either, abs=1e-6)
        assert float(row["precision"]) == pytest.approx(both / guess.sum(), abs=1e-6)
        assert float(row["fn_union"]) == pytest.approx((truth & ~guess).sum() / either, abs=1e-6)
        assert int(row["pixels"]) == truth.size
    assert [float(row["threshold"]) for row in rows[:2]] == [0.5, 0.3]
    guesses = [prob >= np.float32(0.05 * k) for k in range(1, 20)]
    best = max((guess & (true == 1)).sum() / (guess | (true == 1)).sum() for guess in guesses)
    assert float(rows[2]["iou_change"]) == pytest.approx(best, abs=1e-6)


def test_rows_of_one_name_are_replaced_where_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.csv"
    first, second, third = (rows_of(report(seed)[0], f"row {min(seed, 1)}") for seed in range(3))
    assert add_rows(path, first) == first
    assert add_rows(path, second) == [*first, *second]
    assert add_rows(path, third) == [*first, *third]
    again = rows_of(report(5)[0], "row 0")
    assert add_rows(path, again) == [*again, *third] == read_rows(path)
    lines = table(read_rows(path)).splitlines()
    assert len(lines) == 15
    assert lines[1].split()[:6] == ["row", "0", "all", "protocol", "0.5",
                                    f"{100 * float(again[0]['iou_change']):.2f}"]  # fmt: skip


def test_another_file_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="expected rows written by rscd evaluate"):
        add_rows(path, rows_of(report()[0], "x"))
    assert path.read_text() == "a,b\n1,2\n"
