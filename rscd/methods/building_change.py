"""Change of buildings learned from pairs that also have building labels for each date."""

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rscd.base.types import IGNORE, Batch
from rscd.methods.parts.draws import view_generator
from rscd.methods.supervised import Supervised
from rscd.models.logits import change_logit

BUILDING = 8
"""Value of buildings in the land cover of ``rscd.synthetic.towns.LAND_COVER``."""

REAL = ("image", "mask", "standing")
"""Keys of the pairs of the stream ``real``."""

OTHER_PLACES = 1
"""Separates its random numbers from those of the views."""


class BuildingChange(Supervised):
    """Supervised training on random views, with two further kinds of labels.

    * The network's ``buildings`` are compared with the buildings of each date.
    * Some pairs get their t2 from another location (single-temporal supervision, Zheng et al. 2021,
      arXiv 2108.07002, section 3.2): everything differs, but only buildings at exactly one date are
      change. Where buildings overlap the mask is 255, because they may or may not be the same.
    """

    needs: ClassVar[Mapping[str, frozenset[str]]] = {
        "train": frozenset({"image", "mask", "land_cover"})
    }

    def __init__(
        self,
        network: str = "semantic",
        *,
        buildings_weight: float = 0.5,
        other_place: float = 0.25,
        **supervised: Any,
    ) -> None:
        """Build the network.

        Args:
            network: one that returns ``buildings`` (B,2,h,w) in training.
            buildings_weight: of the cross-entropy of the buildings.
            other_place: share of pairs whose t2 comes from another pair of the batch.
            supervised: the other arguments of `Supervised`; ``swap_weight`` is not used.
        """
        super().__init__(network, **supervised)
        self.buildings_weight = buildings_weight
        self.other_place = other_place

    def losses(self, batches: Mapping[str, Batch], step: int, total: int) -> dict[str, Tensor]:
        """Each change loss by name, and ``buildings``."""
        image, mask, standing = self._pairs(batches)
        outputs = self.network(image)
        terms = self._mask_terms(change_logit(outputs["logits"]), mask)
        terms["buildings"] = self.buildings_weight * buildings_loss(outputs["buildings"], standing)
        return terms

    def _pairs(self, batches: Mapping[str, Batch]) -> tuple[Tensor, Tensor, Tensor]:
        """Image (B,2,C,H,W), mask (B,1,H,W) and building labels (B,2,H,W) of a step."""
        generator = view_generator(torch.initial_seed(), OTHER_PLACES)
        batch = with_other_places(self._view(batches["train"]), self.other_place, generator)
        return batch["image"], batch["mask"], buildings_of(batch)


class MixedBuildingChange(BuildingChange):
    """`BuildingChange` with some pairs in every batch that are used without random views.

    The stream ``real`` contains pairs of `rscd.synthetic.single_date.SingleDatePairs`, of the size
    of the views of the stream ``train``.
    """

    needs: ClassVar[Mapping[str, frozenset[str]]] = {
        **BuildingChange.needs,
        "real": frozenset({"image", "mask", "standing"}),
    }

    def __init__(
        self, network: str = "semantic-lite", encoder_rate: float = 1.0, **given: Any
    ) -> None:
        """Build the network.

        Args:
            network: one with an ``encoder`` that returns ``buildings`` (B,2,h,w) in training.
            encoder_rate: learning rate of the encoder relative to the rest.
            given: the other arguments of `BuildingChange`.
        """
        super().__init__(network, **given)
        self.encoder_rate = encoder_rate

    def _pairs(self, batches: Mapping[str, Batch]) -> tuple[Tensor, Tensor, Tensor]:
        """Views of the stream ``train``, joined by the pairs of ``real``."""
        real = cast(dict[str, Tensor], batches["real"])
        both = zip(super()._pairs(batches), (real[key] for key in REAL), strict=True)
        image, mask, standing = (torch.cat(parts) for parts in both)
        return image, mask, standing

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """The encoder, and all other parameters."""
        encoder = list(cast(nn.Module, self.network.encoder).parameters())
        known = set(encoder)
        rest = [p for p in self.parameters() if p not in known]
        return [{"params": encoder, "lr": lr * self.encoder_rate}, {"params": rest, "lr": lr}]


def buildings_of(batch: Batch) -> Tensor:
    """(B,2,H,W) int64: 1 where a date has a building, 255 where the land cover is unknown."""
    cover = cast(dict[str, Tensor], batch)["land_cover"]
    return torch.where(cover == IGNORE, IGNORE, (cover == BUILDING).long())


def buildings_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy of building logits against the fraction of building in each of their pixels.

    Args:
        logits: (B,2,h,w).
        truth: (B,2,H,W) 0, 1 or 255, H and W multiples of h and w.

    Returns:
        A scalar; 0 (with gradient) if nothing is known.
    """
    stride = truth.shape[-1] // logits.shape[-1]
    used = F.avg_pool2d((truth != IGNORE).float(), stride) == 1
    share = F.avg_pool2d((truth == 1).float(), stride)
    if not used.any():
        return logits.sum() * 0
    return F.binary_cross_entropy_with_logits(logits[used].float(), share[used])


def with_other_places(batch: Batch, share: float, generator: torch.Generator) -> Batch:
    """Give some pairs the t2 of the next pair in the batch; see `BuildingChange`.

    Args:
        batch: ``image``, ``mask`` and ``land_cover`` (B,2,H,W).
        share: of the pairs.
        generator: random generator.
    """
    count = len(batch["image"])
    chosen = (torch.rand(count, generator=generator) < share).to(batch["image"].device)
    if not chosen.any():
        return batch
    cover = cast(dict[str, Tensor], batch)["land_cover"]
    mixed = {"image": batch["image"].clone(), "land_cover": cover.clone()}
    for value in mixed.values():
        value[chosen, 1] = value.roll(-1, 0)[chosen, 1]
    stands = buildings_of(cast(Batch, mixed))
    unknown = (stands == IGNORE).any(1, keepdim=True) | (stands == 1).all(1, keepdim=True)
    mask = torch.where(unknown, IGNORE, (stands == 1).any(1, keepdim=True).long())
    mixed["mask"] = torch.where(chosen.view(-1, 1, 1, 1), mask, batch["mask"])
    return cast(Batch, dict(batch) | mixed)
