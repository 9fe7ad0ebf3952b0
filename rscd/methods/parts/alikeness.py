"""How little the dates of street pairs look alike where flow lays one on the other.

Apart from the losses that use it: prediction shows it too (``--dissimilarity``).

Source: Lee and Kim (WACV 2024), see `rscd.methods.parts.scene_losses`.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rscd.base.types import ShapeHW
from rscd.models.flow import convert_unit, inside, warp
from rscd.models.resize import resize, size_of
from rscd.models.scene import SceneNetwork, pad_to_multiple

Order = Literal["cosine", "features"]
"""What is resized to the working grid: cosine maps, or the features before comparison."""


def similarity_levels(
    t1: Sequence[Tensor],
    t2: Sequence[Tensor],
    flow: Tensor,
    image_hw: ShapeHW,
    order: Order = "cosine",
) -> Tensor:
    """Similarity of the features of t2 and warped t1 at each encoder level (FMA section 3.2).

    Args:
        t1: feature maps (B,C,h,w); get no gradient.
        t2: likewise, of the same shapes.
        flow: (B,2,h,w) pixels of the image; its grid is the working grid.
        image_hw: size of the image.
        order: see `Order`.

    Returns:
        (B,L,h,w) in [0,1]: (1 + cosine) / 2.
    """
    grid, levels = size_of(flow), []
    for first, second in zip(t1, t2, strict=True):
        a, b = first.detach(), second.detach()
        if order == "features":
            a, b = resize(a, grid), resize(b, grid)
        own = size_of(b)
        warped = warp(a, convert_unit(resize(flow, own), image_hw, own))
        cosine = F.cosine_similarity(warped, b, dim=1, eps=1e-8).unsqueeze(1)
        levels.append((1 + resize(cosine, grid)) / 2)
    return torch.cat(levels, dim=1)


def dissimilarity(similarity: Tensor, valid: Tensor) -> Tensor:
    """One minus the product of all levels; 0 outside the frame of t1.

    Args:
        similarity: (B,L,h,w) of `similarity_levels`.
        valid: (B,1,h,w) bool.
    """
    return torch.where(valid, 1 - similarity.prod(1, keepdim=True), 0.0)


def dissimilarity_map(network: SceneNetwork, image: Tensor) -> Tensor:
    """How little t2 and aligned t1 look alike to the network's own encoder (FMA Fig. 2).

    Args:
        network: whose flow aligns t1.
        image: (B,2,C,H,W) raw values of any size.

    Returns:
        (B,1,H,W) in [0,1]: `dissimilarity`, resized bilinearly; 0 where the match lies outside t1.
    """
    padded = pad_to_multiple(image)
    t1, t2 = network.encode(padded, all_strides=True)
    flow = network.decoder(t1, t2).flow[-1]
    similar = similarity_levels(t1.high, t2.high, flow, t2.shape_hw)
    found = resize(dissimilarity(similar, in_view(flow, t2.shape_hw)), size_of(padded))
    height, width = size_of(image)
    return found[..., :height, :width]


def in_view(flow: Tensor, image_hw: ShapeHW) -> Tensor:
    """Whether the match lies in the frame of t1: (B,1,h,w) bool; flow in pixels of the image."""
    return inside(convert_unit(flow, image_hw, size_of(flow)))
