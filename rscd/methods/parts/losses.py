"""Losses of a change map against masks, with pixels to ignore: pure functions."""

from collections.abc import Callable, Mapping
from typing import Any

import segmentation_models_pytorch as smp
from torch import Tensor
from torch.nn import functional as F

from rscd.base.types import IGNORE


def binary_cross_entropy(
    logit: Tensor, truth: Tensor, class_weights: tuple[float, float] = (1.0, 1.0)
) -> Tensor:
    """Mean over pixels of the cross-entropy, each weighted by its class.

    Args:
        logit: (n,) change logits.
        truth: (n,) 0 or 1, float.
        class_weights: of no change and change.
    """
    weight = class_weights[0] + (class_weights[1] - class_weights[0]) * truth
    return F.binary_cross_entropy_with_logits(logit, truth, weight)


def focal(logit: Tensor, truth: Tensor, gamma: float = 2.0, alpha: float | None = None) -> Tensor:
    """Focal loss (Lin et al. 2017, Eq. 4): cross-entropy times (1 - p of the true class)^gamma.

    Args:
        logit: (n,).
        truth: (n,) 0 or 1, float.
        gamma: 0 is plain cross-entropy.
        alpha: weight of change, 1 - alpha that of no change; None weighs both by 1.
    """
    loss = smp.losses.FocalLoss("binary", alpha=alpha, gamma=gamma)
    return loss(logit, truth)  # type: ignore[no-any-return]


def dice(logit: Tensor, truth: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - Dice coefficient of class change over all pixels of the batch; 0 if none is change."""
    loss = smp.losses.DiceLoss("binary", smooth=smooth)
    return loss(logit[None, None], truth[None, None])  # type: ignore[no-any-return]


def jaccard(logit: Tensor, truth: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - soft IoU of class change over all pixels of the batch; 0 if none is change."""
    loss = smp.losses.JaccardLoss("binary", smooth=smooth)
    return loss(logit[None, None], truth[None, None])  # type: ignore[no-any-return]


EDGES = "edges"
"""Cross-entropy of the pixels close to an edge of the mask alone, see `close_to_edges`."""

LOSSES: dict[str, Callable[..., Tensor]] = {
    "bce": binary_cross_entropy,
    EDGES: binary_cross_entropy,
    "ce": binary_cross_entropy,  # the same on the difference of two logits, see `change_logit`
    "focal": focal,
    "dice": dice,
    "jaccard": jaccard,
}


def mask_loss(
    logit: Tensor, mask: Tensor, name: str, args: Mapping[str, Any] | None = None
) -> Tensor:
    """One of `LOSSES` over the pixels that are not ignored.

    Args:
        logit: (B,1,H,W) change logits.
        mask: (B,1,H,W) 0 or 1; 255 is ignored.
        name: of the loss; ``edges`` ignores whatever is far from an edge of the mask.
        args: its further arguments.

    Returns:
        A scalar; 0 (with gradient) if every pixel is ignored.
    """
    used = mask != IGNORE
    if name == EDGES:
        used &= close_to_edges(mask)
    if not used.any():
        return logit.sum() * 0
    return LOSSES[name](logit[used].float(), mask[used].float(), **(args or {}))


def close_to_edges(mask: Tensor, reach_px: int = 2) -> Tensor:
    """Pixels not farther than ``reach_px`` from an edge of the change in a mask.

    Args:
        mask: (B,1,H,W) 0, 1 or 255; 255 counts as no change.
        reach_px: in pixels, along rows and columns.

    Returns:
        (B,1,H,W) bool.
    """
    change, side = (mask == 1).float(), 2 * reach_px + 1
    widest = F.max_pool2d(change, side, 1, reach_px)
    return widest + F.max_pool2d(1 - change, side, 1, reach_px) == 2
