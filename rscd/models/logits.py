"""What is made of a network's outputs: one change logit per pixel, in numbers exact enough."""

import torch
from torch import Tensor


def exact(x: Tensor) -> Tensor:
    """The tensor in float32 at least: sums and logarithms of 16 bit lose what they are after."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def change_logit(logits: Tensor) -> Tensor:
    """(B,K,H,W) -> (B,1,H,W): K = 1 as it is; K = 2 (no change, change) as their difference.

    The sigmoid of the difference is the softmax of the pair, and binary cross-entropy on it is
    cross-entropy on the pair.
    """
    if logits.shape[1] == 1:
        return logits
    return logits[:, 1:2] - logits[:, 0:1]
