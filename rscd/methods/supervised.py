"""Supervised training on masks."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from rscd.errors import UsageError
from rscd.methods.base import Method
from rscd.methods.losses import LOSSES, mask_loss
from rscd.models.logits import change_logit
from rscd.models.networks import build_network
from rscd.types import Batch


class Supervised(Method):
    """Any network, any sum of losses; the baseline of every method, and the last stage of some."""

    needs: ClassVar[Mapping[str, frozenset[str]]] = {"train": frozenset({"image", "mask"})}

    def __init__(
        self,
        network: str = "siamese-unet",
        network_args: Mapping[str, Any] | None = None,
        losses: Mapping[str, float] | None = None,
        loss_args: Mapping[str, Mapping[str, Any]] | None = None,
        swap_weight: float = 0.0,
    ) -> None:
        """Build the network.

        Args:
            network: name in `rscd.models.networks.NETWORKS`.
            network_args: of its builder.
            losses: weight by name of `LOSSES`; default ``{"bce": 1}``.
            loss_args: further arguments by name of the loss.
            swap_weight: weight of the mean squared difference between the probabilities of the
                pair and of the pair with dates exchanged: what changed does not depend on order.

        Raises:
            UsageError: for unknown names.
        """
        super().__init__()
        self.weights = dict(losses or {"bce": 1.0})
        unknown = set(self.weights) - set(LOSSES)
        if unknown:
            raise UsageError(
                f"expected losses among {', '.join(LOSSES)}, found {', '.join(sorted(unknown))}"
            )
        self.loss_args = dict(loss_args or {})
        self.swap_weight = swap_weight
        self.network = build_network(network, dict(network_args or {}))

    def losses(self, batches: Mapping[str, Batch], step: int, total: int) -> dict[str, Tensor]:
        """Each loss by its name, and ``swap``."""
        batch = batches["train"]
        logit = change_logit(self.network(batch["image"])["logits"])
        terms = {
            name: weight * mask_loss(logit, batch["mask"], name, self.loss_args.get(name))
            for name, weight in self.weights.items()
        }
        if self.swap_weight:
            swapped = change_logit(self.network(batch["image"].flip(1))["logits"])
            gap = (logit.sigmoid() - swapped.sigmoid()) ** 2
            terms["swap"] = self.swap_weight * gap.mean()
        return terms
