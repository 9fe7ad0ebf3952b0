from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rscd.base.errors import UsageError
from rscd.models.flow import (
    convert_unit,
    flip_flow,
    inside,
    pixel_grid,
    rot90_flow,
    scale_flow,
    warp,
)
from rscd.models.resize import resize


def constant_flow(u: float, v: float, height: int, width: int) -> torch.Tensor:
    return (
        torch.tensor([float(u), float(v)]).view(1, 2, 1, 1).expand(1, 2, height, width).contiguous()
    )


@pytest.mark.golden
def test_warp_matches_the_reference_arrays(golden: Any) -> None:
    files = golden.files("scene/warp_*.npz")
    assert files
    for file in files:
        arrays = np.load(file)
        x = torch.from_numpy(arrays["x"]).requires_grad_()
        flow = torch.from_numpy(arrays["flow"]).requires_grad_()
        out = warp(x, flow)
        out.backward(torch.from_numpy(arrays["upstream"]))
        close = {"atol": 1e-5, "rtol": 1e-4, "msg": file.name}
        torch.testing.assert_close(out, torch.from_numpy(arrays["out"]), **close)
        torch.testing.assert_close(x.grad, torch.from_numpy(arrays["grad_x"]), **close)
        torch.testing.assert_close(flow.grad, torch.from_numpy(arrays["grad_flow"]), **close)
        assert torch.equal(inside(flow), torch.from_numpy(arrays["valid"])), file.name


def test_zero_flow_is_the_identity() -> None:
    x = torch.rand(2, 3, 5, 8)
    flow = torch.zeros(2, 2, 5, 8)
    torch.testing.assert_close(warp(x, flow), x, atol=1e-6, rtol=0)
    assert inside(flow).all()


def test_integer_flow_shifts_and_fills_with_zero() -> None:
    row = torch.arange(10.0).view(1, 1, 1, 10)
    flow = constant_flow(3, 0, 1, 10)
    expected = torch.tensor([3, 4, 5, 6, 7, 8, 9, 0, 0, 0.0])
    torch.testing.assert_close(warp(row, flow).flatten(), expected, atol=1e-5, rtol=0)
    assert inside(flow).flatten().tolist() == [True] * 7 + [False] * 3


def test_half_a_pixel_beyond_the_border_is_half_the_value() -> None:
    row = torch.tensor([0.0, 2, 4, 6]).view(1, 1, 1, 4)
    flow = constant_flow(0.5, 0, 1, 4)
    torch.testing.assert_close(warp(row, flow).flatten(), torch.tensor([1.0, 3, 5, 3]))
    assert inside(flow).flatten().tolist() == [True, True, True, False]


def test_warp_under_autocast_and_in_half_precision_keeps_the_positions() -> None:
    row = torch.arange(3000.0).remainder(7).view(1, 1, 1, -1)
    flow = constant_flow(1, 0, 1, 3000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = warp(row, flow)
    torch.testing.assert_close(out[..., :-1], row[..., 1:], atol=1e-2, rtol=0)
    half = warp(row.half(), flow.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half[..., :-1].float(), row[..., 1:], atol=1e-2, rtol=0)


def test_units_of_a_26_pixel_flow_at_520() -> None:
    flow = torch.full((1, 2, 4, 4), 26.0)
    full = (520, 520)
    for side, expected in [(260, 13.0), (130, 6.5), (65, 3.25), (256, 12.8), (32, 1.6), (16, 0.8)]:
        converted = convert_unit(flow, full, (side, side))
        torch.testing.assert_close(converted, torch.full_like(flow, expected))


def test_units_treat_x_and_y_apart() -> None:
    flow = torch.ones(1, 2, 3, 3)
    converted = convert_unit(flow, (100, 50), (200, 200))
    assert converted[0, :, 0, 0].tolist() == [4.0, 2.0]


def test_resize_keeps_the_values_and_scale_changes_them() -> None:
    flow = constant_flow(2, -3, 6, 8)
    assert resize(flow, (3, 16))[0, :, 1, 1].tolist() == [2.0, -3.0]
    assert scale_flow(flow, (3, 16))[0, :, 1, 1].tolist() == [4.0, -1.5]


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    height=st.integers(2, 12),
    width=st.integers(2, 12),
    dim=st.sampled_from([-1, -2]),
    turns=st.integers(-4, 5),
)
def test_flips_and_turns_commute_with_warping(
    seed: int, height: int, width: int, dim: int, turns: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    x = torch.rand(1, 2, height, width, generator=random, dtype=torch.float64)
    flow = 3 * torch.randn(1, 2, height, width, generator=random, dtype=torch.float64)
    before = warp(x, flow)
    torch.testing.assert_close(warp(x.flip(dim), flip_flow(flow, dim)), before.flip(dim))
    turned = before.rot90(turns, (-2, -1))
    torch.testing.assert_close(
        warp(x.rot90(turns, (-2, -1)), rot90_flow(flow, turns)), turned, atol=1e-9, rtol=0
    )


def test_resizing_commutes_with_warping_a_smooth_image() -> None:
    x, y = pixel_grid((32, 40))
    image = (torch.sin(x / 9) + torch.cos(y / 7))[None, None]
    flow = torch.stack([2 + y / 20, -1 + x / 30])[None]
    first = torch.nn.functional.interpolate(warp(image, flow), (48, 60), mode="bilinear")
    resized = torch.nn.functional.interpolate(image, (48, 60), mode="bilinear")
    second = warp(resized, scale_flow(flow, (48, 60)))
    inner = (..., slice(8, -8), slice(8, -8))
    assert (first[inner] - second[inner]).abs().max() < 0.01


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="one grid"):
        warp(torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 2, 2))
    with pytest.raises(UsageError, match="dim -1"):
        flip_flow(torch.zeros(1, 2, 4, 4), 1)
