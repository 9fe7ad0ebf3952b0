from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from rscd.metrics.pixels import MODE, MONITOR, THRESHOLDS, Counts, count, summarise
from rscd.metrics.probabilities import ChangeMetrics
from tests.conftest import Golden


def test_worked_example() -> None:
    # TP 30, FP 20, FN 10, TN 940
    found = summarise(Counts((960, 40), (950, 50), (940, 30)))
    expected = {
        "iou_change": 0.5,
        "iou_no_change": 0.969072,
        "miou": 0.734536,
        "fp_union": 1 / 3,
        "fn_union": 1 / 6,
        "f1_change": 2 / 3,
        "f1_macro": 0.825480,
        "oa": 0.97,
    }
    assert {k: found[k] for k in expected} == pytest.approx(expected, abs=1e-6)


labels = arrays(np.uint8, (3, 7), elements=st.sampled_from([0, 1, 255]))
binary = arrays(np.uint8, (3, 7), elements=st.sampled_from([0, 1]))


@given(binary, labels)
def test_identities(prediction: NDArray[Any], mask: NDArray[Any]) -> None:
    found = summarise(count(prediction, mask))
    assert all(-1 <= v <= 1 and np.isfinite(v) for v in found.values())
    assert found["f1_change"] == pytest.approx(
        2 * found["iou_change"] / (1 + found["iou_change"]), abs=1e-12
    )
    if (mask != 255).any() and ((mask == 1) | ((prediction == 1) & (mask != 255))).any():
        total = found["iou_change"] + found["fp_union"] + found["fn_union"]
        assert total == pytest.approx(1)


@given(st.lists(st.tuples(binary, labels), min_size=1, max_size=4))
def test_pooling_equals_counting_all_at_once(
    pairs: list[tuple[NDArray[Any], NDArray[Any]]],
) -> None:
    pooled = sum((count(*pair) for pair in pairs[1:]), count(*pairs[0]))
    predictions, masks = (np.stack(side) for side in zip(*pairs, strict=True))
    assert pooled == count(predictions, masks)


def test_kappa_equals_its_definition_and_perfect_is_one() -> None:
    rng = np.random.default_rng(0)
    mask, prediction = rng.integers(0, 2, (2, 50))
    agree = (mask == prediction).mean()
    chance = mask.mean() * prediction.mean() + (1 - mask.mean()) * (1 - prediction.mean())
    kappa = summarise(count(prediction, mask))["kappa"]
    assert kappa == pytest.approx((agree - chance) / (1 - chance))
    assert summarise(count(mask, mask))["kappa"] == pytest.approx(1)


@given(st.integers(0, 2**32 - 1))
def test_metric_agrees_with_counting_at_every_threshold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prob = rng.choice(np.array([*THRESHOLDS, 0, 1, 0.123], np.float32), (4, 9))
    mask = rng.choice([0, 1, 255], (4, 9))
    metric = ChangeMetrics()
    for p, m in zip(prob, mask, strict=True):
        metric.update(torch.from_numpy(p), torch.from_numpy(m))
    for threshold in THRESHOLDS:
        assert metric.counts(threshold) == count(prob >= np.float32(threshold), mask)
    best = metric.best_threshold()
    scores = [summarise(metric.counts(t))[MONITOR] for t in THRESHOLDS]
    assert summarise(metric.counts(best))[MONITOR] == max(scores)
    assert MODE == "max"


def test_the_calibration_error_is_that_of_fifteen_bins() -> None:
    """Guo et al. 2017: 15 bins of equal width, weighted by their pixels."""
    rng = np.random.default_rng(0)
    prob = rng.random(5000).astype(np.float32) ** 2
    mask = (rng.random(5000) < prob**0.7).astype(np.int64)
    mask[:100] = 255
    metric = ChangeMetrics()
    for part in np.array_split(np.arange(5000), 3):
        metric.update(torch.from_numpy(prob[part]), torch.from_numpy(mask[part]))
    known, truth = prob[100:].astype(float), mask[100:]
    place = np.digitize(known, np.linspace(0, 1, 16)[1:-1])
    bins = [place == n for n in range(15)]
    gaps = [b.mean() * abs(truth[b].mean() - known[b].mean()) for b in bins if b.any()]
    assert metric.calibration_error() == pytest.approx(sum(gaps), abs=1e-6)
    assert metric.reliability().shape == (3, 15)


def test_calibration() -> None:
    metric = ChangeMetrics()
    prob = torch.full((1000,), 0.3)
    mask = torch.zeros(1000, dtype=torch.long)
    mask[:300] = 1
    metric.update(prob, mask)
    assert metric.calibration_error() == pytest.approx(0, abs=1e-6)
    mask[:] = 0
    metric.reset()
    metric.update(prob, mask)
    assert metric.calibration_error() == pytest.approx(0.3, abs=1e-6)
    assert metric.reliability()[:, 4] == pytest.approx([0.3, 0, 1], abs=1e-6)


