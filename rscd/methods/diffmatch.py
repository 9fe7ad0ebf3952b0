"""DiffMatch: few masks, many unlabelled pairs, guided by vision-language labels (arXiv 2405.04788).

One network, no teacher: its confident predictions for the weak view of an unlabelled pair are the
targets of the strong view (FixMatch). Labels made beforehand by a vision-language model guide a
second classifier and a segmentation head per date. The method holds both besides the network:
neither predicts nor is exported.

The baselines are variants of the same code, see `rscd.methods.parts.diffmatch_recipe`. Published:
batch 8 + 8, 80 epochs, ``sgd`` with momentum 0.9 and weight decay 1e-4, lr 0.02 for the encoder and
ten times that elsewhere, schedule ``poly-lagged``.
"""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rscd.base.arguments import made
from rscd.base.errors import UsageError
from rscd.base.types import Batch
from rscd.methods.base import InParts, Terms
from rscd.methods.parts.diffmatch_losses import (
    consistency,
    guidance_terms,
    guidance_weight,
    labeled_terms,
    pseudo_labels,
    strong_terms,
)
from rscd.methods.parts.diffmatch_recipe import recipe_of
from rscd.methods.parts.draws import view_generator
from rscd.methods.parts.photometric import STRONG, Photometric, ValueRange, photometric_view
from rscd.methods.parts.views import Weak, cutmix, cutmix_boxes, rolled, weak_view
from rscd.models.fusion import fuse
from rscd.models.mlp_head import LightHead, feature_distance, resize_distance
from rscd.models.resize import size_of
from rscd.models.siamese import Siamese, training_heads, training_outputs

NETWORK = "siamese-mlp"
UNGUIDED = "siamese-deeplab"
"""Also possible where nothing is learned from a segmenter: supervised-only and UniMatch with
DeepLabV3+, the second network of Table 2."""

LABELED, WEAK_VIEW, PARTNER, STRONG_VIEW, PARTNER_STRONG, BOX = range(6)
"""Random streams: variants draw the same numbers for whatever they have in common."""

View = dict[str, Tensor]


