"""From a change map to an area with its interval, by command lines."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rscd.cli import main
from rscd.geo.vectors import read_layer


@pytest.fixture
def change_map(tmp_path: Path, write_tif: Callable[..., Path]) -> Path:
    mask = np.zeros((60, 80), np.uint8)
    mask[20:30, 20:40] = 1
    return write_tif(tmp_path / "change.tif", mask, nodata=255)


def test_points_are_drawn_answered_and_estimated(
    change_map: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = tmp_path / "points.gpkg"
    words = ["sample-points", str(change_map), "-o", str(points), "-n", "200", "--near", "3", "-q"]
    assert main([*words, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert sum(own["points"] for own in shown["strata"].values()) == 200
    assert main(words) == 1
    assert "already there; add --overwrite" in capsys.readouterr().err
    frame = read_layer(points, "points")
    frame["reference"] = np.where(frame["map"] == 1, "change", "no change")
    frame.loc[frame["id"] < 20, "reference"] = "no change"
    frame.to_file(tmp_path / "answered.geojson")  # as QGIS saves a layer elsewhere
    words = ["estimate", str(tmp_path / "answered.geojson"), str(change_map), "-q"]
    assert main(words) == 0
    quiet = capsys.readouterr()
    assert "area of change: " in quiet.out
    assert quiet.err == ""
    assert main(words[:-1]) == 0
    told = capsys.readouterr()
    assert told.out == quiet.out
    assert "ETA" in told.err, "progress is shown unless -q"
    assert main([*words, "--json", "--confidence", "0.9"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["confidence"] == 0.9
    low, high = found["area_of_change"]["interval"]
    assert low < found["area_of_change"]["estimate"] < high
    assert found["area_of_change"]["mapped"] == pytest.approx(20_000, rel=2e-3)


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["-n", "20"], 2, "expected at least 150 points"),
        (["--strata", "change,far"], 2, "expected --strata of change, near, no-change"),
        (["-o", "points.tif"], 2, "expected a file ending in"),
    ],
)
def test_wrong_usage_is_one_line(
    change_map: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    error: str,
) -> None:
    line = ["sample-points", str(change_map), "-o", str(tmp_path / "points.gpkg"), "-q", *words]
    assert main(line) == code
    shown = capsys.readouterr().err
    assert error in shown
    assert shown.count("\n") == 1
    assert not list(tmp_path.glob("points*"))


def test_unanswered_points_are_refused_in_one_line(
    change_map: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = str(tmp_path / "points.gpkg")
    assert main(["sample-points", str(change_map), "-o", points, "-q"]) == 0
    assert main(["estimate", points, str(change_map), "-q"]) == 1
    shown = capsys.readouterr().err
    assert "answered with change or no change, found 0 of" in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize("words", [["estimate"], ["review", "next"], ["review", "apply"]])
def test_points_are_no_polygons(
    change_map: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    points = tmp_path / "points.gpkg"
    assert main(["sample-points", str(change_map), "-o", str(points), "-q"]) == 0
    before = points.read_bytes()
    assert main([*words, str(points), "-q"]) == 1
    shown = capsys.readouterr().err
    assert f"expected change polygons in {points}, found points; " in shown
    assert "rscd estimate POINTS MAP" in shown
    assert shown.count("\n") == 1
    assert points.read_bytes() == before
