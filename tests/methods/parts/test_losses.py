"""Losses of a change map against masks."""

import pytest
import torch
from scipy.ndimage import distance_transform_cdt
from torch import Tensor

from rscd.base.types import IGNORE
from rscd.methods.parts.losses import LOSSES, close_to_edges, mask_loss


def scene(seed: int = 0, size: int = 40) -> Tensor:
    """Random squares of change, some of it ignored: (2,1,S,S) int64."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(2, 1, size, size, dtype=torch.long)
    for value in (1, 1, 1, IGNORE):
        for pair in mask:
            top, left = torch.randint(0, size - 8, (2,), generator=generator).tolist()
            pair[0, top : top + 8, left : left + 8] = value
    return mask


@pytest.mark.parametrize("reach", [1, 2, 4])
def test_close_to_edges_is_a_distance(reach: int) -> None:
    mask = scene()
    found = close_to_edges(mask, reach)
    for pair, near in zip(mask[:, 0].numpy() == 1, found[:, 0].numpy(), strict=True):
        inside = distance_transform_cdt(pair, "chessboard")
        outside = distance_transform_cdt(~pair, "chessboard")
        assert ((inside + outside <= reach) == near).all()


def test_edges_is_the_cross_entropy_of_what_is_close_to_edges() -> None:
    mask = scene()
    logit = torch.randn(mask.shape, generator=torch.Generator().manual_seed(1))
    far = torch.where(close_to_edges(mask), mask, IGNORE)
    torch.testing.assert_close(mask_loss(logit, mask, "edges"), mask_loss(logit, far, "bce"))
    assert mask_loss(logit, mask, "edges") != mask_loss(logit, mask, "bce")


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("value", [0, 1, IGNORE])
def test_losses_of_a_single_value_are_finite_and_have_gradients(name: str, value: int) -> None:
    logit = torch.zeros(1, 1, 8, 8, requires_grad=True)
    loss = mask_loss(logit, torch.full((1, 1, 8, 8), value), name)
    loss.backward()
    assert torch.isfinite(loss)
    assert logit.grad is not None
    assert torch.isfinite(logit.grad).all()
    if value == IGNORE or name == "edges":
        assert loss == 0
