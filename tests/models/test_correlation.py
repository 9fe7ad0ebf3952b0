"""Correlation volumes: reference arrays, hand-checked numbers, and the naive formulation."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rscd.base.errors import UsageError
from rscd.models.correlation import (
    global_correlation,
    l2_normalize,
    local_correlation,
    map_to_flow,
    match_channels,
    mutual_matching,
)
from rscd.models.flow import convert_unit


def unfolded(t2: Tensor, t1: Tensor, radius: int) -> Tensor:
    """The definition, with every shifted copy in memory."""
    side = 2 * radius + 1
    shifted = F.unfold(t1, side, padding=radius)
    shifted = shifted.view(len(t1), t1.shape[1], side**2, *t1.shape[2:])
    return (t2[:, :, None] * shifted).mean(1)


@pytest.mark.golden
def test_local_correlation_matches_the_reference_arrays(golden: Any) -> None:
    files = golden.files("scene/local_corr_*.npz")
    assert files
    for file in files:
        arrays = {k: torch.from_numpy(v) for k, v in np.load(file).items()}
        first = arrays["first"].requires_grad_()
        second = arrays["second"].requires_grad_()
        radius = (round(arrays["out"].shape[1] ** 0.5) - 1) // 2
        out = local_correlation(first, second, radius)
        out.backward(arrays["upstream"])
        close = {"atol": 1e-9, "rtol": 0, "msg": file.name}
        torch.testing.assert_close(out, arrays["out"], **close)
        normalized = l2_normalize(out.detach().relu())
        torch.testing.assert_close(normalized, arrays["out_relu_l2norm"], **close)
        torch.testing.assert_close(first.grad, arrays["grad_first"], **close)
        torch.testing.assert_close(second.grad, arrays["grad_second"], **close)


@pytest.mark.golden
def test_global_correlation_matches_the_reference_arrays(golden: Any) -> None:
    files = golden.files("scene/global_corr_*.npz")
    assert files
    for file in files:
        arrays = {k: torch.from_numpy(v) for k, v in np.load(file).items()}
        t1, t2 = arrays["reference"], arrays["query"]
        close = {"atol": 1e-5, "rtol": 1e-4, "msg": file.name}
        torch.testing.assert_close(l2_normalize(t2), arrays["query_l2norm"], **close)
        found = global_correlation(t1, t2)
        torch.testing.assert_close(found, arrays["corr4d"], **close)
        torch.testing.assert_close(mutual_matching(found), arrays["mutual"], **close)
        torch.testing.assert_close(match_channels(t1, t2), arrays["corr_channels"], **close)
        flow = map_to_flow(arrays["map_norm"])
        torch.testing.assert_close(flow, arrays["flow_grid_px"], **close)
        height, width = flow.shape[-2:]
        low = convert_unit(flow, (height, width), (256, 256))
        torch.testing.assert_close(low, arrays["flow_256_px"], **close)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 2),
    st.integers(1, 5),
    st.integers(1, 19),
    st.integers(1, 19),
    st.integers(0, 5),
)
def test_local_correlation_is_the_naive_one(
    batch: int, channels: int, height: int, width: int, radius: int
) -> None:
    random = torch.Generator().manual_seed(height * 31 + width)
    shape = (batch, channels, height, width)
    inputs = [torch.randn(shape, generator=random, dtype=torch.float64) for _ in range(4)]
    ours, naive = inputs[:2], [x.clone() for x in inputs[:2]]
    for x in (*ours, *naive):
        x.requires_grad_()
    found = local_correlation(ours[0], ours[1], radius)
    expected = unfolded(naive[0], naive[1], radius)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    upstream = torch.randn(found.shape, generator=random, dtype=torch.float64)
    found.backward(upstream)
    expected.backward(upstream)
    for x, y in zip(ours, naive, strict=True):
        torch.testing.assert_close(x.grad, y.grad, atol=1e-12, rtol=0)


def test_single_precision_agrees_with_the_naive_one() -> None:
    t2, t1 = torch.randn(2, 1, 128, 33, 40, generator=torch.Generator().manual_seed(0))
    found, expected = local_correlation(t2, t1), unfolded(t2, t1, 4)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_gradients_only_where_they_are_wanted() -> None:
    t2, t1 = torch.randn(2, 1, 3, 9, 9)
    t1.requires_grad_()
    local_correlation(t2, t1, 1).sum().backward()
    assert t1.grad is not None
    assert t2.grad is None


def test_of_ones_every_shift_inside_is_one() -> None:
    ones = torch.ones(1, 4, 20, 20)
    found = local_correlation(ones, ones)
    assert found[0, :, 10, 10].tolist() == [1.0] * 81
    assert sorted(found[0, :, 0, 0].tolist()) == [0.0] * 56 + [1.0] * 25


def test_the_largest_channel_names_the_shift() -> None:
    t2 = F.normalize(torch.randn(1, 32, 20, 20, generator=torch.Generator().manual_seed(1)), dim=1)
    t1 = t2.roll((-1, 2), (2, 3))  # t1(y + dy, x + dx) = t2(y, x) with dx = 2, dy = -1
    inner = local_correlation(t2, t1)[0, :, 6:14, 6:14]
    assert (inner.argmax(0) == (-1 + 4) * 9 + (2 + 4)).all()


def test_mutual_matching_keeps_the_diagonal() -> None:
    features = torch.eye(16).view(1, 16, 4, 4)
    matched = mutual_matching(global_correlation(features, features)).view(16, 16)
    torch.testing.assert_close(matched.diagonal(), torch.full((16,), 0.99998), atol=1e-5, rtol=0)
    assert (matched - matched.diagonal().diag()).abs().max() == 0


def test_exchanged_dates_exchange_the_matches() -> None:
    t1, t2 = torch.randn(2, 1, 5, 6, 7, generator=torch.Generator().manual_seed(2)).double()
    there, back = (mutual_matching(global_correlation(*x)) for x in ((t1, t2), (t2, t1)))
    torch.testing.assert_close(there, back.permute(0, 3, 4, 1, 2))
    # what p sees at p + d, p + d sees at -d
    there, back = local_correlation(t2, t1, 2), local_correlation(t1, t2, 2)
    dy, dx = 1, -2
    seen = there[0, (dy + 2) * 5 + dx + 2, :-1, 2:]
    torch.testing.assert_close(seen, back[0, (2 - dy) * 5 + 2 - dx, 1:, :-2])


def test_shifting_both_dates_shifts_the_correlation() -> None:
    t1, t2 = torch.randn(2, 1, 3, 24, 24, generator=torch.Generator().manual_seed(3)).double()
    still = local_correlation(t2, t1, 2)
    moved = local_correlation(t2.roll((3, 5), (2, 3)), t1.roll((3, 5), (2, 3)), 2)
    inner = (..., slice(8, 20), slice(8, 20))
    torch.testing.assert_close(moved[inner], still.roll((3, 5), (2, 3))[inner])


def test_half_precision_is_correlated_in_single() -> None:
    t2, t1 = torch.randn(2, 1, 64, 9, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = local_correlation(t2.bfloat16(), t1.bfloat16())
    assert found.dtype == torch.float32
    exact = local_correlation(t2.bfloat16().float(), t1.bfloat16().float())
    torch.testing.assert_close(found, exact)


def test_two_shapes_are_refused() -> None:
    with pytest.raises(UsageError, match="of one shape"):
        local_correlation(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 5))
