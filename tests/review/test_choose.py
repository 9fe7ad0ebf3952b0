"""What is reviewed next: uncertain and different polygons, or a random sample."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
from numpy.typing import NDArray

from rscd.cli import main
from rscd.geo.reviewed import checked_review
from rscd.geo.vectors import read_layer
from rscd.review.choose import CHOSEN_BY, ORDER, POOL, choose_next, with_order
from tests.review.conftest import squares


@pytest.fixture
def table() -> geopandas.GeoDataFrame:
    return checked_review(squares(100), "here")


def test_gain_takes_uncertain_polygons_far_from_each_other(table: geopandas.GeoDataFrame) -> None:
    chosen = choose_next(table, 10)
    assert len(set(chosen)) == 10
    assert max(chosen) < POOL * 10  # scores rise with the row: the most uncertain come first
    x, y = table.geometry.centroid.x.to_numpy(), table.geometry.centroid.y.to_numpy()

    def nearest(rows: list[int] | NDArray[Any]) -> float:
        gaps = np.hypot(*(v[rows][:, None] - v[rows] for v in (x, y)))
        return np.median(np.where(gaps > 0, gaps, np.inf).min(axis=1))

    assert nearest(chosen) > 1.5 * nearest(np.arange(10))


def test_decided_polygons_are_not_proposed_and_keep_others_away(
    table: geopandas.GeoDataFrame,
) -> None:
    first = choose_next(table, 1)[0]
    table.loc[first, "status"] = "rejected"
    second = choose_next(table, 1)[0]
    assert second != first
    assert abs(second - first) > 1
    assert len(choose_next(table, 500)) == 99


def test_polygons_without_a_score_can_be_chosen(table: geopandas.GeoDataFrame) -> None:
    table["score"] = np.nan
    assert len(set(choose_next(table, 7))) == 7
    assert len(choose_next(table.drop(columns="score"), 7)) == 7


def test_random_draws_are_seeded_and_even(table: geopandas.GeoDataFrame) -> None:
    assert choose_next(table, 9, "random", 3) == choose_next(table, 9, "random", 3)
    hits = np.zeros(100)
    for seed in range(400):
        hits[choose_next(table, 10, "random", seed)] += 1
    assert ((hits - 40) ** 2 / 36).sum() < 99 + 5 * np.sqrt(2 * 99)


def test_orders_go_on_and_keep_what_was_decided(table: geopandas.GeoDataFrame) -> None:
    found = with_order(table, [4, 2], "random")
    found.loc[4, "status"] = "accepted"
    again = with_order(found, [7, 8], "gain")
    assert again.loc[[4, 7, 8], ORDER].tolist() == [1, 2, 3]
    assert again.loc[[4, 7, 8], CHOSEN_BY].tolist() == ["random", "gain", "gain"]
    assert again[ORDER].notna().sum() == 3


@pytest.mark.parametrize("name", ["change.gpkg", "change.parquet", "change.geojson"])
def test_the_order_is_written_into_the_layer(
    make_layer: Callable[..., Path], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    layer = make_layer(name, count=12)
    words = ["review", "next", str(layer), "-n", "5", "--by", "random", "-q"]
    assert main([*words, "--json", "-o", str(layer)]) == 0
    shown = json.loads(capsys.readouterr().out)
    found = read_layer(layer, "polygons").dropna(subset=[ORDER]).sort_values(ORDER)
    assert found["id"].tolist() == shown["ids"]
    assert set(found[CHOSEN_BY]) == {"random"}
    assert main(words) == 0
    assert list(map(int, capsys.readouterr().out.split())) == shown["ids"]


def test_fewer_are_left_than_wanted(
    make_layer: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["review", "next", str(make_layer(count=3)), "-n", "9"]) == 0
    shown = capsys.readouterr()
    assert len(shown.out.split()) == 3
    assert "only 3 polygons are not reviewed" in shown.err


def test_nothing_is_left_to_review(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layer = tmp_path / "reviewed.gpkg"
    squares(3).assign(status=["accepted", "rejected", "unsure"]).to_file(layer)
    assert main(["review", "next", str(layer)]) == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "every polygon is reviewed\n")


def test_a_layer_without_polygons_is_refused(
    make_layer: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer, out = make_layer(count=0), tmp_path / "out.gpkg"
    assert main(["review", "next", str(layer), "-o", str(out)]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == f"rscd: expected polygons to review in {layer}, found none\n"
    assert not out.exists()


def test_another_file_is_not_replaced(
    make_layer: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.gpkg"
    other.write_text("mine")
    assert main(["review", "next", str(make_layer()), "-o", str(other), "-q"]) == 1
    assert "expected a new file" in capsys.readouterr().err
    assert other.read_text() == "mine"
