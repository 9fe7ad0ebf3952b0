"""What is measured of how two dates look."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rscd.geo.appearance import BLOCK_PX, Appearance, appearance, band_order, sample

BYTE = (0.0, 255.0)


@pytest.fixture
def image() -> NDArray[Any]:
    """(2,3,96,96): equal dates of three bands that do not go together entirely."""
    rng = np.random.default_rng(0)
    base = rng.uniform(40, 160, (1, 96, 96))
    date = base + rng.uniform(0, 60, (3, 96, 96))
    return np.stack([date, date]).astype(np.float32)


def look(image: NDArray[Any], valid: NDArray[Any] | None = None) -> Appearance | None:
    valid = np.ones(image.shape[2:], bool) if valid is None else valid
    return appearance([sample(image, valid)], (BYTE, BYTE))


def test_equal_dates(image: NDArray[Any]) -> None:
    found = look(image)
    assert found is not None
    assert found.same
    assert (found.gain, found.contrast, found.likeness) == pytest.approx((1, 1, 1))
    assert found.order == (0, 1, 2)
    assert found.flat == found.veiled == (0.0, 0.0)
    assert found.sharpness[0] == found.sharpness[1]


def test_gain_and_contrast_are_those_applied(image: NDArray[Any]) -> None:
    image[1] = 0.5 * image[1] + 30
    found = look(image)
    assert found is not None
    assert found.contrast == pytest.approx(0.5, rel=1e-4)
    assert found.median[1] == pytest.approx(0.5 * found.median[0] + 30, rel=1e-4)
    assert not found.same


@pytest.fixture
def ground() -> NDArray[np.float32]:
    """(2,3,304,304): equal dates of a rough ground."""
    date = np.random.default_rng(0).uniform(20, 120, (3, 304, 304))
    return np.stack([date, date]).astype(np.float32)


def under(image: NDArray[Any], cover: NDArray[Any]) -> NDArray[Any]:
    """The second date below something white of this opacity, (h,w) from 0 to 1."""
    found = image.copy()
    white = 230 + np.sin(np.arange(cover.shape[1]) / 9)  # one value would be a fill
    found[1] = image[1] * (1 - cover) + white * cover
    return found


def veiled(image: NDArray[Any]) -> tuple[float, float]:
    """Shares of the dates below a cloud."""
    found = look(image)
    assert found is not None
    return found.veiled


def test_a_cloud_has_soft_edges_and_a_white_roof_has_not(ground: NDArray[np.float32]) -> None:
    rows, cols = np.mgrid[:304, :304]
    away = np.hypot(rows - 150, cols - 150)
    cloud = veiled(under(ground, np.clip((130 - away) / 60, 0, 1)))
    assert cloud[0] == 0
    assert 0.05 < cloud[1] < 0.57  # the disc of 130 pixels
    roof = ((abs(rows - 155) < 60) & (abs(cols - 149) < 90)).astype(float)
    assert veiled(under(ground, roof)) == (0, 0)
    half = np.clip((170 - cols) / 60, 0, 1)
    assert 0.25 < veiled(under(ground, half)[::-1])[0] < 0.55


def test_every_order_of_bands_is_found(image: NDArray[Any]) -> None:
    for order in ((0, 2, 1), (2, 1, 0), (1, 2, 0)):
        shown = np.empty_like(image[1])
        shown[list(order)] = image[0]
        values = np.stack([image[0], shown]).reshape(2, 3, -1).astype(np.float64)
        assert band_order(values) == order
    gray = np.repeat(image[:, :1], 3, axis=1).reshape(2, 3, -1).astype(np.float64)
    assert band_order(gray) is None
    assert band_order(gray[:, :2]) is None


def test_invalid_pixels_count_for_nothing(image: NDArray[Any]) -> None:
    valid = np.ones((96, 96), bool)
    valid[:, :40] = False
    wild = image.copy()
    wild[:, :, :, :40] = 9999
    found, wanted = look(wild, valid), look(image, valid)
    assert found is not None
    assert wanted is not None
    assert found.most == wanted.most
    assert found.median == wanted.median
    assert found.valid == pytest.approx(56 / 96)
    assert look(image, np.zeros((96, 96), bool)) is None


def test_flat_and_clipped(image: NDArray[Any]) -> None:
    image[1, :, :, : 2 * BLOCK_PX] = 0
    found = look(image)
    assert found is not None
    assert found.flat == pytest.approx((0, 1 / 3))
    assert (found.fill[1], found.filled[1]) == pytest.approx((0, 1 / 3), abs=0.01)
    assert found.clipped[1] == pytest.approx(1 / 3, abs=0.01)
    assert found.clipped[0] < 0.01


def test_blur_takes_sharpness_away(image: NDArray[Any]) -> None:
    from scipy import ndimage

    image[1] = ndimage.gaussian_filter(image[1], (0, 1.5, 1.5))
    found = look(image)
    assert found is not None
    assert found.sharpness[1] < 0.5 * found.sharpness[0]
