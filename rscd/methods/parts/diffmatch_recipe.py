"""Options of DiffMatch's training as plain values, and the published variants.

The paper (arXiv 2405.04788) and its code differ in places. Defaults follow the code that produced
the published numbers, except for two errors in it: the axis of the distance and the CutMix partner.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from rscd.base.arguments import fitted
from rscd.base.errors import UsageError


@dataclass(frozen=True)
class Recipe:
    """Terms of the loss and their weights (section 4).

    Attributes:
        unlabeled: whether to train on unlabelled pairs at all; without them the loss is L_x alone.
        conf_thresh: tau, confidence from which a pseudo label counts.
        conf_thresh_change: the same for the pseudo label "change"; None: `conf_thresh`. Not of the
            paper: where change is rare, hardly any label of it reaches the other.
        gate: ``pixelwise`` counts confident pixels; ``pixelratio`` weighs each image by their
            share.
        strong_views: strong views of each unlabelled pair, each with its own CutMix box; their
            losses are averaged.
        feature_dropout: if above 0, one more view: the weak one with this fraction of the channels
            of the fused features dropped. It makes up half of the consistency loss (UniMatch's mu =
            lambda = 0.5).
        guidance: classifier that learns the vision-language change labels: ``dual`` its own,
            ``shared`` the one that predicts, ``none``.
        guide_dates: whether the segmentation head learns vision-language labels of each date.
        vl_on_labeled: whether guidance also acts on labelled pairs (as in the code; the paper's
            text has unlabelled ones only). The divisor 6 is the same.
        vl_reduction: mean of guidance over all pixels of an unlabelled batch, over those that are
            not padding, or over those with a label.
        lambda_vl: weight of guidance at the first step; it falls linearly.
        lambda_c: weight of the contrastive loss.
        margin: of the contrastive loss.
        power: 2 squares distances (code), 1 does not (paper).
        balance_unlabeled: whether no change and change have equal weight in the contrastive loss of
            unlabelled pairs as well (paper), not only of labelled ones (code).
        distance: ``channel``, per pixel over channels (paper); ``legacy_last_axis``, over image
            columns, which is what the published code computes by accident.
        cutmix_partner: ``other`` pastes from another pair of the batch, ``same`` from another view
            of the same pair, as published. In a batch of one they are the same.
    """

    unlabeled: bool = True
    conf_thresh: float = 0.95
    conf_thresh_change: float | None = None
    gate: Literal["pixelwise", "pixelratio"] = "pixelwise"
    strong_views: int = 1
    feature_dropout: float = 0.0
    guidance: Literal["none", "shared", "dual"] = "dual"
    guide_dates: bool = True
    vl_on_labeled: bool = True
    vl_reduction: Literal["mean_all", "mean_valid", "mean"] = "mean_all"
    lambda_vl: float = 0.1
    lambda_c: float = 0.1
    margin: float = 2.0
    power: Literal[1, 2] = 2
    balance_unlabeled: bool = False
    distance: Literal["channel", "legacy_last_axis"] = "channel"
    cutmix_partner: Literal["other", "same"] = "other"

    def __post_init__(self) -> None:
        """Check ranges; names are checked by their types, see `recipe_of`.

        Raises:
            UsageError: for an impossible value.
        """
        if self.strong_views < 1 or not 0 <= self.feature_dropout < 1:
            raise UsageError(
                "expected strong_views of 1 or more and feature_dropout from 0 to below 1, found "
                f"{self.strong_views} and {self.feature_dropout}"
            )
        if self.conf_thresh_change is not None and not 0 <= self.conf_thresh_change <= 1:
            raise UsageError(
                f"expected conf_thresh_change from 0 to 1, or null, found {self.conf_thresh_change}"
            )

    @property
    def segments(self) -> bool:
        """Whether the segmentation head has anything to learn."""
        return self.unlabeled and (self.guide_dates or self.lambda_c > 0)

    @property
    def dual(self) -> bool:
        """Whether the second classifier has anything to learn."""
        return self.unlabeled and self.guidance == "dual"

    @property
    def layers(self) -> frozenset[str]:
        """Vision-language layers used as labels."""
        change = {"vl_change"} if self.unlabeled and self.guidance != "none" else set()
        dates = {"vl_t1", "vl_t2"} if self.unlabeled and self.guide_dates else set()
        return frozenset(change | dates)

    @property
    def strong_share(self) -> float:
        """Weight of each strong view in the consistency loss."""
        return (0.5 if self.feature_dropout else 1.0) / self.strong_views


FIXMATCH = Recipe(guidance="none", guide_dates=False, lambda_c=0.0)
"""Only the first line of the loss (section 4.6)."""

VARIANTS: Mapping[str, Recipe] = MappingProxyType(
    {
        "supervised": replace(FIXMATCH, unlabeled=False),
        "fixmatch": FIXMATCH,
        "unimatch": replace(FIXMATCH, strong_views=2, feature_dropout=0.5),
        "guided": replace(FIXMATCH, guidance="shared"),
        "dual": replace(FIXMATCH, guidance="dual"),
        "dual-contrast": Recipe(guide_dates=False),
        "decoupled": Recipe(lambda_c=0.0),
        "diffmatch": Recipe(),
        "diffmatch-rescaled": Recipe(lambda_c=0.025),
    }
)
"""The baselines, and the rows of Table 7; its second and third are both ``guided``, with pixel
level or mixed labels as the layer ``vl_change``. The last is the method with the contrastive loss
at about its published weight: over channels squared distances are four times as large as those the
published code computes by accident."""


def recipe_of(variant: str, changes: Mapping[str, Any] | None) -> Recipe:
    """A variant with some values changed.

    Raises:
        UsageError: for unknown names or values.
    """
    if variant not in VARIANTS:
        raise UsageError(f"expected a variant among {', '.join(VARIANTS)}, found {variant!r}")
    return replace(VARIANTS[variant], **fitted(Recipe, changes or {}, "recipe"))
