from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rscd.base.errors import UsageError
from rscd.models import flow as torch_flow
from rscd.synthetic.geometry import (
    CONTROL_POINTS,
    Frame,
    affine_flow,
    central_frame,
    homography_flow,
    inside,
    pixel_points,
    random_flow,
    sample,
    scaled_frame,
    tps_flow,
    tps_points,
)

FLOW_ATOL = 5e-5  # the references computed positions of tens of pixels in float32
RNG = np.random.default_rng(0)


def cases(golden: Any, pattern: str) -> Iterator[dict[str, Any]]:
    files = golden.files(f"scene/{pattern}")
    assert files, pattern
    for file in files:
        yield dict(np.load(file))


def close(found: np.ndarray, expected: np.ndarray, atol: float = 1e-5) -> None:
    np.testing.assert_allclose(found, expected, atol=atol, rtol=1e-4)


def image_atol(size: int) -> float:
    """The references computed positions in float32: errors grow with the side."""
    return 1e-5 * max(1.0, size / 24)


def same_inside(flow: np.ndarray, expected: np.ndarray) -> None:
    """Equal, but where the position lies on the border to within float32."""
    side = np.array(flow.shape[-2:])[::-1, None, None]
    at = flow + np.stack(np.meshgrid(*(np.arange(n) for n in side.ravel())))
    border = np.minimum(np.abs(at), np.abs(at - (side - 1))).min(0) < 1e-3
    np.testing.assert_array_equal(inside(flow) | border, expected.astype(bool) | border)


@pytest.mark.golden
def test_affine_pairs_match_the_reference_arrays(golden: Any) -> None:
    for case in cases(golden, "geom_affine_*.npz"):
        size = int(case["size"])
        flow = affine_flow(case["theta"], size)
        share = float(case["padding_factor"]) * float(case["crop_factor"])
        frame = scaled_frame(case["image"].shape[1:], size, share)
        close(flow, case["flow_aligned"], FLOW_ATOL)
        same_inside(flow, case["inside_aligned"])
        close(sample(case["image"], frame.points()), case["ref_aligned"], image_atol(size))
        close(sample(case["image"], frame.points(flow)), case["query_aligned"], image_atol(size))


@pytest.mark.golden
def test_tps_pairs_match_the_reference_arrays(golden: Any) -> None:
    for case in cases(golden, "geom_tps_*.npz"):
        size = int(case["size"])
        close(CONTROL_POINTS.T.ravel(), case["control_points"])
        normalized = 2 * pixel_points((size, size)) / (size - 1) - 1
        close(tps_points(case["theta"], normalized), case["grid"])
        flow = tps_flow(case["theta"], size)
        frame = scaled_frame(case["image"].shape[1:], size)
        close(flow, case["flow"], FLOW_ATOL)
        same_inside(flow, case["inside"])
        close(sample(case["image"], frame.points()), case["ref_aligned"], image_atol(size))
        close(sample(case["image"], frame.points(flow)), case["query_aligned"], image_atol(size))


def rescaled_inverse(homography: NDArray[Any], size: int) -> NDArray[Any]:
    """``D H^-1 D^-1``: a homography of the published list (views of 240), at another size."""
    ratio = np.diag([size / 240, size / 240, 1.0])
    return ratio @ np.linalg.inv(np.asarray(homography, np.float64)) @ np.linalg.inv(ratio)


@pytest.mark.golden
def test_homography_pairs_match_the_reference_arrays(golden: Any) -> None:
    for case in cases(golden, "geom_homography_*.npz"):
        size = int(case["size"])
        frame = central_frame(tuple(case["full_size"]), size)
        assert frame.offset_xy == tuple(case["crop_xy"])
        flow = homography_flow(rescaled_inverse(case["H"], size), size, frame.offset_xy)
        close(flow, case["flow"], FLOW_ATOL)
        same_inside(flow, case["inside"])
        close(sample(case["image"], frame.points()), case["ref"])
        close(sample(case["image"], frame.points(flow)), case["query"])


