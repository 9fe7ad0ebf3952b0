"""A budget of false alarms, from reviewed polygons to the least score of a prediction."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rscd.base.errors import DataError, UsageError
from rscd.cli import main
from rscd.evaluation.budget import choose_least_score
from rscd.export.style import review_qml
from rscd.geo.origin import read_provenance
from rscd.geo.vectors import read_layer
from rscd.metrics.budget import Budget
from rscd.review.layer import read_change_layer, write_layer


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, write_tif: Callable[..., Path]
) -> tuple[Path, list[str]]:
    """Two dates that differ in 60 squares, the last half of them faintly, and what is found."""
    folder = tmp_path_factory.mktemp("place")
    random = np.random.default_rng(0)
    t1 = random.integers(90, 110, (3, 160, 200)).astype(np.uint8)
    t2 = t1.copy()
    for index in range(60):
        row, col = 8 + 24 * (index // 10), 6 + 19 * (index % 10)
        t2[:, row : row + 8, col : col + 8] += 80 if index < 30 else 40
    for name, pixels in (("t1.tif", t1), ("t2.tif", t2)):
        write_tif(folder / name, pixels)
    words = [str(folder / "t1.tif"), str(folder / "t2.tif"), "-m", "cva", "-q", "--workers", "1"]
    assert main(["predict", *words, "-o", str(folder / "change.gpkg"), "--min-area", "2000"]) == 0
    return folder, words


def reviewed(
    place: tuple[Path, list[str]],
    name: str = "reviewed.gpkg",
    right: Callable[..., Any] = lambda rows: rows < 45,
    keep: slice = slice(None),
) -> Path:
    """The layer with decisions by the order of the polygons."""
    folder, _ = place
    layer = read_change_layer(folder / "change.gpkg")
    table = layer.table.copy()
    rows = np.arange(len(table))
    words = np.where(right(rows), "accepted", "rejected")
    table.loc[table.index[keep], "status"] = words[keep]
    write_layer(replace(layer, table=table, path=folder / name), folder / name, review_qml())
    return folder / name


def test_the_least_score_goes_into_the_result(
    place: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, words = place
    found = read_layer(folder / "change.gpkg", "polygons")
    assert len(found) >= 60
    score = found["score"].to_numpy()
    path = reviewed(place, right=lambda rows: score >= np.median(score))
    out = folder / "kept.gpkg"
    budget = ["--max-false-alarms", "30%", "--calibration", str(path), "--min-area", "2000"]
    line = ["predict", *words[:4], "--workers", "1", *budget, "-o", str(out)]
    assert main(line) == 0
    said = capsys.readouterr().err
    assert "at most 30% of the polygons written are false alarms, with a confidence of 90 %" in said
    about = read_provenance(out)["parameters"]
    kept = read_layer(out, "polygons")
    least = about["min_score"]
    assert 0 < len(kept) < len(found)
    assert len(kept) == np.count_nonzero(score >= least)
    assert np.mean(kept["score"] < np.median(score)) <= 0.3
    assert about["budget"]["max_false_alarms"] == "30%"
    assert about["budget"]["calibration"]["path"] == str(path)
    assert "budget" not in read_provenance(folder / "change.gpkg")["parameters"]


def test_a_budget_by_ground(place: tuple[Path, list[str]]) -> None:
    path = reviewed(place)
    area = 1600 * 2000 / 1e6
    chosen = choose_least_score(path, Budget.parse("20/km2"))
    assert chosen.record["false"] <= 20 * area
    assert chosen.record["reviewed"] > 0
    with pytest.raises(DataError, match=r"at least 23 square kilometres .* found 3\.2"):
        choose_least_score(path, Budget.parse("0.1/km2"))


@pytest.mark.parametrize(
    ("keep", "right", "words"),
    [
        (slice(0, None, 12), lambda rows: rows >= 0, "at least 38 from one score on"),
        (slice(None), lambda rows: rows % 2 == 0, "allow more, or train"),
    ],
)
def test_too_few_or_too_bad_reviews_say_what_is_needed(
    place: tuple[Path, list[str]], keep: slice, right: Callable[..., Any], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        choose_least_score(reviewed(place, right=right, keep=keep), Budget.parse("10%"))


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (["-m", "pca-kmeans", "-b", "1"], "found other model, bands, min_area_m2"),
        (["--threshold", "0.4"], "found other threshold, min_area_m2"),
        (["--min-score", "0.4"], "expected --min-score or --max-false-alarms"),
        (["--max-false-alarms", "0.3"], "expected --max-false-alarms as 10%"),
    ],
)
def test_scores_of_another_model_are_refused(
    place: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str], more: list[str], error: str
) -> None:
    folder, words = place
    path = reviewed(place, right=lambda rows: rows >= 0)
    given = ["--max-false-alarms", "10%", "--calibration", str(path), "-o", str(folder / "x.gpkg")]
    assert main(["predict", *words, *given, *more]) == 2
    said = capsys.readouterr().err
    assert error in said
    assert said.count("\n") == 1
    assert not (folder / "x.gpkg").exists()


def test_one_of_both_options_is_refused(
    place: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    _, words = place
    assert main(["predict", *words, "--max-false-alarms", "10%", "-o", "x.gpkg"]) == 2
    assert "together, found one" in capsys.readouterr().err


def test_a_layer_of_another_program_is_refused(
    place: tuple[Path, list[str]], tmp_path: Path
) -> None:
    table = read_layer(reviewed(place), "polygons")
    table.to_file(tmp_path / "plain.gpkg")
    with pytest.raises(DataError, match="expected the model and its options"):
        choose_least_score(tmp_path / "plain.gpkg", Budget.parse("10%"))


def test_precision_by_command_line(
    place: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", str(reviewed(place)), "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["accepted"] == 45
    assert found["precision"]["estimate"] == pytest.approx(45 / found["polygons"])


@pytest.mark.parametrize("text", ["10", "0%", "100%", "-1/km2", "x%", "5/m2"])
def test_budgets_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="10%"):
        Budget.parse(text)


def test_budgets() -> None:
    assert Budget.parse("10%").fraction == 0.1
    assert Budget.parse("5/km2").per_km2 == 5
