"""The loss of DiffMatch, term by term: pure functions of logits, distances and labels.

Source: Li et al., arXiv 2405.04788 and its published code, section 4 of the method's notes. Every
mean over an empty set of pixels is 0, with a gradient of 0.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from rscd.base.types import IGNORE
from rscd.methods.parts.diffmatch_recipe import Recipe

EPS = 1e-4
"""Added to the pixel counts of the balanced contrastive loss."""

VIEWS, KINDS = 3, 2
"""Guidance is the mean over labelled, weak and strong view, and over change and date labels."""

Terms = dict[str, Tensor]


def guidance_weight(step: int, total: int, start: float) -> float:
    """lambda_vl: from `start` at step 0 down to start / total at the last step."""
    return start * (1 - step / total)


def pseudo_labels(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Label and confidence of each pixel, without gradient (4.2).

    Args:
        logits: (B,2,H,W).

    Returns:
        (B,H,W) int64 of 0 and 1, a tie is 0; (B,H,W) float32 in [0.5,1].
    """
    confidence, label = logits.detach().float().softmax(1).max(1)
    return label, confidence


def cross_entropy_map(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of each pixel.

    Args:
        logits: (B,2,H,W).
        target: (B,H,W) int64 of 0, 1 and 255.

    Returns:
        (B,H,W) float32, 0 where the target is 255.
    """
    return F.cross_entropy(logits.float(), target, ignore_index=IGNORE, reduction="none")


def cross_entropy(
    logits: Tensor, target: Tensor, reduction: str = "mean", valid: Tensor | None = None
) -> Tensor:
    """Cross-entropy of a batch (4.1, 4.4).

    Args:
        logits: (B,2,H,W).
        target: (B,H,W) int64 of 0, 1 and 255.
        reduction: the sum over pixels with a label, divided by their number (``mean``), by that of
            valid pixels (``mean_valid``), or of all pixels (``mean_all``).
        valid: (B,H,W) bool, False on padding; for ``mean_valid``.

    Returns:
        A scalar.
    """
    total = cross_entropy_map(logits, target).sum()
    if reduction == "mean_all":
        return total / target.numel()
    counted = target != IGNORE if reduction == "mean" or valid is None else valid
    return total / counted.sum().clamp(min=1)


def contrastive_map(distance: Tensor, target: Tensor, margin: float, power: int = 2) -> Tensor:
    """Distance^power of unchanged pixels, max(0, margin - distance)^power of changed ones (4.5).

    Args:
        distance: (B,H,W), not negative.
        target: (B,H,W) int64 of 0, 1 and 255.
        margin: distance from which changed pixels cost nothing.
        power: 2 in the published code, 1 in the paper.

    Returns:
        (B,H,W), 0 where the target is 255.
    """
    distance = distance.float()
    apart = (margin - distance).clamp(min=0) ** power
    nothing = torch.zeros_like(distance)
    changed = torch.where(target == 1, apart, nothing)
    return torch.where(target == 0, distance**power, changed)


def balanced_contrastive(
    distance: Tensor, target: Tensor, margin: float, power: int = 2, eps: float = EPS
) -> Tensor:
    """Mean over unchanged plus mean over changed pixels of the batch.

    Args:
        distance: see `contrastive_map`, as the other arguments.
        target: (B,H,W) int64 of 0, 1 and 255.
        margin: distance from which changed pixels cost nothing.
        power: 2 or 1.
        eps: added to both counts of pixels.

    Returns:
        A scalar.
    """
    loss = contrastive_map(distance, target, margin, power)
    means = [(loss * here).sum() / (here.sum() + eps) for here in (target == 0, target == 1)]
    return means[0] + means[1]


def thresholds(pseudo: Tensor, recipe: Recipe) -> float | Tensor:
    """Confidence from which a pseudo label counts: one, or (B,H,W) where that depends on it."""
    if recipe.conf_thresh_change is None:
        return recipe.conf_thresh
    return torch.where(pseudo == 1, recipe.conf_thresh_change, recipe.conf_thresh)


def confident(confidence: Tensor, thresh: float | Tensor) -> Tensor:
    """Where the confidence reaches the threshold, compared in the dtype of the confidence."""
    return confidence >= torch.as_tensor(thresh).to(confidence)


def gated(
    loss: Tensor,
    confidence: Tensor,
    valid: Tensor,
    thresh: float | Tensor,
    mode: str = "pixelwise",
) -> Tensor:
    """Mean over valid pixels of a loss that counts where the pseudo label is confident (4.3).

    The denominator counts valid pixels that are not confident too, so few confident pixels weigh
    little.

    Args:
        loss: (B,H,W).
        confidence: (B,H,W) in [0,1].
        valid: (B,H,W) bool, False on padding.
        thresh: tau, one or (B,H,W).
        mode: ``pixelwise``; or ``pixelratio``, the whole loss of an image times the share of
            confident ones among its valid pixels.

    Returns:
        A scalar.
    """
    sure = confident(confidence, thresh) & valid
    n_valid = valid.sum().clamp(min=1)
    if mode == "pixelwise":
        return (loss * sure).sum() / n_valid
    ratio = sure.sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)
    return (ratio * loss.sum((1, 2))).sum() / n_valid


def consistency(logits: Tensor, view: Mapping[str, Tensor], recipe: Recipe) -> Tensor:
    """L_s: cross-entropy with pseudo labels, where these are confident.

    Args:
        logits: (B,2,H,W).
        view: ``pseudo``, ``confidence`` and ``valid`` (B,1,H,W).
        recipe: threshold and gate.
    """
    pseudo, confidence, valid = (view[k][:, 0] for k in ("pseudo", "confidence", "valid"))
    loss = cross_entropy_map(logits, pseudo)
    return gated(loss, confidence, valid, thresholds(pseudo, recipe), recipe.gate)


def labeled_terms(
    outputs: Mapping[str, Tensor], view: Mapping[str, Tensor], recipe: Recipe, lambda_vl: float
) -> Terms:
    """Weighted loss terms of labelled pairs: ``sup``, ``con_x``, ``vl_x``, ``seg_x``.

    Args:
        outputs: of the network, as far as the recipe needs them: ``logits``, ``vl_logits``,
            ``sem_t1``, ``sem_t2`` (B,2,H,W), ``distance`` (B,H,W).
        view: ``mask``, and the layers of the recipe, (B,1,H,W).
        recipe: see `Recipe`.
        lambda_vl: weight of guidance at this step.
    """
    mask = view["mask"][:, 0]
    loss = cross_entropy(outputs["logits"], mask)
    if not recipe.unlabeled:
        return {"sup": loss}
    terms = {"sup": loss / 2}
    if recipe.lambda_c:
        contrast = balanced_contrastive(outputs["distance"], mask, recipe.margin, recipe.power)
        terms["con_x"] = recipe.lambda_c / 2 * contrast
    if recipe.vl_on_labeled:
        terms |= guidance_terms(outputs, view, recipe, lambda_vl, "x", "mean")
    return terms


def strong_terms(
    outputs: Mapping[str, Tensor],
    view: Mapping[str, Tensor],
    recipe: Recipe,
    lambda_vl: float,
    name: str = "s",
) -> Terms:
    """Weighted loss terms of a strong view: ``consistency_s``, ``con_s``, ``vl_s``, ``seg_s``.

    Args:
        outputs: see `labeled_terms`.
        view: ``pseudo``, ``confidence``, ``valid`` and the layers of the recipe, (B,1,H,W).
        recipe: see `Recipe`.
        lambda_vl: weight of guidance at this step.
        name: of the view.
    """
    agreement = consistency(outputs["logits"], view, recipe)
    terms = {f"consistency_{name}": recipe.strong_share / 2 * agreement}
    if recipe.lambda_c:
        contrast = _unlabeled_contrast(outputs["distance"], view, recipe)
        terms[f"con_{name}"] = recipe.lambda_c / 2 / recipe.strong_views * contrast
    weight = lambda_vl / recipe.strong_views
    return terms | guidance_terms(outputs, view, recipe, weight, name, recipe.vl_reduction)


def _unlabeled_contrast(distance: Tensor, view: Mapping[str, Tensor], recipe: Recipe) -> Tensor:
    pseudo, confidence, valid = (view[k][:, 0] for k in ("pseudo", "confidence", "valid"))
    thresh = thresholds(pseudo, recipe)
    if recipe.balance_unlabeled:
        sure = confident(confidence, thresh) & valid
        target = pseudo.masked_fill(~sure, IGNORE)
        return balanced_contrastive(distance, target, recipe.margin, recipe.power)
    loss = contrastive_map(distance, pseudo, recipe.margin, recipe.power)
    return gated(loss, confidence, valid, thresh)


def guidance_terms(
    outputs: Mapping[str, Tensor],
    view: Mapping[str, Tensor],
    recipe: Recipe,
    lambda_vl: float,
    name: str,
    reduction: str,
) -> Terms:
    """Guidance of one view, weighted: ``vl_NAME`` and ``seg_NAME`` (4.4).

    Args:
        outputs: see `labeled_terms`.
        view: the layers of the recipe, (B,1,H,W); for ``mean_valid`` also ``valid``.
        recipe: see `Recipe`.
        lambda_vl: weight of guidance at this step.
        name: of the view: x, w or s.
        reduction: of `cross_entropy`.
    """
    valid = view["valid"][:, 0] if "valid" in view else None
    terms: Terms = {}
    if recipe.guidance != "none":
        logits = outputs["vl_logits" if recipe.guidance == "dual" else "logits"]
        loss = cross_entropy(logits, view["vl_change"][:, 0], reduction, valid)
        terms[f"vl_{name}"] = lambda_vl / (VIEWS * KINDS) * loss
    if recipe.guide_dates:
        t1, t2 = (
            cross_entropy(outputs[f"sem_{date}"], view[f"vl_{date}"][:, 0], reduction, valid)
            for date in ("t1", "t2")
        )
        terms[f"seg_{name}"] = lambda_vl / (VIEWS * KINDS) * (t1 + t2) / 2
    return terms
