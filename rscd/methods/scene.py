"""The scene branch: flow and change learned together, then distilled on unlabelled pairs.

Stage one, ``scene-pretrain``, is SimSaC on pairs with flow and mask (CVPR 2022). Stage two,
``scene``, is FMA (Lee and Kim, WACV 2024): one encoder and two decoders, both still trained on the
labelled pairs; on unlabelled target pairs the teacher also learns that regions aligned by its flow
must look alike where nothing changed, and the student learns the teacher's maps on the same pairs
after a change of light. The student predicts.

Published: AdamW with weight decay 4e-4, 520 x 520; stage one 25 epochs, batch 24, lr 1e-4, halved
at epochs 12, 20, 23; stage two 15 epochs, batch 8 + 8, lr 2e-5, halved at epochs 3, 6, 9, one epoch
being one pass over the target pairs.
"""

import copy
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor

from rscd.base.arguments import made
from rscd.base.errors import UsageError
from rscd.base.types import Batch, Provenance
from rscd.methods.base import InParts, Method, Terms
from rscd.methods.parts.alikeness import Order, dissimilarity, in_view, similarity_levels
from rscd.methods.parts.draws import view_generator
from rscd.methods.parts.edges import canny_edges
from rscd.methods.parts.photometric import STREET, Photometric, ValueRange, photometric_view
from rscd.methods.parts.scene_losses import (
    SQUEEZE,
    Axes,
    Change,
    Reduction,
    change_loss,
    check_choice,
    distill_change_targets,
    distill_flow_targets,
    flow_loss,
    flow_targets,
    grids_of,
    mask_targets,
    unsupervised_terms,
    valid_targets,
)
from rscd.models.logits import change_logit
from rscd.models.scene import Levels, SceneDecoder, SceneNetwork

log = logging.getLogger(__name__)

TeacherGradient = Literal["none", "sup", "all"]
"""Which of the teacher's losses reach the encoder: none, the supervised ones, or all."""

WATCH_STEPS = 50
"""Steps between checks of the mean change probability, each of which synchronises the device."""
COLLAPSED = (1e-3, 0.9)
"""Mean change probabilities below and above which training has collapsed."""
TRAIN, AUGMENTED = range(2)
"""Random streams."""


class ScenePretrain(Method):
    """Supervised flow and change: ``L_sup = l_V + l_M``."""

    network: SceneNetwork

    def __init__(
        self,
        network: str = "simsac",
        network_args: Mapping[str, Any] | None = None,
        freeze_encoder: bool = False,
        epe_reduction: Reduction = "sum_per_batch",
        mask_flow_loss: bool = False,
        use_flow: bool = False,
        photometric: Mapping[str, Any] | None = None,
        value_range: ValueRange = (0.0, 255.0),
    ) -> None:
        """Build the network.

        Args:
            network: ``simsac`` or ``scene-compact``.
            network_args: of its builder; ``weights`` may name a checkpoint to start from.
            freeze_encoder: do not train the encoder; published with ImageNet weights.
            epe_reduction: of the end-point error; the default is that of GLU-Net, on which SimSaC
                is built: SimSaC's own losses are not published.
            mask_flow_loss: count flow only where the match lies in the frame of t1; needs the key
                ``valid``.
            use_flow: the key ``use_flow`` of each pair states whether its flow is known.
            photometric: fields of `rscd.methods.parts.photometric.Photometric`; default `STREET`,
                ``{}`` for none.
            value_range: (black, white) of the raw values.

        Raises:
            UsageError: for a network without flow, or unknown names.
        """
        super().__init__()
        check_choice(epe_reduction, Reduction, "epe_reduction")
        self.epe_reduction: Reduction = epe_reduction
        self.mask_flow_loss = mask_flow_loss
        self.use_flow = use_flow
        light = photometric
        self.photometric = STREET if light is None else made(Photometric, light, "photometric view")
        self.value_range = value_range
        built = self.build(network, network_args)
        if not isinstance(built, SceneNetwork):
            raise UsageError(
                f"expected a network with flow (simsac, scene-compact), found {network}"
            )
        self.network = built
        self.freeze_encoder = freeze_encoder
        if freeze_encoder:
            self.network.encoder.requires_grad_(False)

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:  # type: ignore[override] # by options
        """Keys of labelled pairs with flow."""
        more = {"valid"} if self.mask_flow_loss else set()
        more |= {"use_flow"} if self.use_flow else set()
        return {"train": frozenset({"image", "mask", "flow"} | more)}

    def train(self, mode: bool = True) -> "ScenePretrain":
        """Switch modes; a frozen encoder keeps its statistics."""
        super().train(mode)
        if self.freeze_encoder:
            self.network.encoder.eval()
        return self

    def card(self) -> Provenance:
        """See `Method.card`; pictures are predicted whole."""
        return super().card() | {"whole_pictures": True}

    def predict_flow(self, image: Tensor) -> Tensor:
        """(B,2,C,H,W) raw values -> (B,2,H,W) flow in pixels, on the t2 grid, pointing to t1."""
        return cast(Tensor, self.network(image)["flow"])

    def losses(self, batches: Mapping[str, Batch], step: int, total: int) -> Terms:
        """``flow`` and ``change``."""
        batch = self._view(batches["train"], TRAIN)
        levels = self.network.decoder(*self.network.encode(batch["image"]))
        return self._supervised(levels, batch)

    def _view(self, batch: Batch, stream: int) -> Batch:
        generator = view_generator(torch.initial_seed(), stream)
        return photometric_view(batch, self.photometric, generator, value_range=self.value_range)

    def _supervised(self, levels: Levels, batch: Batch, prefix: str = "") -> Terms:
        """``l_V`` and ``l_M`` of one decoder."""
        grids, low_hw = grids_of(levels.flow), self.network.low_hw
        valid = valid_targets(batch["valid"], low_hw, grids) if self.mask_flow_loss else None
        known = cast("Tensor | None", batch.get("use_flow"))
        return {
            f"{prefix}flow": flow_loss(
                levels.flow,
                flow_targets(batch["flow"], low_hw, grids),
                self.epe_reduction,
                valid=valid,
                use_flow=known,
            ),
            f"{prefix}change": change_loss(
                levels.change, mask_targets(batch["mask"], low_hw, grids)
            ),
        }


