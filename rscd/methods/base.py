"""Training methods: the data they need, their losses, and how they predict."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from rscd.base.types import Batch, Provenance
from rscd.models.logits import change_logit
from rscd.models.networks import build_network, multiple_of

Terms = dict[str, Tensor]
"""Weighted loss terms by name."""


class Method(nn.Module, ABC):
    """A network, how to train it and how to predict with it.

    The trainer treats all methods alike: a method names its losses and the trainer sums them, and
    the data a method may use is declared in `needs`, so that a weakly supervised method never gets
    a mask.
    """

    needs: ClassVar[Mapping[str, frozenset[str]]]
    """Keys of each stream's batch, e.g. ``{"train": frozenset({"image", "mask"})}``."""

    network: nn.Module
    """The network that predicts and is exported: image (B,2,C,H,W) -> ``{"logits": (B,K,H,W),
    ...}``."""

    network_name: str
    """By which `rscd.models.networks.build_network` builds `network` again; see `build`."""
    network_args: Mapping[str, Any]
    """Likewise."""

    def build(self, network: str, network_args: Mapping[str, Any] | None) -> nn.Module:
        """Build the network that predicts, and record how files describe it."""
        self.network_name, self.network_args = network, dict(network_args or {})
        return build_network(self.network_name, self.network_args)

    def card(self) -> Provenance:
        """Metadata of `network` to store with its tensors, as plain data.

        A method whose network must be applied in a special way declares it here
        (``whole_pictures``, for example); the card is stored in every checkpoint and export. A
        method with a teacher that can be exported adds ``teacher``: its ``network_args``, and
        ``tensors``: prefixes of the network's tensors to those of the method's in their place.
        """
        return {
            "network": self.network_name,
            "network_args": dict(self.network_args),
            "multiple": multiple_of(self.network),
        }

    def begin(self, tensors: Mapping[str, Tensor]) -> None:
        """Initialise `network` with trained weights.

        A method that derives anything from its network, such as a teacher, derives it again here.

        Args:
            tensors: by the names of `network`.

        Raises:
            RuntimeError: for tensors of another network.
        """
        self.network.load_state_dict(dict(tensors))

    @abstractmethod
    def losses(self, batches: Mapping[str, Batch], step: int, total: int) -> Terms:
        """Weighted loss terms by name; their sum is minimised.

        Args:
            batches: one batch per stream of `needs`.
            step: optimiser step, from 0.
            total: optimiser steps of the whole run.
        """

    def loss_parts(self, batches: Mapping[str, Batch], step: int, total: int) -> Iterator[Terms]:
        """`losses` in parts that share no graph, each computed on demand.

        The trainer runs the backward pass of each part before it requests the next, so that the
        activations of one part are freed before those of another are computed. By default there is
        one part.
        """
        yield self.losses(batches, step, total)

    def predict(self, image: Tensor) -> Tensor:
        """(B,2,C,H,W) raw values -> (B,1,H,W) change probability in [0,1]."""
        return change_logit(self.network(image)["logits"]).sigmoid()

    def evaluate(self, batch: Batch) -> Tensor:
        """Probabilities used to select checkpoints; tests always measure `predict`.

        Args:
            batch: of a validation stream, with ``image`` and ``mask``.

        Returns:
            (B,1,H,W) in [0,1].
        """
        return self.predict(batch["image"])

    def beside(self, batch: Batch) -> dict[str, Tensor]:
        """Change probabilities (B,1,H,W) of other networks of the method, by name.

        They are measured on the validation split in addition to `evaluate`, but select no
        checkpoint.
        """
        return {}

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Groups for the optimiser; by default one group of all trainable parameters."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr": lr}]


class InParts(Method):
    """A method that overrides `loss_parts`, of which `losses` is the union."""

    def losses(self, batches: Mapping[str, Batch], step: int, total: int) -> Terms:
        """The terms of all parts."""
        parts = self.loss_parts(batches, step, total)
        return {name: value for part in parts for name, value in part.items()}
