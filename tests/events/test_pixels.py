"""Change events: golden arrays, cases counted by hand, and laws that any correct rule obeys."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from rscd.base.errors import DataError, UsageError
from rscd.events.pixels import (
    change_labels,
    change_of,
    concept_prob,
    date_label,
    instance_events,
    masked,
    mixed_events,
    pixel_events,
    reliable,
    reliable_shares,
    semantic,
)
from rscd.segmenters.instances import (
    Instance,
    components,
    from_masks,
    mask_overlaps,
    paint,
    without_duplicates,
)
from rscd.segmenters.segmenter import SemanticPrediction
from tests.conftest import Golden

SHAPE = (7, 9)
FOREGROUND = (0, 1)  # house, building


def date(
    prob: NDArray[Any],
    instances: list[Any] | None = None,
    valid: NDArray[Any] | None = None,
    n_foreground: int = 1,
) -> SemanticPrediction:
    return SemanticPrediction(
        prob=np.asarray(prob, np.float32),
        classes=tuple(f"prompt {number}" for number in range(len(prob))),
        instances=instances,
        valid=valid,
        n_foreground=n_foreground,
    )


def sure(front: NDArray[Any]) -> NDArray[Any]:
    """Certain probabilities of a foreground map."""
    front = np.asarray(front, bool)
    return np.stack([np.where(front, 0.9, 0.05), np.where(front, 0.05, 0.9)])


def both(front: NDArray[Any]) -> NDArray[Any]:
    """Certain probabilities where two prompts of the foreground find the same."""
    return sure(front)[[0, 0, 1]]


def square(x0: int, y0: int, x1: int, y1: int, shape: tuple[int, int] = SHAPE) -> NDArray[Any]:
    mask = np.zeros(shape, bool)
    mask[y0:y1, x0:x1] = True
    return mask


masks = hnp.arrays(
    bool, st.tuples(st.integers(0, 4), *(st.just(n) for n in SHAPE)), elements=st.booleans()
)
blobs = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 4), st.integers(1, 5), st.integers(1, 4)),
    max_size=4,
).map(
    lambda found: (
        np.stack([square(x, y, x + w, y + h) for x, y, w, h in found])
        if found
        else np.zeros((0, *SHAPE), bool)
    )
)
probs = hnp.arrays(
    np.float32,
    (3, *SHAPE),
    elements=st.sampled_from(list(np.array([0, 0.2, 0.5, 0.8, 0.9], np.float32))),
)
deltas = st.sampled_from([0.0, 0.1, 0.34, 1.0])


def dense_iou(masks1: NDArray[Any], masks2: NDArray[Any]) -> NDArray[Any]:
    """Eq. 8 written out: every pair on the whole grid."""
    table = np.zeros((len(masks1), len(masks2)))
    for m, one in enumerate(masks1):
        for n, other in enumerate(masks2):
            union = np.count_nonzero(one | other)
            table[m, n] = np.count_nonzero(one & other) / union if union else 0.0
    return table


# --- golden ------------------------------------------------------------------------------------


@pytest.mark.golden
def test_golden_change_events(golden: Golden) -> None:
    paths = golden.files("diffmatch/ceg_*.npz")
    assert paths
    for path in paths:
        with np.load(path) as arrays:
            check_case(path.stem, dict(arrays))


def check_case(name: str, a: dict[str, NDArray[Any]]) -> None:
    gamma, delta = float(a["gamma"]), float(a["delta"])
    concepts = [concept_prob(a[f"prob{t}"], FOREGROUND) for t in (1, 2)]
    front = [np.isin(a[f"cat{t}"], FOREGROUND) for t in (1, 2)]
    first, second = (
        from_masks(a[f"inst{t}"][front[t - 1]], a[f"cat{t}"][front[t - 1]]) for t in (1, 2)
    )
    events = instance_events(first, second, a["pixel_diff_raw"].shape, delta=delta)
    trusted = reliable(concepts[0], gamma) & reliable(concepts[1], gamma)
    pixel = pixel_events(*concepts)

    np.testing.assert_allclose(events.overlaps.dense(), a["T"], rtol=1e-12, err_msg=name)
    np.testing.assert_allclose(events.t1.iou_sum, a["S1"], rtol=1e-12, err_msg=name)
    np.testing.assert_allclose(events.t2.iou_sum, a["S2"], rtol=1e-12, err_msg=name)
    maps = {
        "ins_diff": events.mask,
        "pixel_diff_raw": pixel,
        "reliable": trusted,
        "pixel_diff_masked": masked(pixel, trusted),
        "mix_diff": mixed_events(pixel, events.mask, trusted),
        "seg1": date_label(concepts[0], gamma),
        "seg2": date_label(concepts[1], gamma),
    }
    for key, found in maps.items():
        np.testing.assert_array_equal(found, a[key], err_msg=f"{name} {key}")

    t1, t2 = (
        date(a[f"prob{t}"], from_masks(a[f"inst{t}"], a[f"cat{t}"]), n_foreground=len(FOREGROUND))
        for t in (1, 2)
    )
    whole = change_labels(t1, t2, gamma=gamma, delta=delta)
    for key, other in (("mixed", "mix_diff"), ("seg1", "seg1"), ("seg2", "seg2")):
        np.testing.assert_array_equal(getattr(whole, key), a[other], err_msg=f"{name} {key}")
    np.testing.assert_array_equal(whole.pixel, a["pixel_diff_masked"], err_msg=name)
    np.testing.assert_array_equal(whole.events.mask, a["ins_diff"], err_msg=name)


# --- by hand -----------------------------------------------------------------------------------


def test_six_pixels() -> None:
    t1 = np.array([[0.9, 0.9, 0.79, 0.8, 0.1, 0.1], [0.1, 0.1, 0.1, 0.8, 0.9, 0.9]], np.float32)
    t2 = np.array(
        [[0.05, 0.85, 0.05, 0.1, 0.2, 0.9], [0.95, 0.3, 0.95, 0.9, 0.81, 0.2]], np.float32
    )
    c1, c2 = (concept_prob(t[:, None], (0,)) for t in (t1, t2))
    trusted = reliable(c1, 0.8) & reliable(c2, 0.8)
    pixel = pixel_events(c1, c2)
    instance = np.array([[1, 0, 1, 0, 0, 1]], np.uint8)
    assert semantic(c1).tolist() == [[1, 1, 1, 1, 0, 0]]
    assert semantic(c2).tolist() == [[0, 1, 0, 0, 0, 1]]
    assert trusted.tolist() == [[True, True, False, True, True, True]]
    assert pixel.tolist() == [[1, 0, 1, 1, 0, 1]]
    assert mixed_events(pixel, instance, trusted).tolist() == [[1, 0, 255, 0, 0, 1]]
    assert date_label(c1, 0.8).tolist() == [[1, 1, 255, 1, 0, 0]]
    assert date_label(c2, 0.8).tolist() == [[0, 1, 0, 0, 0, 1]]


def test_concepts_take_the_best_prompt() -> None:
    prob = np.array([0.3, 0.7, 0.6, 0.2, 0.65, 0.1], np.float32)[:, None, None]
    concepts = concept_prob(prob, FOREGROUND)
    assert concepts[:, 0, 0].tolist() == np.array([0.65, 0.7], np.float32).tolist()
    assert semantic(concepts)[0, 0] == 1
    assert not reliable(concepts, 0.8)[0, 0]
    assert reliable(concepts, 0.7)[0, 0]


@pytest.mark.parametrize(
    ("shift", "iou"), [((5, 0), 1 / 3), ((9, 9), 1 / 199), ((10, 0), 0.0), ((10, 10), 0.0)]
)
def test_iou_of_shifted_squares(shift: tuple[int, int], iou: float) -> None:
    x, y = shift
    one = from_masks(square(0, 0, 10, 10, (20, 20))[None])
    other = from_masks(square(x, y, x + 10, y + 10, (20, 20))[None])
    assert mask_overlaps(one, other).dense()[0, 0] == pytest.approx(iou)
    assert instance_events(one, other, (20, 20)).t1.changed.tolist() == [iou == 0]


def test_sums_and_delta() -> None:
    table = np.array([[1 / 3, 0, 0], [0, 0, 0.2]])
    assert change_of(table.sum(axis=1), 0).tolist() == [False, False]
    assert change_of(table.sum(axis=0), 0).tolist() == [False, True, False]
    assert change_of(table.sum(axis=1), 0.2).tolist() == [False, True]
    assert change_of(table.sum(axis=0), 0.2).tolist() == [False, True, True]


def test_duplicates_count_twice_unless_dropped() -> None:
    roof, shifted = square(0, 0, 4, 4), square(0, 0, 4, 2)
    twice = from_masks(np.stack([roof, roof]), [0, 1], [0.7, 0.9])
    once = from_masks(shifted[None])
    assert instance_events(twice, once, SHAPE).t2.iou_sum.tolist() == [1.0]
    kept = without_duplicates(twice)
    assert [(i.class_index, i.score) for i in kept] == [(1, 0.9)]
    found = [
        change_labels(
            date(both(roof), twice, n_foreground=2),
            date(both(shifted), once, n_foreground=2),
            delta=0.5,
            duplicate_iou=iou,
        ).events.t2.changed.tolist()
        for iou in (None, 0.6)
    ]
    assert found == [[False], [True]]


def test_a_chain_of_duplicates_keeps_what_the_best_does_not_touch() -> None:
    a, b, c = square(0, 0, 4, 1), square(1, 0, 5, 1), square(2, 0, 6, 1)
    chain = from_masks(np.stack([a, b, c]), score=[0.9, 0.8, 0.7])
    assert [i.score for i in without_duplicates(chain, 0.5)] == [0.9, 0.7]
    assert len(without_duplicates(chain, 0.6)) == 3


def test_an_object_in_the_hole_of_another_is_a_change() -> None:
    ring = square(0, 0, 7, 7) & ~square(2, 2, 5, 5)
    inner = square(2, 2, 5, 5)
    events = instance_events(from_masks(ring[None]), from_masks(inner[None]), SHAPE)
    np.testing.assert_array_equal(events.mask, ring | inner)
    filled = instance_events(from_masks(square(0, 0, 7, 7)[None]), from_masks(inner[None]), SHAPE)
    assert not filled.mask.any()


def test_components_join_across_corners_and_keep_holes() -> None:
    front = square(0, 0, 2, 2) | square(2, 2, 4, 4)
    assert len(components(front)) == 1
    ring = square(0, 0, 5, 5) & ~square(1, 1, 4, 4)
    (found,) = components(ring)
    assert found.area_px == 16


def test_components_know_class_and_score() -> None:
    left, right = square(0, 0, 2, 2), square(4, 0, 6, 2)
    prob = np.zeros((2, *SHAPE), np.float32)
    prob[0, left], prob[1, left] = 0.75, 0.5
    prob[0, right], prob[1, right] = 0.25, 0.5
    found = components(left | right, prob)
    assert [(i.class_index, i.score) for i in found] == [(0, 0.75), (1, 0.5)]


def test_empty_instances_are_dropped_by_change_labels() -> None:
    empty = from_masks(np.zeros((1, *SHAPE)))
    assert empty[0].area_px == 0
    nothing = instance_events(empty, [], SHAPE)
    assert not nothing.mask.any()
    labels = change_labels(date(sure(np.zeros(SHAPE)), empty), date(sure(np.zeros(SHAPE)), []))
    assert len(labels.events.t1.instances) == 0


def test_nodata_of_the_other_date_leaves_an_object_undecided() -> None:
    mostly, partly = square(0, 0, 4, 2), square(5, 0, 9, 2)
    front = mostly | partly
    valid2 = np.ones(SHAPE, bool)
    valid2[:, :3] = False  # six of eight pixels of the one
    valid2[:, 8] = False  # two of eight of the other
    labels = change_labels(
        date(sure(front), from_masks(np.stack([mostly, partly]))),
        date(sure(np.zeros(SHAPE)), [], valid2),
    )
    events = labels.events
    assert events.t1.undecidable.tolist() == [True, False]
    assert events.t1.changed.tolist() == [False, True]
    np.testing.assert_array_equal(events.mask == 1, partly & valid2)
    np.testing.assert_array_equal(labels.mixed == 255, ~valid2 | mostly)
    np.testing.assert_array_equal(labels.pixel == 255, ~valid2 | mostly)
    np.testing.assert_array_equal(labels.seg1 == 255, ~valid2)
    assert not labels.flips[~valid2].any()


def test_exactly_half_on_nodata_is_decided() -> None:
    mask = square(0, 0, 4, 2)
    valid2 = np.ones(SHAPE, bool)
    valid2[:, :2] = False
    events = instance_events(from_masks(mask[None]), [], SHAPE, valid2=valid2)
    assert events.t1.changed.tolist() == [True]
    assert not events.t1.undecidable.any()


def test_nan_is_not_reliable() -> None:
    prob = sure(square(0, 0, 2, 2)).astype(np.float32)
    prob[:, 0, 0] = np.nan
    assert not reliable(concept_prob(prob, (0,)), 0.0)[0, 0]


def test_gamma_is_compared_in_the_dtype_of_the_probabilities() -> None:
    prob = np.full((2, 1, 1), 0.8, np.float32)
    assert np.float64(prob[0, 0, 0]) > 0.8  # in float64 it would be another number
    assert reliable(prob, 0.8)[0, 0]
    assert not reliable(np.nextafter(prob, np.float32(0)), 0.8)[0, 0]


def test_the_instance_threshold_takes_the_reliable_part() -> None:
    prob = np.zeros((2, *SHAPE), np.float32)
    prob[0, square(0, 0, 4, 4)] = 0.6
    prob[0, square(0, 0, 2, 2)] = 0.9
    nothing = date(sure(np.zeros(SHAPE)))
    sizes = [
        [
            i.area_px
            for i in change_labels(
                date(prob), nothing, instance_threshold=threshold
            ).events.t1.instances
        ]
        for threshold in (0.5, 0.8, 0.95)
    ]
    assert sizes == [[16], [4], []]


def test_reliable_shares_count_pixels_with_an_image() -> None:
    prob = np.zeros((2, *SHAPE), np.float32)
    prob[0, :, :3] = 0.9
    valid = np.ones(SHAPE, bool)
    valid[:, 6:] = False
    shares = reliable_shares(date(prob, valid=valid), date(sure(np.ones(SHAPE))), (0.1, 0.8, 0.95))
    assert shares.tolist() == [0.5, 0.5, 0.0]
    blind = date(prob, valid=np.zeros(SHAPE, bool))
    assert np.isnan(reliable_shares(blind, blind, (0.5,))).all()


# --- laws --------------------------------------------------------------------------------------


@given(masks, masks)
@settings(max_examples=60, deadline=None)
def test_overlaps_equal_the_dense_matrix(masks1: NDArray[Any], masks2: NDArray[Any]) -> None:
    found = mask_overlaps(from_masks(masks1), from_masks(masks2))
    np.testing.assert_allclose(found.dense(), dense_iou(masks1, masks2), rtol=1e-14)
    for sums, axis in zip(found.sums(), (1, 0), strict=True):
        np.testing.assert_allclose(sums, dense_iou(masks1, masks2).sum(axis=axis), rtol=1e-12)


@given(blobs, blobs, deltas, st.randoms())
@settings(max_examples=60, deadline=None)
def test_laws_of_instances(
    masks1: NDArray[Any], masks2: NDArray[Any], delta: float, random: Any
) -> None:
    first, second = from_masks(masks1), from_masks(masks2)
    events = instance_events(first, second, SHAPE, delta=delta)
    chosen = np.concatenate([masks1[events.t1.changed], masks2[events.t2.changed]])
    np.testing.assert_array_equal(events.mask == 1, chosen.any(axis=0))
    swapped = instance_events(second, first, SHAPE, delta=delta)
    np.testing.assert_array_equal(swapped.mask, events.mask)
    np.testing.assert_allclose(swapped.overlaps.dense(), events.overlaps.dense().T)
    more = instance_events(first, second, SHAPE, delta=delta + 0.2)
    assert (more.mask >= events.mask).all()
    if second:
        fewer = instance_events(first, second[:-1], SHAPE, delta=delta)
        assert (fewer.t1.changed >= events.t1.changed).all()
    order = list(range(len(first)))
    random.shuffle(order)
    mixed_up = instance_events([first[i] for i in order], second, SHAPE, delta=delta)
    np.testing.assert_array_equal(mixed_up.t1.iou_sum, events.t1.iou_sum[order])
    same = instance_events(first, first, SHAPE)
    assert not same.mask.any()


@given(probs, probs, st.sampled_from([0.2, 0.5, 0.8]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_laws_of_labels(
    prob1: NDArray[Any], prob2: NDArray[Any], gamma: float, holes: bool
) -> None:
    valid = np.ones(SHAPE, bool)
    if holes:
        valid[2:4, 3:6] = False
    one, other = date(prob1, valid=valid, n_foreground=2), date(prob2, n_foreground=2)
    labels = change_labels(one, other, gamma=gamma)
    swapped = change_labels(other, one, gamma=gamma)
    for a, b in (("mixed", "mixed"), ("pixel", "pixel"), ("seg1", "seg2")):
        np.testing.assert_array_equal(getattr(labels, a), getattr(swapped, b))
    trusted = labels.reliable & ~labels.events.unknown
    np.testing.assert_array_equal(labels.mixed == 255, ~trusted)
    np.testing.assert_array_equal(
        labels.mixed == 1, (labels.flips == 1) & (labels.events.mask == 1) & trusted
    )
    assert (labels.mixed[~valid] == 255).all()
    assert not labels.events.mask[~valid].any()
    stricter = change_labels(one, other, gamma=gamma + 0.1)
    assert ((stricter.mixed == 255) >= (labels.mixed == 255)).all()
    same = change_labels(one, one, gamma=gamma)
    assert not (same.mixed == 1).any()
    assert not same.events.mask.any()


@given(hnp.arrays(bool, SHAPE))
@settings(max_examples=50, deadline=None)
def test_components_partition_the_foreground(front: NDArray[Any]) -> None:
    found = components(front)
    covered = sum((paint([one], [True], SHAPE).astype(int) for one in found), np.zeros(SHAPE, int))
    np.testing.assert_array_equal(covered, front)
    assert len(found) == ndimage.label(front, np.ones((3, 3)))[1]


@given(blobs, st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=4, max_size=4))
@settings(max_examples=60, deadline=None)
def test_suppression_keeps_no_pair_and_drops_none_without_reason(
    found: NDArray[Any], scores: list[float]
) -> None:
    instances = from_masks(found, score=scores[: len(found)])
    kept = without_duplicates(instances, 0.4)
    pairs = mask_overlaps(kept, kept)
    assert (pairs.first == pairs.second)[pairs.iou > 0.4].all()
    for instance in instances:
        if not any(instance is one for one in kept):
            rivals = [one for one in kept if one.score >= instance.score]
            assert mask_overlaps([instance], rivals).iou.max() > 0.4


# --- mistakes ----------------------------------------------------------------------------------


def test_mistakes_are_named() -> None:
    prob = sure(np.zeros(SHAPE)).astype(np.float32)
    with pytest.raises(DataError, match="floating-point"):
        concept_prob(np.zeros((2, 3, 3), np.uint8), (0,))
    with pytest.raises(DataError, match=r"\(C,H,W\)"):
        concept_prob(prob[0], (0,))
    with pytest.raises(UsageError, match="one background prompt"):
        concept_prob(prob, (0, 1))
    with pytest.raises(UsageError, match="planes below 2"):
        concept_prob(prob, (5,))
    with pytest.raises(UsageError, match="gamma from 0 to 1"):
        reliable(prob, 80)
    with pytest.raises(UsageError, match="delta of 0 or more"):
        instance_events([], [], SHAPE, delta=-0.1)
    with pytest.raises(UsageError, match="delta of 0 or more"):
        change_of(np.zeros(1), float("nan"))
    with pytest.raises(UsageError, match="IoU from 0 to 1"):
        without_duplicates([], 1.5)
    with pytest.raises(DataError, match="onto the other"):
        change_labels(date(prob), date(prob[:, :3]))
    with pytest.raises(DataError, match="same prompts"):
        change_labels(
            date(np.zeros((3, *SHAPE)), n_foreground=1), date(np.zeros((3, *SHAPE)), n_foreground=2)
        )
    with pytest.raises(DataError, match="one grid"):
        instance_events([], [], SHAPE, valid1=np.ones((3, 3), bool))
    outside = Instance(0, 1.0, (5, 5, 12, 7), np.ones((2, 7), bool))
    with pytest.raises(DataError, match="inside 7 x 9 pixels"):
        instance_events([outside], [], SHAPE)
    crooked = Instance(0, 1.0, (0, 0, 2, 2), np.ones((2, 3), bool))
    with pytest.raises(DataError, match="as large as their box"):
        instance_events([crooked], [], SHAPE)