def as_classes(grey: NDArray[Any]) -> NDArray[Any]:
    """0 and 255 are the classes; the evaluation counts other values for neither."""
    return np.select([grey == 0, grey == 255], [0, 1], 2)


@pytest.mark.golden
def test_golden_png(golden: Golden) -> None:
    files = golden.files("kdmsi/metrics_png_*.npz")
    assert files
    for file in files:
        case = np.load(file)
        prediction, mask = as_classes(case["pred_uint8"]), as_classes(case["gt_uint8"])
        found = summarise(count(prediction, mask), eps=1e-10)
        expected = {
            "miou": case["mIoU_percent"] / 100,
            "iou_change": case["cIoU_fraction"],
            "iou_no_change": case["IoU_background_percent"] / 100,
            "fp_union": case["fp_change"],
            "fn_union": case["fn_change"],
            "oa": case["OA_percent"] / 100,
            "f1_macro": case["macroF1_percent"] / 100,
        }
        expected = {k: float(v) for k, v in expected.items()}
        assert {k: found[k] for k in expected} == pytest.approx(expected, abs=1e-9), file.name


@pytest.mark.golden
def test_golden_threshold_search(golden: Golden) -> None:
    files = golden.files("kdmsi/metrics_npy_*.npz")
    assert files
    for file in files:
        case = np.load(file)
        maps, present = case["hr_cam"], case["image_label"]
        mask = as_classes(case["gt_uint8"])
        for i, threshold in enumerate(case["thresholds"]):
            prediction = (maps > np.float32(threshold)) & (present[:, None, None] == 1)
            found = summarise(count(prediction, mask), eps=1e-10)
            expected = {
                "miou": case["mIoU_percent"][i] / 100,
                "iou_change": case["cIoU_fraction"][i],
                "fp_union": case["fp_change"][i],
                "fn_union": case["fn_change"][i],
                "oa": case["OA_percent"][i] / 100,
                "f1_macro": case["macroF1_percent"][i] / 100,
            }
            assert {k: found[k] for k in expected} == pytest.approx(expected, abs=1e-9)


@pytest.mark.golden
def test_golden_diffmatch(golden: Golden) -> None:
    files = golden.files("diffmatch/metrics*.npz")
    assert files
    for file in files:
        case = np.load(file)
        counts = count(case["pred"], case["label"])
        assert np.array_equal(counts.hit, case["intersection"])
        assert np.array_equal(counts.true, case["target"])
        assert np.array_equal(counts.predicted, case["output"])
        found = summarise(counts)
        # what nothing is counted for is 0 here and not a number there
        iou, precision, recall, f1 = (
            np.nan_to_num(case[f"{name}_percent"]) / 100
            for name in ("iou", "precision", "recall", "f1")
        )
        assert [found["iou_no_change"], found["iou_change"]] == pytest.approx(iou)
        assert found["precision"] == pytest.approx(precision[1])
        assert found["recall"] == pytest.approx(recall[1])
        assert found["f1_change"] == pytest.approx(f1[1])
        assert found["miou"] == pytest.approx(iou.mean())


@pytest.mark.golden
def test_golden_scene(golden: Golden) -> None:
    files = golden.files("scene/metrics*.npz")
    assert files
    for file in files:
        case = np.load(file)
        logits = torch.from_numpy(case["logits"])
        size = case["gt"].shape[-2:]
        upsampled = torch.nn.functional.interpolate(
            logits, size=size, mode="bilinear", align_corners=False
        )
        # as published, a tie is no change
        counts = count(upsampled.argmax(1).numpy(), case["gt"])
        (tn, fp), (fn, tp) = case["confusion"]
        assert counts == Counts((tn + fp, fn + tp), (tn + fn, fp + tp), (tn, tp))
        found = summarise(counts)
        expected = {
            "oa": case["accuracy"],
            "precision": case["precision"],
            "recall": case["recall"],
            "f1_change": case["f1"],
            "iou_no_change": case["iou"][0],
            "iou_change": case["iou"][1],
            "miou": np.nan_to_num(case["iou"]).mean(),
        }
        # what nothing is counted for is 0 here and not a number there
        expected = {k: float(np.nan_to_num(v)) for k, v in expected.items()}
        assert {k: found[k] for k in expected} == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_counts_as_neither_class(broken: float) -> None:
    random = torch.Generator().manual_seed(0)
    prob = torch.rand(200, generator=random)
    mask = (torch.rand(200, generator=random) > 0.6).long()
    mask[:20] = 255
    lost = torch.rand(200, generator=random) > 0.5
    some, without = ChangeMetrics(), ChangeMetrics()
    some.update(torch.where(lost, broken, prob), mask)
    without.update(prob[~lost], mask[~lost])
    assert some.compute() == without.compute()
