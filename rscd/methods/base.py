"""What a training method is: what it reads, its losses, and how it predicts."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from rscd.base.types import Batch, Provenance
from rscd.models.logits import change_logit
from rscd.models.networks import build_network, multiple_of


class Method(nn.Module, ABC):
    """A network, how to train it and how to predict with it.

    The trainer never asks which method it holds: losses are named by the method and summed by the
    trainer, and what a method may see is declared in `needs`, so that a weakly supervised method
    is never handed a mask.
    """

    needs: ClassVar[Mapping[str, frozenset[str]]]
    """Keys of each stream's batch, e.g. ``{"train": frozenset({"image", "mask"})}``."""

    network: nn.Module
    """What predicts and is exported: image (B,2,C,H,W) -> ``{"logits": (B,K,H,W), ...}``."""

    network_name: str
    """By which `rscd.models.networks.build_network` builds `network` again; see `build`."""
    network_args: Mapping[str, Any]
    """Likewise."""

    def build(self, network: str, network_args: Mapping[str, Any] | None) -> nn.Module:
        """The network that predicts, noted under the words by which files describe it."""
        self.network_name, self.network_args = network, dict(network_args or {})
        return build_network(self.network_name, self.network_args)

    def card(self) -> Provenance:
        """What a file must say of `network` besides its tensors, as plain data.

        A method whose network is applied in a way of its own says so here, such as
        ``whole_pictures``; it reaches every checkpoint and export.
        """
        return {
            "network": self.network_name,
            "network_args": dict(self.network_args),
            "multiple": multiple_of(self.network),
        }

    def begin(self, tensors: Mapping[str, Tensor]) -> None:
        """Take trained weights of `network` to begin with.

        A method that made anything from its network, such as a teacher, makes it again here.

        Args:
            tensors: by the names of `network`.

        Raises:
            RuntimeError: for tensors of another network.
        """
        self.network.load_state_dict(dict(tensors))

    @abstractmethod
    def losses(self, batches: Mapping[str, Batch], step: int, total: int) -> dict[str, Tensor]:
        """Weighted loss terms by name; their sum is minimised.

        Args:
            batches: one batch per stream of `needs`.
            step: optimiser step, from 0.
            total: optimiser steps of the whole run.
        """

    def loss_parts(
        self, batches: Mapping[str, Batch], step: int, total: int
    ) -> Iterator[dict[str, Tensor]]:
        """`losses` in parts that share no graph, each made when it is asked for.

        The trainer goes back through each part before it asks for the next, so the activations of
        one part are gone when those of another are made. By default there is one part.
        """
        yield self.losses(batches, step, total)

    def predict(self, image: Tensor) -> Tensor:
        """(B,2,C,H,W) raw values -> (B,1,H,W) change probability in [0,1]."""
        return change_logit(self.network(image)["logits"]).sigmoid()

    def evaluate(self, batch: Batch) -> Tensor:
        """Probabilities by which checkpoints are chosen; tests always measure `predict`.

        Args:
            batch: of a validation stream, with ``image`` and ``mask``.

        Returns:
            (B,1,H,W) in [0,1].
        """
        return self.predict(batch["image"])

    def beside(self, batch: Batch) -> dict[str, Tensor]:
        """Change probabilities (B,1,H,W) of other networks of the method, by name.

        They are measured on the validation split beside what `evaluate` gives, and select nothing.
        """
        return {}

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Groups for the optimiser; the default is one group of all that learns."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr": lr}]
