"""What the labels are worth that a network would give to pairs without masks."""

from collections.abc import Iterable

import torch
from tables import markdown
from torch import Tensor

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Confidence from which a pseudo label might count."""
CLASSES = ("no change", "change")


def confident_and_right(prob: Tensor, mask: Tensor, sure: float) -> Tensor:
    """(2,3) numbers of pixels: of each class of the mask, with a pseudo label, with a right one.

    ``prob`` is the change probability, ``mask`` 0, 1, or 255 where nothing is known, same shape;
    a label counts from the confidence ``sure``.
    """
    assert prob.shape == mask.shape
    confident = torch.maximum(prob, 1 - prob) >= sure
    right = confident & ((prob > 0.5) == (mask == 1))
    return torch.tensor([
        [int((here & x).sum()) for x in (here, confident, right)]
        for here in (mask == klass for klass in range(len(CLASSES)))
    ])  # fmt: skip


def shares(numbers: Tensor) -> dict[str, dict[str, float]]:
    """Of each class the share of pixels with a pseudo label, and how many of these are right."""
    return {
        name: {
            "confident": round(confident / max(pixels, 1), 3),
            "right": round(right / max(confident, 1), 3),
        }
        for name, (pixels, confident, right) in zip(CLASSES, numbers.tolist(), strict=True)
    }


def by_threshold(found: Iterable[tuple[str, Tensor, Tensor]]) -> str:
    """Table by confidence threshold: name, change probability and mask of each network."""
    cells = []
    for name, prob, mask in found:
        for sure in THRESHOLDS:
            says = {"change": prob >= sure, "no change": 1 - prob >= sure}
            right = int((says["change"] & (mask == 1)).sum()) / max(1, int(says["change"].sum()))
            parts = [
                f"{100 * float(labelled[mask == klass].float().mean()):.1f}"
                for klass in (1, 0)
                for labelled in says.values()
            ]
            cells.append([name, sure, *parts, f"{100 * right:.0f}"])
    head = [f"of {of}: labelled {says} %" for of in ("change", "the rest") for says in
            ("change", "no change")]  # fmt: skip
    return markdown(["network", "from", *head, "right of labelled change %"], cells)