class DiffMatch(InParts):
    """All variants of DiffMatch's training; see the module docstring."""

    network: Siamese
    vl_classifier: nn.Conv2d
    segmentation: LightHead
    """Both only with `NETWORK`; guidance needs them."""

    def __init__(
        self,
        network: str | None = None,
        network_args: Mapping[str, Any] | None = None,
        variant: str = "diffmatch",
        recipe: Mapping[str, Any] | None = None,
        weak: Mapping[str, Any] | None = None,
        strong: Mapping[str, Any] | None = None,
        value_range: ValueRange = (0.0, 255.0),
        head_lr_mult: float = 10.0,
        use_valid: bool = False,
        concat_dates: bool = False,
    ) -> None:
        """Build the network.

        Args:
            network: ``siamese-mlp``, recorded in checkpoints; for variants without guidance also
                ``siamese-deeplab``.
            network_args: of its builder in `rscd.models.siamese`.
            variant: one of `rscd.methods.parts.diffmatch_recipe.VARIANTS`.
            recipe: fields of `rscd.methods.parts.diffmatch_recipe.Recipe` other than the variant's.
            weak: fields of `rscd.methods.parts.views.Weak`.
            strong: fields of `rscd.methods.parts.photometric.Photometric`; default: as published.
            value_range: (black, white) of the raw values, for the strong view.
            head_lr_mult: learning rate of all but the encoder, as a multiple of the encoder's.
            use_valid: whether unlabelled pairs have the key ``valid``, so that consistency is not
                required on nodata.
            concat_dates: whether to encode both dates in one batch: faster, with batch statistics
                over both. Published: one date at a time.

        Raises:
            UsageError: for unknown names, or another network.
        """
        super().__init__()
        self.recipe = recipe_of(variant, recipe)
        self.weak = made(Weak, weak, "weak view")
        self.strong = STRONG if strong is None else made(Photometric, strong, "photometric view")
        self.value_range = value_range
        self.head_lr_mult = head_lr_mult
        self.use_valid = use_valid
        guided = self.recipe.dual or self.recipe.segments
        known = (NETWORK,) if guided else (NETWORK, UNGUIDED)
        if network is None or network not in known:
            wanted = " or ".join(known)
            raise UsageError(f"expected method_args with network: {wanted}, found {network}")
        self.network = cast(Siamese, self.build(network, network_args))
        self.network.order = "joint" if concat_dates else "t1-first"
        if network != NETWORK:
            return
        self.vl_classifier, self.segmentation = training_heads(self.network)
        if not self.recipe.dual:
            self.vl_classifier.requires_grad_(False)
        if not self.recipe.guide_dates:
            self.segmentation.conv_seg.requires_grad_(False)
        if not self.recipe.segments:
            self.segmentation.requires_grad_(False)

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:  # type: ignore[override] # by variant
        """Keys of each stream; no mask for unlabelled pairs."""
        layers = self.recipe.layers
        labeled = frozenset({"image", "mask"}) | (layers if self.recipe.vl_on_labeled else set())
        if not self.recipe.unlabeled:
            return {"labeled": labeled}
        valid = {"valid"} if self.use_valid else set()
        return {"labeled": labeled, "unlabeled": frozenset({"image"}) | layers | valid}

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """The encoder at the base rate, heads faster."""
        groups: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups[name.startswith("network.encoder.")].append(parameter)
        return [
            {"params": groups[True], "lr": lr},
            {"params": groups[False], "lr": self.head_lr_mult * lr},
        ]

    def loss_parts(self, batches: Mapping[str, Batch], step: int, total: int) -> Iterator[Terms]:
        """Labelled and weak views together, then each strong view: pseudo labels carry no gradient.

        In train mode the running statistics see [labelled; weak] of t1, of t2, then the strong view
        of t1, of t2.
        """
        seed = torch.initial_seed()
        lambda_vl = guidance_weight(step, total, self.recipe.lambda_vl)
        labeled = self._weak(batches, "labeled", seed, LABELED)
        if not self.recipe.unlabeled:
            outputs = self.network(labeled["image"])
            yield labeled_terms(outputs, labeled, self.recipe, lambda_vl)
            return
        weak = self._weak(batches, "unlabeled", seed, WEAK_VIEW)
        partner = self._partner(batches, seed)
        yield self._first_part(labeled, weak, lambda_vl)
        for number in range(self.recipe.strong_views):
            view = self._strong(weak, partner, seed, number)
            outputs = self._outputs(*self.network.encode(view["image"]), view["image"])
            name = f"s{number + 1}" if number else "s"
            yield strong_terms(outputs, view, self.recipe, lambda_vl, name)

    def _weak(self, batches: Mapping[str, Batch], stream: str, *seed: int) -> View:
        """Weak view of a stream; keys the method does not need were removed before."""
        batch = {k: v for k, v in batches[stream].items() if k in self.needs[stream]}
        return cast(View, weak_view(cast(Batch, batch), self.weak, view_generator(*seed)))

    def _partner(self, batches: Mapping[str, Batch], seed: int) -> View:
        """Weak view of the CutMix partners with pseudo labels, made in eval mode beforehand."""
        source: Mapping[str, Batch] = batches
        if self.recipe.cutmix_partner == "other":
            source = {"unlabeled": rolled(batches["unlabeled"])}
        partner = self._weak(source, "unlabeled", seed, PARTNER)
        training = self.network.training
        self.network.eval()
        with torch.no_grad():
            logits = self.network(partner["image"])["logits"]
        self.network.train(training)
        # else autocast reuses cached casts of the weights that were made without gradient
        torch.clear_autocast_cache()
        return partner | _pseudo(logits)

    def _first_part(self, labeled: View, weak: View, lambda_vl: float) -> Terms:
        """Terms of labelled and weak views; adds the pseudo labels to the weak one."""
        count = len(labeled["image"])
        image = torch.cat([labeled["image"], weak["image"]])
        t1, t2 = self.network.encode(image)
        outputs = self._outputs(t1, t2, image)
        ours = {name: value[:count] for name, value in outputs.items()}
        theirs = {name: value[count:] for name, value in outputs.items()}
        weak |= _pseudo(theirs["logits"])
        terms = labeled_terms(ours, labeled, self.recipe, lambda_vl)
        terms |= guidance_terms(theirs, weak, self.recipe, lambda_vl, "w", self.recipe.vl_reduction)
        if self.recipe.feature_dropout:
            dropped = [
                F.dropout2d(level[count:], self.recipe.feature_dropout, self.training)
                for level in fuse(self.network.fusion, t1, t2)
            ]
            logits = self.network.to_image(self.network.head(self.network.decoder(dropped)), t1[0])
            # half of L_s, the strong views make up the other half; L_s itself has weight one half
            terms["consistency_f"] = consistency(logits, weak, self.recipe) / 4
        return terms

    def _strong(self, weak: View, partner: View, seed: int, number: int) -> View:
        """Strong view of the weak one and of the partner's, mixed with all their labels."""
        ours, theirs = (
            photometric_view(
                cast(Batch, view),
                self.strong,
                view_generator(seed, stream, number),
                value_range=self.value_range,
            )
            for view, stream in ((weak, STRONG_VIEW), (partner, PARTNER_STRONG))
        )
        count, size = len(weak["image"]), size_of(weak["image"])
        boxes = cutmix_boxes(count, size, view_generator(seed, BOX, number))
        return cast(View, cutmix(ours, theirs, boxes))

    def _outputs(self, t1: Any, t2: Any, image: Tensor) -> dict[str, Tensor]:
        """Outputs that the terms of the recipe need."""
        if not (self.recipe.dual or self.recipe.segments):
            return {"logits": self.network.decode(t1, t2)}
        outputs = training_outputs(
            self.network, self.vl_classifier, self.segmentation, t1, t2, image
        )
        if self.recipe.distance == "legacy_last_axis":
            columns = feature_distance(outputs["embed_t1"], outputs["embed_t2"], axis=-1)
            outputs["distance"] = resize_distance(columns, size_of(image))
        return outputs


def _pseudo(logits: Tensor) -> View:
    label, confidence = pseudo_labels(logits)
    return {"pseudo": label[:, None], "confidence": confidence[:, None]}
