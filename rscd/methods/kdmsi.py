"""KD-MSI's first stage: change maps from yes/no labels (arXiv 2403.05796; methods section 3).

A teacher learns to classify pairs; its class activation map, gated by the label, is the target that
a separate student learns to predict as a probability. The student predicts and is exported. For
later stages see `rscd.methods.parts.multiscale`, and `rscd.methods.supervised` for training on the
pseudo masks.

Published: batch 8, 20 epochs, lr 0.001, schedule ``poly``, and optimiser ``sgd`` with ``nesterov``,
``weight_decay`` 1e-4 and ``momentum`` 1e-4, which is what the authors' code effectively uses (an
argument error: section 3.5). With momentum 0.9 divide the rate by 10.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from rscd.base.errors import ModelError, UsageError
from rscd.base.types import IGNORE, Batch, Provenance
from rscd.methods.base import InParts, Method, Terms
from rscd.methods.parts.cam_losses import (
    activation_map,
    classification_loss,
    distillation_loss,
    distillation_target,
    gate,
)
from rscd.methods.parts.groups import transfer_groups
from rscd.methods.supervised import Supervised
from rscd.models.cam import COMBINATIONS, CamClassifier
from rscd.models.networks import build_network
from rscd.models.resize import resize, size_of

log = logging.getLogger(__name__)

NETWORK = "cam"


class WeakMethod(Method):
    """Base of both methods that learn from image-level labels."""

    needs: ClassVar[Mapping[str, frozenset[str]]] = {"train": frozenset({"image", "label"})}
    network: CamClassifier

    def __init__(
        self,
        network: str | None = None,
        network_args: Mapping[str, Any] | None = None,
        gate_validation: bool = True,
    ) -> None:
        """Build the network that predicts.

        Args:
            network: ``cam``.
            network_args: of `rscd.models.cam.cam_classifier`.
            gate_validation: see `evaluate`.

        Raises:
            UsageError: if network or combination is not given. Checkpoints are described by them,
                and ``minus`` and ``abs`` have equal tensors.
        """
        super().__init__()
        args = dict(network_args or {})
        if network != NETWORK or "combination" not in args:
            raise UsageError(
                f"expected method_args with network: {NETWORK} and network_args with combination: "
                f"{', '.join(COMBINATIONS)}, found network: {network} and {args}"
            )
        self.network = cast(CamClassifier, self.build(network, args))
        self.gate_validation = gate_validation

    def evaluate(self, batch: Batch) -> Tensor:
        """Probabilities for choosing checkpoints: as in the paper, gated by image-level labels.

        The label of a validation pair is whether its mask holds change.

        Args:
            batch: ``image`` and ``mask``.

        Returns:
            (B,1,H,W) in [0,1].
        """
        prob = self.predict(batch["image"])
        if not self.gate_validation:
            return prob
        mask = batch["mask"]
        return gate(prob, ((mask != 0) & (mask != IGNORE)).flatten(1).any(1))

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """`transfer_groups` of each network."""
        networks = [child for child in self.children() if isinstance(child, CamClassifier)]
        return [group for net in networks for group in _groups(net, "model.", lr)]


class CamBaseline(WeakMethod):
    """The classifier alone, whose activation map is the paper's baseline."""

    def losses(self, batches: Mapping[str, Batch], step: int, total: int) -> Terms:
        """``cls``, Eq. (2)."""
        batch = batches["train"]
        logit = self.network(batch["image"])["label_logit"]
        return {"cls": classification_loss(logit, batch["label"])}

    def predict(self, image: Tensor) -> Tensor:
        """The activation map of Eq. (1), resized bilinearly to the image."""
        return resize(activation_map(self.network(image)["cam"]), size_of(image))


class KdMsi(InParts, WeakMethod):
    """Teacher and student; see the module docstring."""

    def __init__(
        self,
        network: str | None = None,
        network_args: Mapping[str, Any] | None = None,
        teacher: str = "minus",
        distillation_weight: float = 10.0,
        gate_validation: bool = True,
    ) -> None:
        """Build both networks.

        Args:
            network: ``cam``.
            network_args: of `rscd.models.cam.cam_classifier`, for both; each starts with the same
                pretrained weights and its own classifier. Its ``combination`` is the
                student's; published with ``cat``.
            teacher: the combination of the teacher; published ``minus`` or ``abs``, by dataset.
            distillation_weight: lambda of Eq. (4).
            gate_validation: see `WeakMethod.evaluate`.
        """
        super().__init__(network, network_args, gate_validation)
        others = dict(network_args or {}) | {"combination": teacher}
        self.teacher = cast(CamClassifier, build_network(NETWORK, others))
        self.distillation_weight = distillation_weight

    def begin(self, tensors: Mapping[str, Tensor]) -> None:
        """Give both networks the weights; see `Method.begin`.

        The classifier belongs to a combination: a teacher of another one keeps its newly
        initialised one.
        """
        super().begin(tensors)
        given = dict(tensors)
        if self.teacher.combination != self.network.combination:
            given |= {k: v for k, v in self.teacher.state_dict().items() if "classifier" in k}
            log.info(
                "only the encoder of the teacher is initialised: its combination is %s, the "
                "weights have %s",
                self.teacher.combination,
                self.network.combination,
            )
        self.teacher.load_state_dict(given)

    def card(self) -> Provenance:
        """See `Method.card`; the teacher is another network of the same type."""
        args = dict(self.network_args) | {"combination": self.teacher.combination}
        return super().card() | {"teacher": {"network_args": args, "tensors": {"": "teacher."}}}

    def loss_parts(self, batches: Mapping[str, Batch], step: int, total: int) -> Iterator[Terms]:
        """``cls``, then ``kd``: the target is detached, so only one graph is kept at a time."""
        batch = batches["train"]
        found = self.teacher(batch["image"])
        target = distillation_target(found["cam"], batch["label"])
        loss = classification_loss(found.pop("label_logit"), batch["label"])
        found.clear()
        yield {"cls": loss}
        del loss
        cam = self.network(batch["image"])["cam"]
        yield {"kd": self.distillation_weight * distillation_loss(cam, target)}

    def get_extra_state(self) -> dict[str, str]:
        """The combinations: ``minus`` and ``abs`` have equal tensors and differ only by name."""
        return {"teacher": self.teacher.combination, "student": self.network.combination}

    def set_extra_state(self, state: Any) -> None:
        """Refuse weights of other combinations.

        Raises:
            ModelError: naming both.
        """
        own = self.get_extra_state()
        if state != own:
            raise ModelError(
                f"expected a checkpoint with combinations {own}, found {state}; set "
                "method_args.teacher and network_args.combination to those"
            )


class Detector(Supervised):
    """Supervised training with the rates of the paper's third stage (section 3.5).

    Published for network ``siamese-deeplab``: batch 16, 50 epochs, lr 0.007, schedule ``poly``,
    optimiser ``sgd`` with ``nesterov``, ``weight_decay`` 4e-5 and ``momentum`` 4e-5.
    """

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """`transfer_groups`: a low rate for the encoder, ten times that for everything else."""
        return _groups(self.network, "encoder.", lr)


def _groups(network: nn.Module, pretrained: str, lr: float) -> list[dict[str, Any]]:
    """Non-empty `transfer_groups` of a network whose pretrained tensors have a prefix."""
    named = network.named_parameters()
    groups = transfer_groups(named, lambda name: name.startswith(pretrained), lr)
    return [group for group in groups if group["params"]]
