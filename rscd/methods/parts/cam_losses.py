"""Maps and losses of KD-MSI (arXiv 2403.05796, Eq. 1-4; methods section 3): pure functions."""

import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5


def activation_map(logits: Tensor) -> Tensor:
    """Class activation map, Eq. (1) as computed: relu(relu(G) - eps) / (max relu(G) + eps).

    The maximum is taken over each map separately. A map without a positive value, or whose peak is
    at most eps = `EPS`, gives 0 everywhere.

    Args:
        logits: (B,1,h,w) map G before pooling.

    Returns:
        (B,1,h,w) in [0,1).
    """
    positive = logits.relu()
    peak = positive.amax(dim=(2, 3), keepdim=True)
    return (positive - EPS).relu() / (peak + EPS)


def distillation_target(teacher: Tensor, label: Tensor) -> Tensor:
    """The student's target: the teacher's map, 0 for pairs without change; detached.

    Args:
        teacher: (B,1,h,w) map G of the teacher.
        label: (B,) 0 or 1.
    """
    return activation_map(teacher.detach()) * label.view(-1, 1, 1, 1).to(teacher.dtype)


def classification_loss(label_logit: Tensor, label: Tensor) -> Tensor:
    """Eq. (2) with the parentheses missing in print: binary cross-entropy, mean over the batch.

    Args:
        label_logit: (B,1) spatial mean of the teacher's map.
        label: (B,) 0 or 1.
    """
    truth = label.view(-1, 1).to(label_logit.dtype)
    return F.binary_cross_entropy_with_logits(label_logit, truth)


def distillation_loss(student: Tensor, target: Tensor) -> Tensor:
    """Eq. (3) as a mean: squared difference between sigmoid and target over images and cells.

    Args:
        student: (B,1,h,w) map G of the student.
        target: (B,1,h,w) from `distillation_target`.
    """
    return (student.sigmoid() - target).square().mean()


def gate(change_prob: Tensor, label: Tensor) -> Tensor:
    """(B,1,H,W) maps, set to 0 for pairs whose label (B,) is no change."""
    return change_prob * label.view(-1, 1, 1, 1).to(change_prob.dtype)
