"""Change events from the segmentations of two dates: CEG of DiffMatch, in pure NumPy.

Source: Li et al., DiffMatch (arXiv 2405.04788; IEEE TGRS 2024 as SemiCD-VL), section III-B,
Eq. 4 to 11. Three readings differ from the printed text, where it contradicts itself or the
published numbers: a pixel is reliable where the best probability reaches gamma at both dates, and
255 where it does not (the cases of Eq. 11 are swapped); an instance is a change event when
its IoU sum is <= delta (a strict comparison never fires at the published delta of 0); foreground
wins ties. At delta 0 an event overlaps no object of the other date at all: extensions and partial
demolitions are not reported.

Maps are (H,W) uint8: 0 no change, 1 change, 255 ignore. Class planes are ordered foreground first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rscd.base.errors import DataError, UsageError
from rscd.base.types import IGNORE, BoolArray, ByteArray, ShapeHW
from rscd.segmenters.instances import (
    Instance,
    components,
    mask_overlaps,
    paint,
    share_inside,
    without_duplicates,
)
from rscd.segmenters.overlaps import Overlaps
from rscd.segmenters.segmenter import SemanticPrediction

GAMMA = 0.8
"""Probability from which a pixel is reliable: the paper's, for APE. It depends on the model."""

DELTA = 0.0
"""IoU sum up to which an instance is a change event; 0.01 tolerates a sliver."""

MAX_NODATA_SHARE = 0.5
"""An event with a larger fraction on nodata of the other date is undecidable."""

BACKGROUND, FOREGROUND = 0, 1
"""Planes of the concept probabilities."""

Floating = NDArray[np.floating[Any]]


def concept_prob(prob: Floating, foreground: Sequence[int]) -> Floating:
    """Best probability of each concept (Eq. 4).

    Args:
        prob: (C,H,W) probabilities in [0,1], one plane per prompt; they need not sum to 1.
        foreground: planes of the foreground; all others are background.

    Returns:
        (2,H,W) of the same dtype: background, foreground.

    Raises:
        DataError: if the array has another rank or contains integers.
        UsageError: if there is no foreground or no background among the planes.
    """
    if prob.ndim != 3 or not np.issubdtype(prob.dtype, np.floating):
        raise DataError(
            f"expected probabilities (C,H,W) as floating-point numbers in [0,1], found "
            f"{prob.dtype} of shape {prob.shape}"
        )
    front = np.zeros(len(prob), bool)
    try:
        front[list(foreground)] = True
    except IndexError as error:
        raise UsageError(
            f"expected foreground planes below {len(prob)}, found {list(foreground)}"
        ) from error
    if front.all() or not front.any():
        raise UsageError(
            f"expected at least one foreground and one background prompt, found "
            f"{front.sum()} foreground prompts among {len(prob)}; name both"
        )
    return np.stack([prob[~front].max(axis=0), prob[front].max(axis=0)])


def semantic(concepts: Floating) -> ByteArray:
    """(H,W) uint8: 1 where the foreground is at least as probable as the background (Eq. 5)."""
    front: BoolArray = concepts[FOREGROUND] >= concepts[BACKGROUND]
    return front.astype(np.uint8)


def reliable(concepts: Floating, gamma: float, valid: BoolArray | None = None) -> BoolArray:
    """Where one date is reliable (Eq. 6): the best concept reaches gamma.

    Args:
        concepts: (2,H,W) of `concept_prob`.
        gamma: in [0,1]; compared in the dtype of the probabilities, so that a stored 0.8 counts.
        valid: (H,W), False where there is no image.

    Returns:
        (H,W) bool, True = reliable; NaN is not.

    Raises:
        UsageError: if gamma is out of range.
    """
    if not 0 <= gamma <= 1:
        raise UsageError(f"expected gamma from 0 to 1, found {gamma}")
    trusted: BoolArray = concepts.max(axis=0) >= concepts.dtype.type(gamma)
    return trusted if valid is None else trusted & valid


def date_label(concepts: Floating, gamma: float, valid: BoolArray | None = None) -> ByteArray:
    """Segmentation label of one date: 0 background, 1 foreground, 255 where not reliable.

    The arguments are those of `reliable`; the other date does not matter.
    """
    return masked(semantic(concepts), reliable(concepts, gamma, valid))


def pixel_events(concepts1: Floating, concepts2: Floating) -> ByteArray:
    """(H,W) uint8 {0,1}: where the semantics of two dates differ (Eq. 7), reliable or not.

    Raises:
        DataError: if the shapes differ.
    """
    _require_one_shape(concepts1.shape, concepts2.shape)
    return semantic(concepts1) ^ semantic(concepts2)


def masked(mask: ByteArray, trusted: BoolArray) -> ByteArray:
    """A map with 255 where it is not reliable."""
    return np.where(trusted, mask, np.uint8(IGNORE))


