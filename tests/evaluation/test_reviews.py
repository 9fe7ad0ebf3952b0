"""Which reviews stand for all polygons, and what they say of their precision."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from numpy.typing import NDArray

from rscd.base.errors import DataError
from rscd.evaluation.reviews import estimate_precision, random_reviews
from rscd.export.vector import write_vector
from rscd.geo.reviewed import checked_review
from rscd.geo.table import feature_table
from rscd.metrics.areas import share_of
from rscd.review.choose import choose_next, with_order

COUNT = 200


def layer_of(count: int = COUNT) -> geopandas.GeoDataFrame:
    """Polygons of rising score, of which those of a low score are wrong."""
    x = 500_000.0 + 20 * np.arange(count)
    shapes = shapely.box(x, 5_000_000, x + 10, 5_000_010)
    columns = {"id": np.arange(1, count + 1), "score": np.linspace(0.4, 0.98, count)}
    table = feature_table(columns | {"area_m2": 100.0}, shapes, "EPSG:32633")
    return checked_review(table, "here")


def decide(table: geopandas.GeoDataFrame, rows: list[int] | NDArray[Any]) -> geopandas.GeoDataFrame:
    found = table.copy()
    right = found["score"] > 0.55
    words = np.where(right.iloc[rows], "accepted", "rejected")
    found.loc[found.index[rows], "status"] = words
    return found


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Any]:
    def write(table: geopandas.GeoDataFrame) -> Path:
        write_vector(table, tmp_path / "change.gpkg", provenance={})
        return tmp_path / "change.gpkg"

    return write


TRUTH = float((layer_of()["score"] > 0.55).mean())


def test_a_random_draw_gives_the_precision_with_its_interval(written: Callable[..., Any]) -> None:
    table = layer_of()
    chosen = choose_next(table, 60, "random", seed=4)
    report = estimate_precision(written(decide(with_order(table, chosen, "random"), chosen)))
    low, high = report.interval
    assert low < TRUTH < high
    assert report.precision == report.accepted / 60
    assert (report.polygons, report.unsure, report.notes) == (COUNT, 0, [])
    assert report.json()["precision"]["interval"] == [low, high]
    assert "precision of the polygons" in report.text()


def test_intervals_of_random_draws_contain_the_truth_as_often_as_they_say() -> None:
    table, inside = layer_of(), 0
    right = (table["score"] > 0.55).to_numpy()
    for seed in range(300):
        low, high = share_of(int(right[choose_next(table, 40, "random", seed)].sum()), 40)
        inside += low <= TRUTH <= high
    assert inside >= 285


def test_reviews_chosen_by_gain_do_not_count_beside_random_ones(
    written: Callable[..., Any],
) -> None:
    table = layer_of()
    first = choose_next(table, 50, "random")
    table = decide(with_order(table, first, "random"), first)
    second = choose_next(table, 30, "gain")
    table = decide(with_order(table, second, "gain"), second)
    third = choose_next(table, 20, "random", seed=9)
    table = decide(with_order(table, third, "random"), third)
    reviews = random_reviews(written(table))
    assert np.flatnonzero(reviews.rows).tolist() == sorted(first)
    assert "50 reviews of polygons that were not drawn at random do not count" in reviews.notes


def test_reviews_made_in_passing_leave_the_random_ones_valid(written: Callable[..., Any]) -> None:
    table = layer_of()
    drawn = choose_next(table, 50, "random")
    passed = np.setdiff1d(np.arange(COUNT), drawn)[:7]  # decided, but not in any list
    reviews = random_reviews(written(decide(with_order(table, drawn, "random"), [*drawn, *passed])))
    assert np.flatnonzero(reviews.rows).tolist() == sorted(drawn)
    assert "7 reviews of polygons that were not drawn at random do not count" in reviews.notes


def test_reviews_chosen_by_gain_alone_are_refused(written: Callable[..., Any]) -> None:
    table = layer_of()
    chosen = choose_next(table, 30, "gain")
    path = written(decide(with_order(table, chosen, "gain"), chosen))
    with pytest.raises(DataError, match="drawn at random, found none"):
        estimate_precision(path)


def test_reviews_that_differ_from_the_rest_are_refused(written: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="found that score differs"):
        estimate_precision(written(decide(layer_of(), np.arange(40))))


def test_reviews_of_unknown_choice_are_said_aloud(written: Callable[..., Any]) -> None:
    report = estimate_precision(written(decide(layer_of(), np.arange(0, COUNT, 4))))
    assert any("is not noted" in note for note in report.notes)


def test_a_reviewed_layer_has_no_interval(written: Callable[..., Any]) -> None:
    report = estimate_precision(written(decide(layer_of(), np.arange(COUNT))))
    assert report.interval == (TRUTH, TRUTH)
    assert any("every polygon was reviewed" in note for note in report.notes)


def test_unsure_polygons_bound_the_precision(written: Callable[..., Any]) -> None:
    table = decide(layer_of(), np.arange(COUNT))
    table.loc[:19, "status"] = "unsure"
    report = estimate_precision(written(table))
    assert report.unsure == 20
    right = int(TRUTH * COUNT)
    assert f"{right / COUNT:.4f}" in report.notes[-1]
    assert f"{(right + 20) / COUNT:.4f}" in report.notes[-1]


def test_drawn_but_skipped_polygons_are_said_aloud(written: Callable[..., Any]) -> None:
    table = layer_of()
    chosen = choose_next(table, 60, "random")
    table = decide(with_order(table, chosen, "random"), [*chosen[:20], *chosen[30:40]])
    assert any("10 polygons that were drawn" in n for n in random_reviews(written(table)).notes)


@pytest.mark.parametrize("word", ["unreviewed", "unsure"])
def test_without_a_decision_there_is_nothing_to_say(written: Callable[..., Any], word: str) -> None:
    table = layer_of()
    table["status"] = word
    with pytest.raises(DataError, match="found"):
        estimate_precision(written(table))
