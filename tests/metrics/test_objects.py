"""Object matching against brute force, and cases counted by hand."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rscd.evaluation.judge import Judged
from rscd.metrics.objects import ObjectCounts, match, overlaps, summarise_objects


def boxes(*corners: Any) -> NDArray[Any]:
    found = np.empty(len(corners), object)
    found[:] = [shapely.box(*c) for c in corners]
    return found


def iou_table(predicted: NDArray[Any], true: NDArray[Any]) -> NDArray[Any]:
    """(N,M) of all pairs, one by one."""
    table = np.zeros((len(predicted), len(true)))
    for i, a in enumerate(predicted):
        for j, b in enumerate(true):
            common = a.intersection(b).area
            table[i, j] = common / (a.area + b.area - common)
    return table


def most_pairs(possible: NDArray[Any]) -> int:
    """Size of the largest one-to-one matching, by trying all assignments."""
    if possible.shape[0] > possible.shape[1]:
        possible = possible.T
    n, m = possible.shape
    return max(sum(possible[i, j] for i, j in enumerate(p)) for p in permutations(range(m), n))


corner = st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(1, 4), st.integers(1, 4))
some_boxes = st.lists(corner, max_size=5).map(
    lambda found: boxes(*((x, y, x + w, y + h) for x, y, w, h in found))
)
levels = st.sampled_from([0.1, 0.3, 0.5, 0.75, 1.0])


@given(some_boxes, some_boxes, levels)
@settings(max_examples=150, deadline=None)
def test_matching_equals_brute_force(
    predicted: NDArray[Any], true: NDArray[Any], least: float
) -> None:
    table = iou_table(predicted, true)
    pairs = match(predicted, true, least)
    assert len(pairs) == most_pairs(table >= least)
    assert all(table[i, j] >= least for i, j in pairs)
    assert len(set(pairs[:, 0])) == len(set(pairs[:, 1])) == len(pairs)


@given(some_boxes, some_boxes, levels)
@settings(max_examples=100, deadline=None)
def test_overlaps_are_all_pairs_above_the_level(
    predicted: NDArray[Any], true: NDArray[Any], least: float
) -> None:
    table = iou_table(predicted, true)
    row, col, iou = overlaps(predicted, true, least)
    assert set(zip(row, col, strict=True)) == set(zip(*np.nonzero(table >= least), strict=True))
    assert np.allclose(iou, table[row, col])


@given(some_boxes, some_boxes, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_order_and_roles_do_not_matter(
    predicted: NDArray[Any], true: NDArray[Any], random: Any
) -> None:
    counts = Judged.of(predicted, true).counts
    order = list(range(len(true)))
    random.shuffle(order)
    assert Judged.of(predicted, true[order]).counts == counts
    swapped = Judged.of(true, predicted).counts
    assert (swapped.matched, swapped.true) == (counts.matched, counts.predicted)


def test_as_many_pairs_as_possible_where_the_greatest_overlap_first_finds_one() -> None:
    # the first prediction fits both, best the second truth, which alone fits the second prediction
    predicted = boxes((2, 0, 12, 1), (5, 0, 15, 1))
    true = boxes((0, 0, 10, 1), (3, 0, 13, 1))
    table = iou_table(predicted, true)
    assert table[0, 1] == table.max()
    assert table[1, 0] < 0.5
    assert match(predicted, true).tolist() == [[0, 0], [1, 1]]


def test_exactly_one_half_is_a_match_and_one_object_serves_once() -> None:
    halves = boxes((0, 0, 1, 1), (1, 0, 2, 1))
    assert Judged.of(halves, boxes((0, 0, 2, 1))).counts == ObjectCounts(1, 2, 1)
    assert Judged.of(boxes((0, 0, 0.99, 1)), boxes((0, 0, 2, 1))).counts.matched == 0


def test_holes_are_not_part_of_an_object() -> None:
    ring = shapely.box(0, 0, 4, 4).difference(shapely.box(1, 1, 3, 3))
    assert overlaps(np.array([ring]), boxes((0, 0, 4, 4)), 0.1)[2] == pytest.approx([0.75])


def test_summary_by_hand() -> None:
    counts = ObjectCounts(true=4, predicted=2, matched=1) + ObjectCounts(4, 3, 2)
    assert counts == ObjectCounts(8, 5, 3)
    assert summarise_objects(counts) == pytest.approx(
        {"object_precision": 3 / 5, "object_recall": 3 / 8, "object_f1": 6 / 13}
    )


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 2), (2, 0)])
def test_empty_sets(n: int, m: int) -> None:
    squares = boxes((0, 0, 1, 1), (2, 2, 3, 3))
    counts = Judged.of(squares[:n], squares[:m]).counts
    assert counts == ObjectCounts(m, n, 0)
    assert set(summarise_objects(counts).values()) == {0.0}


@pytest.mark.parametrize("least", [0, -1, 1.01, float("nan")])
def test_levels_that_mean_nothing_are_refused(least: float) -> None:
    with pytest.raises(ValueError, match="above 0 and up to 1"):
        match(boxes(), boxes(), least)
