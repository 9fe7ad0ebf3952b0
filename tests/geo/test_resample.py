"""Resampling of arrays: the same as torch's and Pillow's, which are independent of it."""

import numpy as np
import pytest
import torch.nn.functional as F
from PIL import Image
from torch import from_numpy

from rscd.geo.resample import resampled


def planes(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(40, 52), (20, 26), (13, 97), (80, 104), (1, 1), (40, 60)])
def test_the_values_are_those_of_torch_and_pillow(shape: tuple[int, int]) -> None:
    image = planes(2, 3, 40, 52)
    found = resampled(image, shape)
    assert found.dtype == np.float32
    wanted = F.interpolate(from_numpy(image), shape, mode="bilinear", antialias=True).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-3, rtol=1e-5)
    pillow = Image.fromarray(image[1, 2]).resize(shape[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_allclose(found[1, 2], np.asarray(pillow), atol=1e-3, rtol=1e-5)


def test_equal_values_stay_and_nothing_is_added() -> None:
    equal = np.full((1, 31, 17), 7, np.float32)
    np.testing.assert_allclose(resampled(equal, (12, 40)), 7, rtol=1e-6)
    image = planes(1, 24, 24)
    np.testing.assert_allclose(resampled(image, (8, 8)).mean(), image.mean(), rtol=2e-2)
    np.testing.assert_array_equal(resampled(image, (24, 24)), image)


def test_a_part_of_a_line_is_resampled_as_in_the_whole_line() -> None:
    image = planes(1, 240, 16)
    whole = resampled(image, (160, 16))
    part = resampled(image[:, 60:180], (80, 16))
    np.testing.assert_allclose(part[:, 4:-4], whole[:, 44:116], rtol=1e-6)