class Scene(InParts, ScenePretrain):
    """FMA: ``L_sup`` of both decoders, ``L_unsup`` of the teacher, ``L_dist`` of the student."""

    def __init__(
        self,
        network: str = "simsac",
        *,
        lambda1: float = 0.2,
        lambda2: float = 1.0,
        unsup_weight: float = 1.0,
        distill_weight: float = 1.0,
        teacher_grad_to_encoder: TeacherGradient = "none",
        separate_decoders: bool = True,
        distill_change: Change = "hard",
        sim_order: Order = "cosine",
        sm_axes: Axes = "sum",
        sm_squeeze: float = SQUEEZE,
        mask_invalid: bool = True,
        canny: tuple[float, float] = (100.0, 200.0),
        epe_reduction: Reduction = "mean",
        **pretrain: Any,
    ) -> None:
        """Build the network and the teacher, a copy of its decoder.

        Args:
            network: see `ScenePretrain`.
            lambda1: weight of the change regularisation; published 0.2 where changes are rare
                (indoor), 0.01 where they are large (street).
            lambda2: weight of the edge-aware smoothness.
            unsup_weight: of ``L_unsup`` as a whole.
            distill_weight: of ``L_dist``.
            teacher_grad_to_encoder: see `TeacherGradient`.
            separate_decoders: False uses one decoder as teacher and student (Table 4 of FMA); its
                supervised loss then counts once.
            distill_change: see `rscd.methods.parts.scene_losses.Change`.
            sim_order: see `rscd.methods.parts.alikeness.Order`.
            sm_axes: see `rscd.methods.parts.scene_losses.Axes`.
            sm_squeeze: of `rscd.methods.parts.scene_losses.edge_smoothness`, from 0, the paper's
                formula as printed, to below one half.
            mask_invalid: exclude pixels whose match lies outside t1 from the unsupervised loss.
            canny: thresholds of the edges of t2; not published.
            epe_reduction: see `ScenePretrain`, also of the distilled flow; the default is our
                choice, the paper does not state one.
            pretrain: the other arguments of `ScenePretrain`: ``weights`` of ``network_args`` names
                the checkpoint of the first stage, ``photometric`` also applies to the student's
                target pairs.

        Raises:
            UsageError: for unknown names.
        """
        super().__init__(network, epe_reduction=epe_reduction, **pretrain)
        if not 0 <= sm_squeeze < 0.5:
            raise UsageError(f"expected sm_squeeze from 0 to below 0.5, found {sm_squeeze}")
        for value, kind, name in (
            (teacher_grad_to_encoder, TeacherGradient, "teacher_grad_to_encoder"),
            (distill_change, Change, "distill_change"),
            (sim_order, Order, "sim_order"),
            (sm_axes, Axes, "sm_axes"),
        ):
            check_choice(value, kind, name)
        self.unsup_weights = {
            "feature": unsup_weight,
            "regular": unsup_weight * lambda1,
            "smooth": unsup_weight * lambda2,
        }
        self.distill_weight = distill_weight
        self.teacher_grad_to_encoder = teacher_grad_to_encoder
        self.distill_change: Change = distill_change
        self.sim_order: Order = sim_order
        self.sm_axes: Axes = sm_axes
        self.sm_squeeze = sm_squeeze
        self.mask_invalid = mask_invalid
        self.canny = canny
        self.teacher = copy.deepcopy(self.network.decoder) if separate_decoders else None
        self.watch = ChangeWatch()

    def begin(self, tensors: Mapping[str, Tensor]) -> None:
        """Initialise network and teacher with the weights; see `Method.begin`."""
        super().begin(tensors)
        if self.teacher is not None:
            self.teacher.load_state_dict(self.network.decoder.state_dict())

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:  # type: ignore[override] # by options
        """Keys of each stream; no mask for target pairs."""
        return {**super().needs, "target": frozenset({"image"})}

    @property
    def teacher_decoder(self) -> SceneDecoder:
        """The decoder that produces the targets."""
        return self.network.decoder if self.teacher is None else self.teacher

    def card(self) -> Provenance:
        """See `Method.card`; the teacher is the same network with another decoder."""
        if self.teacher is None:
            return super().card()
        own = {"network_args": dict(self.network_args), "tensors": {"decoder.": "teacher."}}
        return super().card() | {"teacher": own}

    def teacher_network(self) -> SceneNetwork:
        """Encoder and teacher decoder as a network; they share their tensors with this method."""
        return SceneNetwork(
            normalize=self.network.normalize,
            encoder=self.network.encoder,
            decoder=self.teacher_decoder,
            n_bands=self.network.n_bands,
        )

    def beside(self, batch: Batch) -> dict[str, Tensor]:
        """The teacher, if it is not the student itself."""
        if self.teacher is None:
            return {}
        logits = self.teacher_network()(batch["image"])["logits"]
        return {"teacher": change_logit(logits).sigmoid()}

    def loss_parts(self, batches: Mapping[str, Batch], step: int, total: int) -> Iterator[Terms]:
        """Both decoders on labelled pairs, then the teacher and the student on target pairs."""
        yield self._labelled(batches["train"])
        unsupervised = any(self.unsup_weights.values())
        if not unsupervised and not self.distill_weight:
            return
        target = batches["target"]
        with torch.set_grad_enabled(unsupervised):
            levels, terms = self._unlabelled(target)
        if unsupervised:
            yield terms
        if self.distill_weight:
            yield self._distilled(levels.detach(), target)

    def _labelled(self, batch: Batch) -> Terms:
        """``L_sup`` of student and teacher."""
        batch = self._view(batch, TRAIN)
        t1, t2 = self.network.encode(batch["image"])
        terms = self._supervised(self.network.decoder(t1, t2), batch, "student_")
        if self.teacher is None:
            return terms
        if self.teacher_grad_to_encoder == "none":
            t1, t2 = t1.detach(), t2.detach()
        return terms | self._supervised(self.teacher(t1, t2), batch, "teacher_")

    def _unlabelled(self, batch: Batch) -> tuple[Levels, Terms]:
        """The teacher's outputs for target pairs, and ``L_unsup``."""
        through = self.teacher_grad_to_encoder == "all" and torch.is_grad_enabled()
        with torch.set_grad_enabled(through):
            t1, t2 = self.network.encode(batch["image"], all_strides=True)
        levels = self.teacher_decoder(t1, t2)
        flow, logit = levels.flow[-1], change_logit(levels.change[-1])
        self.watch.see(logit)
        if not any(self.unsup_weights.values()):
            return levels, {}
        similar = similarity_levels(t1.high, t2.high, flow, t2.shape_hw, self.sim_order)
        valid = in_view(flow, t2.shape_hw)
        if not self.mask_invalid:
            valid = torch.ones_like(valid)
        edge = (
            canny_edges(batch["image"][:, 1], self.value_range, self.canny)
            if self.unsup_weights["smooth"]
            else None
        )
        dissimilar = dissimilarity(similar, valid)
        return levels, unsupervised_terms(
            dissimilar,
            logit,
            valid,
            edge,
            self.unsup_weights,
            squeeze=self.sm_squeeze,
            axes=self.sm_axes,
        )

    def _distilled(self, teacher: Levels, batch: Batch) -> Terms:
        """``L_dist``: the student on the same pairs after photometric augmentation."""
        view = self._view(batch, AUGMENTED)
        levels = self.network.decoder(*self.network.encode(view["image"]))
        grids = grids_of(levels.flow)
        change = distill_change_targets(teacher, grids, self.distill_change)
        flow = flow_loss(levels.flow, distill_flow_targets(teacher, grids), self.epe_reduction)
        return {
            "distill_flow": self.distill_weight * flow,
            "distill_change": self.distill_weight * change_loss(levels.change, change),
        }


class ChangeWatch:
    """Monitors the mean change probability of target pairs, and explains a collapse once."""

    def __init__(self) -> None:
        self.share = 0.0
        """Mean change probability over the last steps checked."""
        self._means: list[Tensor] = []
        self._warned = False

    def see(self, logit: Tensor) -> None:
        """Check the change logits (B,1,h,w) of one step."""
        self._means.append(logit.detach().float().sigmoid().mean())
        if len(self._means) < WATCH_STEPS:
            return
        self.share = float(torch.stack(self._means).mean())
        self._means.clear()
        low, high = COLLAPSED
        if not self._warned and not low <= self.share <= high:
            self._warned = True
            found, cure = ("everything", "raise") if self.share > high else ("nothing", "lower")
            log.warning(
                "the teacher predicts %s change on target pairs (mean probability %.2g over %d "
                "steps): the run has collapsed; %s lambda1, lower the lr, or pretrain longer",
                found,
                self.share,
                WATCH_STEPS,
                cure,
            )
