"""From network outputs to one change logit per pixel, in sufficient precision."""

import torch
from torch import Tensor


def exact(x: Tensor) -> Tensor:
    """The tensor in float32 at least: sums and logarithms lose too much precision in 16 bits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def change_logit(logits: Tensor) -> Tensor:
    """(B,K,H,W) -> (B,1,H,W): unchanged if K = 1; the difference if K = 2 (no change, change).

    The sigmoid of the difference is the softmax of the pair, and binary cross-entropy on it is
    cross-entropy on the pair.
    """
    if logits.shape[1] == 1:
        return logits
    return logits[:, 1:2] - logits[:, 0:1]