def mixed_events(pixel: ByteArray, instance: ByteArray, trusted: BoolArray) -> ByteArray:
    """The label to train on (Eq. 11): a semantic flip inside a change event.

    A flip outside every event is a confident 0: that is how misregistered edges become negatives.

    Args:
        pixel: (H,W) {0,1} of `pixel_events`.
        instance: (H,W) {0,1}, the ``mask`` of `instance_events`.
        trusted: (H,W), True where both dates are reliable.

    Returns:
        (H,W) uint8 {0,1,255}.
    """
    return masked(pixel * instance, trusted)


def change_of(sums: NDArray[np.float64], delta: float) -> BoolArray:
    """Which objects are change events: IoU sum <= delta.

    Raises:
        UsageError: if delta is negative.
    """
    if not delta >= 0:
        raise UsageError(f"expected delta of 0 or more, found {delta}")
    changed: BoolArray = sums <= delta
    return changed


@dataclass(frozen=True, eq=False)
class DateEvents:
    """Fate of the objects of one date."""

    instances: Sequence[Instance]
    iou_sum: NDArray[np.float64]
    """(M,) IoU summed over all objects of the other date."""
    changed: BoolArray
    """(M,) change events: vanished at t1, appeared at t2."""
    undecidable: BoolArray
    """(M,) would be events, but are on nodata of the other date."""


@dataclass(frozen=True, eq=False)
class InstanceEvents:
    """The instance level: objects of both dates and their maps."""

    t1: DateEvents
    t2: DateEvents
    overlaps: Overlaps
    mask: ByteArray
    """(H,W) {0,1}: union of all change events, 0 on nodata of either date."""
    unknown: BoolArray
    """(H,W): pixels of undecidable instances not covered by any event."""


def instance_events(
    first: Sequence[Instance],
    second: Sequence[Instance],
    shape_hw: ShapeHW,
    *,
    delta: float = DELTA,
    valid1: BoolArray | None = None,
    valid2: BoolArray | None = None,
    max_nodata_share: float = MAX_NODATA_SHARE,
) -> InstanceEvents:
    """Whole objects that appeared or vanished (Eq. 8 to 10).

    Args:
        first: foreground instances of t1; they may overlap each other.
        second: those of t2 on the same grid.
        shape_hw: of the grid.
        delta: largest IoU sum of an event.
        valid1: (H,W), False where t1 has no image.
        valid2: the same for t2.
        max_nodata_share: an event is undecidable if more of it is on nodata of the other date.

    Raises:
        UsageError: if delta is negative.
        DataError: if an instance extends beyond the grid, or a valid map has another shape.
    """
    valid1, valid2 = (_valid_or_true(valid, shape_hw) for valid in (valid1, valid2))
    _require_inside([*first, *second], shape_hw)
    overlaps = mask_overlaps(first, second)
    sums = overlaps.sums()
    dates = []
    for instances, iou_sum, other in ((first, sums[0], valid2), (second, sums[1], valid1)):
        event = change_of(iou_sum, delta)
        unseen = share_inside(instances, ~other) > max_nodata_share
        dates.append(DateEvents(instances, iou_sum, event & ~unseen, event & unseen))
    t1, t2 = dates
    event_mask = _union(t1, t1.changed, t2, t2.changed, shape_hw) & valid1 & valid2
    unknown = _union(t1, t1.undecidable, t2, t2.undecidable, shape_hw) & ~event_mask
    return InstanceEvents(t1, t2, overlaps, event_mask.astype(np.uint8), unknown)


@dataclass(frozen=True, eq=False)
class ChangeLabels:
    """All change labels derived from two segmented dates."""

    mixed: ByteArray
    """(H,W) {0,1,255}: the label to train on (`mixed_events`)."""
    seg1: ByteArray
    """(H,W) {0,1,255}: segmentation label of t1."""
    seg2: ByteArray
    """(H,W) {0,1,255}: segmentation label of t2."""
    pixel: ByteArray
    """(H,W) {0,1,255}: the pixel level, 255 where either date is unreliable."""
    flips: ByteArray
    """(H,W) {0,1}: the pixel level, reliable or not; 0 on nodata."""
    reliable: BoolArray
    """(H,W): both dates reach gamma."""
    valid: BoolArray
    """(H,W): both dates have an image."""
    events: InstanceEvents


