"""Losses of the scene branch: flow and change at four levels, feature-metric alignment.

Source: Lee and Kim, "Semi-Supervised Scene Change Detection by Distillation from Feature-metric
Alignment" (WACV 2024, called FMA), and SimSaC (CVPR 2022), whose levels go from coarse to fine:
4 and 3 of the low image, 2 and 1 of the image. Flow lies on the t2 grid and points to t1.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from rscd.base.errors import UsageError
from rscd.base.types import ShapeHW
from rscd.methods.parts.losses import mask_loss
from rscd.models.flow import scale_flow
from rscd.models.logits import change_logit, exact
from rscd.models.resize import resize, size_of
from rscd.models.scene import Levels

LEVEL_WEIGHTS = (0.32, 0.08, 0.02, 0.01)
"""Loss weights of levels 4, 3, 2, 1, for flow and for change."""
LOW_LEVELS = 2
"""Number of levels, counted from the coarsest, that belong to the low image."""
GAMMA = 2.0
"""Exponent of the focal loss."""
SQUEEZE = 1e-2
"""Keeps edges and gradients of change away from 0 and 1 before the logarithm."""

Reduction = Literal["sum_per_batch", "mean"]
"""Reduction of the end-point error: sum over all pixels / B (GLU-Net), or mean over all."""
Axes = Literal["sum", "max"]
"""Smoothness terms: one per axis, or one of the larger gradient."""
Change = Literal["hard", "soft"]
"""Change targets of the student: thresholded, or as probabilities."""


def flow_targets(flow: Tensor, low_hw: ShapeHW, grids: Sequence[ShapeHW]) -> list[Tensor]:
    """True flow at every level, in pixels of the level's image.

    Args:
        flow: (B,2,H,W) pixels of the image.
        low_hw: size of the low image.
        grids: of levels 4, 3, 2, 1.
    """
    low = scale_flow(flow, low_hw)
    return [resize(low if level < LOW_LEVELS else flow, grid) for level, grid in enumerate(grids)]


def mask_targets(mask: Tensor, low_hw: ShapeHW, grids: Sequence[ShapeHW]) -> list[Tensor]:
    """True change at every level: (B,1,h,w), by the nearest pixel (floor rule).

    Args:
        mask: (B,1,H,W) 0, 1, or 255 to ignore.
        low_hw: size of the low image; its levels are taken from it.
        grids: of levels 4, 3, 2, 1.
    """
    low = _nearest(mask, low_hw)
    return [_nearest(low if level < LOW_LEVELS else mask, grid) for level, grid in enumerate(grids)]


def valid_targets(valid: Tensor, low_hw: ShapeHW, grids: Sequence[ShapeHW]) -> list[Tensor]:
    """Validity at every level: (B,1,h,w) float, 1 only where all averaged pixels are valid.

    Args:
        valid: (B,1,H,W) bool.
        low_hw: size of the low image.
        grids: of levels 4, 3, 2, 1.
    """
    full = valid.float()
    low = _wholly(full, low_hw)
    return [_wholly(low if level < LOW_LEVELS else full, grid) for level, grid in enumerate(grids)]


def end_point_error(
    flow: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    *,
    valid: Tensor | None = None,
    use_flow: Tensor | None = None,
) -> Tensor:
    """Length of the error of a flow at one level.

    Args:
        flow: (B,2,h,w).
        target: (B,2,h,w) in the same unit.
        reduction: see `Reduction`; the denominators count all pixels, whatever is masked.
        valid: (B,1,h,w) 1 or 0.
        use_flow: (B,) 1 for pairs whose flow is known, 0 for others.

    Returns:
        A scalar; its gradient is 0 where the error is exactly 0.
    """
    if valid is not None:
        flow, target = flow * valid, target * valid
    error: Tensor = torch.linalg.vector_norm(flow - target, dim=1)
    if use_flow is not None:
        error = error * use_flow.to(error).view(-1, 1, 1)
    return error.sum() / len(error) if reduction == "sum_per_batch" else error.mean()


def flow_loss(
    flows: Sequence[Tensor],
    targets: Sequence[Tensor],
    reduction: Reduction = "mean",
    *,
    valid: Sequence[Tensor] | None = None,
    use_flow: Tensor | None = None,
    weights: Sequence[float] = LEVEL_WEIGHTS,
) -> Tensor:
    """Hierarchical end-point error ``l_V`` (SimSaC; FMA section 3.1).

    Args:
        flows: (B,2,h,w) of levels 4, 3, 2, 1.
        targets: likewise, see `flow_targets`.
        reduction: of each level.
        valid: see `valid_targets`; None uses every pixel, as published.
        use_flow: see `end_point_error`.
        weights: of the levels.
    """
    masks: Sequence[Tensor | None] = valid or [None] * len(flows)
    terms = [
        weight * end_point_error(flow, target, reduction, valid=mask, use_flow=use_flow)
        for weight, flow, target, mask in zip(weights, flows, targets, masks, strict=True)
    ]
    return torch.stack(terms).sum()


def change_loss(
    changes: Sequence[Tensor],
    targets: Sequence[Tensor],
    gamma: float = GAMMA,
    weights: Sequence[float] = LEVEL_WEIGHTS,
) -> Tensor:
    """Hierarchical focal loss ``l_M``, each level a mean over its pixels.

    Args:
        changes: logits (B,K,h,w), K 1 or 2, of levels 4, 3, 2, 1.
        targets: (B,1,h,w) 0, 1, or 255 to ignore (see `mask_targets`); floating probabilities are
            soft targets.
        gamma: 0 is plain cross-entropy.
        weights: of the levels.
    """
    terms = [
        weight * _focal(change_logit(logits), target, gamma)
        for weight, logits, target in zip(weights, changes, targets, strict=True)
    ]
    return torch.stack(terms).sum()


def _focal(logit: Tensor, target: Tensor, gamma: float) -> Tensor:
    if not target.is_floating_point():
        return mask_loss(logit, target, "focal", {"gamma": gamma})
    return soft_focal(logit, target, gamma)


def soft_focal(logit: Tensor, target: Tensor, gamma: float = GAMMA) -> Tensor:
    """Mean of ``-t (1-p)^gamma log p - (1-t) p^gamma log(1-p)``.

    Args:
        logit: (B,1,h,w).
        target: (B,1,h,w) in [0,1].
        gamma: 0 is cross-entropy with soft targets.
    """
    prob = logit.sigmoid()
    change = target * (1 - prob) ** gamma * F.logsigmoid(logit)
    same = (1 - target) * prob**gamma * F.logsigmoid(-logit)
    return -(change + same).mean()


def distill_flow_targets(teacher: Levels, grids: Sequence[ShapeHW]) -> list[Tensor]:
    """Flow targets of the student (FMA Eq. 7), from the teacher's level 3 (low image) or 1 (image).

    Args:
        teacher: levels for the same pairs before augmentation; gets no gradient.
        grids: of the student's levels 4, 3, 2, 1.
    """
    return [resize(x, grid) for x, grid in zip(_sources(teacher.flow), grids, strict=True)]


def distill_change_targets(
    teacher: Levels, grids: Sequence[ShapeHW], change: Change = "hard"
) -> list[Tensor]:
    """Change targets of the student, from the same levels of the teacher.

    Args:
        teacher: likewise.
        grids: of the student's levels 4, 3, 2, 1.
        change: hard labels (probability of at least one half), resized by the nearest pixel; or
            soft ones, resized bilinearly.

    Returns:
        (B,1,h,w) int64, or float32 in [0,1].
    """
    probs = [change_logit(x).sigmoid() for x in _sources(teacher.change)]
    if change == "soft":
        return [resize(prob, grid) for prob, grid in zip(probs, grids, strict=True)]
    return [_nearest((prob >= 0.5).long(), grid) for prob, grid in zip(probs, grids, strict=True)]


def _sources(maps: Sequence[Tensor]) -> list[Tensor]:
    low, fine = maps[LOW_LEVELS - 1].detach(), maps[-1].detach()
    return [low] * LOW_LEVELS + [fine] * (len(maps) - LOW_LEVELS)


def feature_metric_loss(dissimilar: Tensor, logit: Tensor, valid: Tensor) -> Tensor:
    """``l_feat`` (FMA Eq. 3): mean dissimilarity of unchanged pixels, per pair.

    Pixels more dissimilar than their pair's average are pushed towards change, the others away
    from it; flow learns where there is no change.

    Args:
        dissimilar: (B,1,h,w) of `dissimilarity`.
        logit: (B,1,h,w) of change.
        valid: (B,1,h,w) bool.
    """
    static = valid * (1 - logit.sigmoid())
    return ((static * dissimilar).sum((1, 2, 3)) / (static.sum((1, 2, 3)) + 1e-6)).mean()


def change_regularisation(dissimilar: Tensor, logit: Tensor) -> Tensor:
    """``l_cr`` (FMA Eq. 4): similar pixels are not change. Gradient only to the logit.

    Args:
        dissimilar: (B,1,h,w).
        logit: (B,1,h,w) of change.
    """
    return -((1 - dissimilar.detach()) * F.logsigmoid(-logit)).mean()


def edge_smoothness(
    dissimilar: Tensor, logit: Tensor, edge: Tensor, squeeze: float = SQUEEZE, axes: Axes = "sum"
) -> Tensor:
    """``l_sm`` (FMA Eq. 5): change has borders where t2 has edges. Gradient only to the logit.

    Args:
        dissimilar: (B,1,h,w), weighs the pixels.
        logit: (B,1,h,w) of change.
        edge: (B,1,H,W) 0 or 1, of t2 at full resolution.
        squeeze: gradients g become ``squeeze + (1 - 2 squeeze) g``, because the logarithm would
            have no gradient at edges where g is still 0.
        axes: see `Axes`.
    """
    size = size_of(edge)
    prob = resize(logit, size).sigmoid()
    weight = resize(dissimilar.detach(), size)
    across, down = prob.diff(dim=-1).abs(), prob.diff(dim=-2).abs()
    if axes == "max":
        cut = (..., slice(-1), slice(-1))
        largest = torch.maximum(across[..., :-1, :], down[..., :-1])
        return _edge_entropy(largest, edge[cut], weight[cut], squeeze)
    return _edge_entropy(across, edge[..., :-1], weight[..., :-1], squeeze) + _edge_entropy(
        down, edge[..., :-1, :], weight[..., :-1, :], squeeze
    )


def _edge_entropy(gradient: Tensor, edge: Tensor, weight: Tensor, squeeze: float) -> Tensor:
    # cross-entropy of probabilities, which CUDA refuses in mixed precision
    with torch.autocast(gradient.device.type, enabled=False):
        share = squeeze + (1 - 2 * squeeze) * exact(gradient).clamp(0, 1)
        entropy = F.binary_cross_entropy(share, edge.to(share), reduction="none")
        return (exact(weight) * entropy).mean()


def unsupervised_terms(
    dissimilar: Tensor,
    logit: Tensor,
    valid: Tensor,
    edge: Tensor | None,
    weights: Mapping[str, float],
    *,
    squeeze: float = SQUEEZE,
    axes: Axes = "sum",
) -> dict[str, Tensor]:
    """The weighted terms of ``L_unsup`` (FMA Eq. 6), without those of weight 0.

    Args:
        dissimilar: (B,1,h,w).
        logit: (B,1,h,w).
        valid: (B,1,h,w) bool.
        edge: (B,1,H,W); may be None if ``smooth`` has weight 0.
        weights: of ``feature``, ``regular`` and ``smooth``; published 1, 0.2 or 0.01, 1.
        squeeze: see `edge_smoothness`.
        axes: see `edge_smoothness`.
    """
    terms = {}
    if weights["feature"]:
        terms["feature"] = weights["feature"] * feature_metric_loss(dissimilar, logit, valid)
    if weights["regular"]:
        terms["regular"] = weights["regular"] * change_regularisation(dissimilar, logit)
    if weights["smooth"] and edge is not None:
        smooth = edge_smoothness(dissimilar, logit, edge, squeeze, axes)
        terms["smooth"] = weights["smooth"] * smooth
    return terms


def grids_of(maps: Sequence[Tensor]) -> list[ShapeHW]:
    """(height, width) of each map."""
    return [size_of(x) for x in maps]


def _nearest(labels: Tensor, shape_hw: ShapeHW) -> Tensor:
    # labels up to 255 are exact in float32, which every device can resize
    return F.interpolate(labels.float(), shape_hw, mode="nearest").to(labels.dtype)


def _wholly(valid: Tensor, shape_hw: ShapeHW) -> Tensor:
    return (resize(valid, shape_hw) >= 1).to(valid.dtype)


def check_choice(value: str, kind: object, name: str) -> None:
    """Refuse a value that is not among those of a Literal.

    Raises:
        UsageError: naming the argument and its choices.
    """
    known = get_args(kind)
    if value not in known:
        raise UsageError(f"{name}: expected one of {', '.join(known)}, found {value!r}")