def test_sampling_agrees_with_the_torch_warp() -> None:
    image = RNG.random((2, 9, 11)).astype(np.float32)
    flow = RNG.normal(0, 4, (2, 9, 11)).astype(np.float32)
    expected = torch_flow.warp(torch.from_numpy(image)[None], torch.from_numpy(flow)[None])[0]
    found = sample(image, pixel_points((9, 11)) + np.moveaxis(flow, 0, -1))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    expected_inside = torch_flow.inside(torch.from_numpy(flow)[None])[0, 0]
    np.testing.assert_array_equal(inside(flow), expected_inside.numpy())


def test_homography_flow_agrees_with_opencv() -> None:
    matrix = np.array([[1.1, 0.02, 3], [-0.05, 0.9, 1], [1e-4, 2e-4, 1]])
    points = pixel_points((12, 12))
    expected = np.moveaxis(cv2.perspectiveTransform(points, matrix) - points, -1, 0)
    np.testing.assert_allclose(homography_flow(matrix, 12), expected, atol=1e-5)


@pytest.mark.parametrize("size", [2, 47, 520])
def test_identities_have_no_flow_and_are_valid_to_the_border(size: int) -> None:
    eye = np.eye(3)
    for flow in (
        affine_flow(eye[:2], size),
        tps_flow(CONTROL_POINTS.T.ravel(), size),
        homography_flow(rescaled_inverse(eye, size), size),
    ):
        assert flow.shape == (2, size, size)
        assert np.abs(flow).max() < 1e-5
    assert inside(affine_flow(eye[:2], size)).all()


def test_spline_goes_through_its_control_points_and_contains_the_affine_maps() -> None:
    targets = CONTROL_POINTS.T.ravel() + RNG.uniform(-0.3, 0.3, 18)
    np.testing.assert_allclose(tps_points(targets, CONTROL_POINTS).T.ravel(), targets, atol=1e-9)
    theta = np.array([[1.1, 0.1, 0.2], [-0.2, 0.9, 0.1]])
    moved = CONTROL_POINTS @ theta[:, :2].T + theta[:, 2]
    np.testing.assert_allclose(tps_flow(moved.T.ravel(), 33), affine_flow(theta, 33), atol=1e-4)


def test_frames_meet_the_background_where_they_should() -> None:
    assert scaled_frame((101, 201), 51, share=1.0) == Frame(51, (4.0, 2.0), (0.0, 0.0))
    corners = scaled_frame((101, 201), 51, share=0.5).points()[[0, -1], [0, -1]]
    np.testing.assert_allclose(corners, [[50, 25], [150, 75]])
    np.testing.assert_array_equal(central_frame((10, 13), 4).points()[0, 0], [4, 3])


@pytest.mark.parametrize(
    ("transform", "flow_share", "valid_share"),
    [
        ("affine", (0.08, 0.12, 0.16), (0.76, 0.87, 0.97)),
        ("tps", (0.06, 0.09, 0.12), (0.79, 0.87, 0.94)),
        ("homography", (0.11, 0.18, 0.28), (0.61, 0.80, 0.95)),
    ],
)
def test_random_flows_have_the_published_statistics(
    transform: Any, flow_share: tuple[float, ...], valid_share: tuple[float, ...]
) -> None:
    rng = np.random.default_rng(1)
    flows = [random_flow(rng, transform, 40) for _ in range(300)]
    lengths = np.array([np.linalg.norm(flow, axis=0).mean() / 40 for flow in flows])
    valid = np.array([inside(flow).mean() for flow in flows])

    assert valid.min() >= 0.5
    np.testing.assert_allclose(np.quantile(lengths, (0.1, 0.5, 0.9)), flow_share, atol=0.02)
    np.testing.assert_allclose(np.quantile(valid, (0.1, 0.5, 0.9)), valid_share, atol=0.08)


@pytest.mark.parametrize("transform", ["affine", "tps", "homography"])
def test_strength_scales_the_flow_down_to_nothing(transform: Any) -> None:
    flows = [
        np.abs(random_flow(np.random.default_rng(4), transform, 64, strength=strength)).mean()
        for strength in (0.0, 0.3, 1.0)
    ]
    assert flows[0] < 1e-4 < flows[1] < flows[2]


def test_hopeless_strengths_are_refused() -> None:
    with pytest.raises(UsageError, match="lower the strength"):
        random_flow(np.random.default_rng(0), "affine", 32, strength=100)
