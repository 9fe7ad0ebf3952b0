"""From the logits of a network to one change logit per pixel."""

from torch import Tensor


def change_logit(logits: Tensor) -> Tensor:
    """(B,K,H,W) -> (B,1,H,W): K = 1 as it is; K = 2 (no change, change) as their difference.

    The sigmoid of the difference is the softmax of the pair, and binary cross-entropy on it is
    cross-entropy on the pair.
    """
    if logits.shape[1] == 1:
        return logits
    return logits[:, 1:2] - logits[:, 0:1]