def change_labels(
    first: SemanticPrediction,
    second: SemanticPrediction,
    *,
    gamma: float = GAMMA,
    gamma_seg: float | None = None,
    delta: float = DELTA,
    duplicate_iou: float | None = None,
    instance_threshold: float = 0.0,
    counts: Callable[[Instance], bool] | None = None,
) -> ChangeLabels:
    """Pixel, instance and mixed level of two segmented dates on one grid.

    Args:
        first: t1.
        second: t2, with the same prompts.
        gamma: probability from which a pixel is reliable.
        gamma_seg: the same for the segmentation labels; default ``gamma``.
        delta: largest IoU sum of an event.
        duplicate_iou: drop instances of one date that overlap a better one more than this; default
            none.
        instance_threshold: instances of a lower score are left out. Where a date has none, they
            are the connected components of its foreground with at least this probability; ``gamma``
            takes the reliable part alone.
        counts: says of an instance whether it takes part; default all that have a pixel.

    Raises:
        DataError: if the dates differ in shape or prompts.
        UsageError: if a parameter is out of range.
    """
    _require_one_shape(first.prob.shape, second.prob.shape)
    if first.n_foreground != second.n_foreground:
        raise DataError(
            f"expected the same prompts at both dates, found {first.n_foreground} and "
            f"{second.n_foreground} foreground prompts"
        )
    height, width = first.prob.shape[1:]
    shape_hw = (height, width)
    valid1, valid2 = (_valid_or_true(date.valid, shape_hw) for date in (first, second))
    valid = valid1 & valid2
    concepts1, concepts2 = (
        concept_prob(date.prob, range(date.n_foreground)) for date in (first, second)
    )
    instances1, instances2 = (
        _instances(date, concepts, seen, instance_threshold, counts, duplicate_iou)
        for date, concepts, seen in ((first, concepts1, valid1), (second, concepts2, valid2))
    )
    events = instance_events(
        instances1, instances2, shape_hw, delta=delta, valid1=valid1, valid2=valid2
    )
    both = reliable(concepts1, gamma, valid) & reliable(concepts2, gamma, valid)
    flips = pixel_events(concepts1, concepts2) * valid
    own = gamma if gamma_seg is None else gamma_seg
    return ChangeLabels(
        mixed=mixed_events(flips, events.mask, both & ~events.unknown),
        seg1=date_label(concepts1, own, valid),
        seg2=date_label(concepts2, own, valid),
        pixel=masked(flips, both & ~events.unknown),
        flips=flips,
        reliable=both,
        valid=valid,
        events=events,
    )


def reliable_shares(
    first: SemanticPrediction, second: SemanticPrediction, gammas: Sequence[float]
) -> NDArray[np.float64]:
    """Fraction of the pixels with an image that are reliable at both dates, for each gamma.

    Returns:
        (len(gammas),) fractions; NaN where no pixel has an image.
    """
    shape_hw = first.prob.shape[1:]
    valid = _valid_or_true(first.valid, shape_hw) & _valid_or_true(second.valid, shape_hw)
    trust1, trust2 = (
        concept_prob(date.prob, range(date.n_foreground)).max(axis=0)[valid]
        for date in (first, second)
    )
    weaker = np.minimum(trust1, trust2)
    if not weaker.size:
        return np.full(len(gammas), np.nan)
    return np.array([np.mean(weaker >= weaker.dtype.type(gamma)) for gamma in gammas])


def _instances(
    date: SemanticPrediction,
    concepts: Floating,
    seen: BoolArray,
    threshold: float,
    counts: Callable[[Instance], bool] | None,
    duplicate_iou: float | None,
) -> list[Instance]:
    if date.instances is None:
        front = (semantic(concepts) == 1) & seen
        front &= concepts[FOREGROUND] >= concepts.dtype.type(threshold)
        found = components(front, date.prob[: date.n_foreground])
    else:
        found = [
            instance
            for instance in date.instances
            if instance.class_index < date.n_foreground and instance.score >= threshold
        ]
    found = [one for one in found if one.area_px > 0 and (counts is None or counts(one))]
    return found if duplicate_iou is None else without_duplicates(found, duplicate_iou)


def _union(
    t1: DateEvents, chosen1: BoolArray, t2: DateEvents, chosen2: BoolArray, shape_hw: ShapeHW
) -> BoolArray:
    return paint(t1.instances, chosen1, shape_hw) | paint(t2.instances, chosen2, shape_hw)


def _valid_or_true(valid: BoolArray | None, shape_hw: tuple[int, ...]) -> BoolArray:
    if valid is None:
        return np.ones(shape_hw, bool)
    _require_one_shape(valid.shape, shape_hw)
    return valid


def _require_one_shape(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    if tuple(one) != tuple(other):
        raise DataError(
            f"expected both dates on one grid with the same prompts, found shapes {tuple(one)} and "
            f"{tuple(other)}; resample one date onto the other first"
        )


def _require_inside(instances: Sequence[Instance], shape_hw: ShapeHW) -> None:
    for instance in instances:
        x0, y0, x1, y1 = instance.bbox
        inside = 0 <= x0 <= x1 <= shape_hw[1] and 0 <= y0 <= y1 <= shape_hw[0]
        if not inside or instance.mask.shape != (y1 - y0, x1 - x0):
            raise DataError(
                f"expected instances inside {shape_hw[0]} x {shape_hw[1]} pixels with a mask as "
                f"large as their box, found box {instance.bbox} and mask {instance.mask.shape}"
            )
