"""Thresholds of maps: the published search, and Otsu's."""

import numpy as np
import pytest

from rscd.base.errors import DataError
from rscd.evaluation.thresholds import GRID, PAPER_CRITERION, otsu, search
from tests.conftest import Golden


@pytest.mark.golden
def test_search_finds_the_published_threshold(golden: Golden) -> None:
    files = golden.files("kdmsi/metrics_npy_*.npz")
    assert files
    for file in files:
        case = np.load(file)
        np.testing.assert_allclose(case["thresholds"], GRID, atol=1e-12)
        present = case["image_label"][:, None, None] == 1
        # 0 and 255 are the classes; the evaluation counts other values for neither
        masks = np.select([case["gt_uint8"] == 0, case["gt_uint8"] == 255], [0, 1], 2)
        maps = np.where(present, case["hr_cam"], np.float32(-1))
        found = search(
            zip(maps, masks.astype(np.uint8), strict=True), "train_oracle", PAPER_CRITERION,
            case["thresholds"].tolist(),
        )  # fmt: skip
        assert found.threshold == pytest.approx(float(case["best_threshold"])), file.name
        assert found.score == pytest.approx(case["mIoU_percent"].max() / 100, abs=1e-9)
        # printed with three decimals
        assert found.score == pytest.approx(float(case["best_mIoU_percent"]) / 100, abs=6e-6)


def test_counts_are_pooled_and_the_first_maximum_wins() -> None:
    mask = np.array([[1, 0, 255]], np.uint8)
    first, second = np.array([[[0.8, 0.1, 0.9]], [[0.6, 0.3, 0.9]]], np.float32)
    found = search([(first, mask), (second, mask)], "val")
    assert (found.threshold, found.rule) == (0.3, "val")
    assert found.score == pytest.approx(1)
    with pytest.raises(DataError, match="expected maps to choose a threshold by"):
        search([], "val")


def test_otsu_parts_two_groups_without_masks() -> None:
    maps = [np.array(m, np.float32) for m in ([[0.1, 0.12], [0.8, 0.82]], [[0.11, 0.79]])]
    found = otsu(maps, 6)
    assert 0.12 < found.threshold < 0.79
    assert found.criterion is None
    with pytest.raises(DataError, match="expected pairs with change"):
        otsu([], 6)
