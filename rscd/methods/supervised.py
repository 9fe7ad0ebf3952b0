"""Supervised training on masks."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from rscd.base.arguments import check_names, fitted, made
from rscd.base.types import Batch
from rscd.methods.base import Method
from rscd.methods.parts.draws import view_generator
from rscd.methods.parts.losses import LOSSES, mask_loss
from rscd.methods.parts.photometric import Photometric, ValueRange, photometric_view
from rscd.methods.parts.views import Weak, weak_view
from rscd.models.logits import change_logit


class Supervised(Method):
    """Any network with any sum of losses; the baseline of all methods and last stage of some."""

    needs: ClassVar[Mapping[str, frozenset[str]]] = {"train": frozenset({"image", "mask"})}

    def __init__(
        self,
        network: str = "siamese-unet",
        network_args: Mapping[str, Any] | None = None,
        losses: Mapping[str, float] | None = None,
        loss_args: Mapping[str, Mapping[str, Any]] | None = None,
        swap_weight: float = 0.0,
        weak: Mapping[str, Any] | None = None,
        photometric: Mapping[str, Any] | None = None,
        value_range: ValueRange = (0.0, 255.0),
    ) -> None:
        """Build the network.

        Args:
            network: name in `rscd.models.networks.NETWORKS`.
            network_args: of its builder.
            losses: weights by name in `LOSSES`; default ``{"bce": 1}``.
            loss_args: further arguments by loss name.
            swap_weight: weight of the mean squared difference between the probabilities of the
                pair and of the pair with dates swapped: change does not depend on their order.
            weak: fields of `rscd.methods.parts.views.Weak`: scale, crop, flips and turns of both
                dates and the mask alike; None trains on the pairs unchanged.
            photometric: fields of `rscd.methods.parts.photometric.Photometric`: light and sensor of
                either date; None leaves the values unchanged.
            value_range: (black, white) of the raw values, for ``photometric``.

        Raises:
            UsageError: for unknown names.
        """
        super().__init__()
        self.weights = dict(losses or {"bce": 1.0})
        check_names(self.weights, LOSSES, "losses")
        self.loss_args = {
            name: fitted(LOSSES[name], args, f"loss_args of {name}", without=("logit", "truth"))
            for name, args in (loss_args or {}).items()
            if name in self.weights
        }
        self.swap_weight = swap_weight
        self.weak = None if weak is None else made(Weak, weak, "weak view")
        light = photometric
        self.photometric = None if light is None else made(Photometric, light, "photometric view")
        self.value_range = value_range
        self.network = self.build(network, network_args)

    def losses(self, batches: Mapping[str, Batch], step: int, total: int) -> dict[str, Tensor]:
        """Each loss by name, and ``swap``."""
        batch = self._view(batches["train"])
        logit = change_logit(self.network(batch["image"])["logits"])
        terms = self._mask_terms(logit, batch["mask"])
        if self.swap_weight:
            swapped = change_logit(self.network(batch["image"].flip(1))["logits"])
            gap = (logit.sigmoid() - swapped.sigmoid()) ** 2
            terms["swap"] = self.swap_weight * gap.mean()
        return terms

    def _mask_terms(self, logit: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {
            name: weight * mask_loss(logit, mask, name, self.loss_args.get(name))
            for name, weight in self.weights.items()
        }

    def _view(self, batch: Batch) -> Batch:
        """The batch to train on; random numbers depend only on the seed and the step."""
        generator = view_generator(torch.initial_seed())
        if self.weak is not None:
            batch = weak_view(batch, self.weak, generator)
        if self.photometric is not None:
            batch = photometric_view(
                batch, self.photometric, generator, value_range=self.value_range
            )
        return batch
