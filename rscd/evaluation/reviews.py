"""What reviews of some polygons say of all of them: how many are right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ks_2samp

from rscd.base.errors import DataError
from rscd.base.redact import redacted
from rscd.base.types import BoolArray, Float64Array
from rscd.geo.reviewed import ACCEPTED, REJECTED, UNREVIEWED, UNSURE
from rscd.metrics.areas import CONFIDENCE, share_of
from rscd.review.choose import CHOSEN_BY, ORDER
from rscd.review.layer import ChangeLayer, read_change_layer

RANDOM = "random"

CHANCE = 0.01
"""Reviews that would differ from the rest as much as this by chance so rarely are no random
sample."""

_LEAST = 5
"""Polygons on either side from which a comparison says anything."""


@dataclass(frozen=True, eq=False)
class Reviews:
    """The decisions that stand for all polygons of a layer."""

    layer: ChangeLayer
    rows: BoolArray
    """(N,) polygons of the layer whose decisions count."""
    notes: tuple[str, ...]

    @property
    def status(self) -> Any:
        """(n,) decisions that count."""
        return self.layer.table["status"].to_numpy(object)[self.rows]

    @property
    def whole(self) -> bool:
        """Whether every polygon was reviewed."""
        return bool(self.rows.all())


@dataclass(frozen=True)
class PrecisionReport:
    """The fraction of the polygons that are right, with its interval."""

    subject: Mapping[str, Any]
    confidence: float
    polygons: int
    accepted: int
    rejected: int
    unsure: int
    precision: float
    interval: tuple[float, float]
    notes: Sequence[str]

    def json(self) -> dict[str, Any]:
        """Everything as plain data for one JSON object."""
        return {
            **self.subject,
            "confidence": self.confidence,
            "polygons": self.polygons,
            "accepted": self.accepted,
            "rejected": self.rejected,
            "unsure": self.unsure,
            "precision": {"estimate": self.precision, "interval": list(self.interval)},
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """The report as text."""
        low, high = self.interval
        return "\n".join(
            [
                *(f"{key}: {value}" for key, value in self.subject.items()),
                f"reviewed: {self.accepted:,} accepted, {self.rejected:,} rejected, "
                f"{self.unsure:,} unsure, of {self.polygons:,} polygons",
                f"precision of the polygons: {self.precision:.4f}, "
                f"{100 * self.confidence:g} % interval {low:.4f} to {high:.4f}",
                *(f"note: {note}" for note in self.notes),
            ]
        )


def estimate_precision(path: str | Path, confidence: float = CONFIDENCE) -> PrecisionReport:
    """Estimate which fraction of the polygons of a layer is right, from reviews of some.

    Args:
        path: reviewed change layer.
        confidence: of the interval (Clopper and Pearson 1934).

    Raises:
        DataError: no review, or reviews that are no random sample of the polygons.
    """
    reviews = random_reviews(path)
    accepted, rejected, unsure = (
        int(np.count_nonzero(reviews.status == word)) for word in (ACCEPTED, REJECTED, UNSURE)
    )
    if accepted + rejected == 0:
        raise DataError(
            f"expected accepted or rejected polygons in {path}, found only unsure ones; review more"
        )
    notes = list(reviews.notes)
    share = accepted / (accepted + rejected)
    interval = share_of(accepted, accepted + rejected, confidence)
    if unsure:
        low, high = (n / len(reviews.status) for n in (accepted, accepted + unsure))
        notes.append(
            f"unsure polygons do not count; if all were wrong the precision were {low:.4f}, if all "
            f"were right {high:.4f}"
        )
    elif reviews.whole:
        interval = share, share
        notes.append("every polygon was reviewed: the precision of this layer has no interval")
    return PrecisionReport(
        {"layer": redacted(str(path))},
        confidence,
        len(reviews.rows),
        accepted,
        rejected,
        unsure,
        share,
        interval,
        notes,
    )


def random_reviews(path: str | Path) -> Reviews:
    """The reviews of a layer that stand for all its polygons.

    Where `rscd review next` chose what to review, only its random draws count, and of these only
    what was drawn before anything was chosen by gain. Where nothing is noted, all reviews count, if
    their scores and areas are like those of the other polygons.

    Raises:
        DataError: there are none, or they are no random sample.
    """
    layer = read_change_layer(path)
    table = layer.table
    decided = (table["status"] != UNREVIEWED).to_numpy(bool)
    if not decided.any():
        raise DataError(
            f"expected reviewed polygons in {path}, found none of {len(table)}; review some (rscd "
            "report, or column status)"
        )
    if decided.all():
        return Reviews(layer, decided, ())
    noted = decided & (
        table[CHOSEN_BY].notna().to_numpy(bool) if CHOSEN_BY in table.columns else False
    )
    if noted.any():
        return _drawn_at_random(layer, path, decided)
    for name in ("score", "area_m2"):
        _check_alike(layer, path, name, decided)
    note = (
        f"how the {int(decided.sum())} of {len(table)} polygons were chosen for review is not "
        "noted; the result holds only if they were chosen at random (rscd review next --by random)"
    )
    return Reviews(layer, decided, (note,))


def _drawn_at_random(layer: ChangeLayer, path: str | Path, decided: BoolArray) -> Reviews:
    table = layer.table
    order = table[ORDER].to_numpy(np.float64, na_value=np.nan)
    how = table[CHOSEN_BY].to_numpy(object, na_value=None)
    other = order[decided & (how != RANDOM)]
    first = np.nanmin(other) if len(other) and np.isfinite(other).any() else np.inf
    kept = decided & (how == RANDOM) & (order < first)
    if not kept.any():
        raise DataError(
            f"expected polygons of {path} that were reviewed because they were drawn at random, "
            "found none; they say nothing about the others: rscd review next --by random, before "
            "any is chosen by gain"
        )
    pending = table["status"].to_numpy(object) == UNREVIEWED
    skipped = pending & (how == RANDOM) & (order < np.max(order[kept]))
    notes = []
    if (ignored := int(np.count_nonzero(decided & ~kept))) > 0:
        notes.append(f"{ignored} reviews of polygons that were not drawn at random do not count")
    if skipped.any():
        notes.append(
            f"{int(skipped.sum())} polygons that were drawn before others are not reviewed; the "
            "result holds only if that has nothing to do with what they show"
        )
    return Reviews(layer, kept, tuple(notes))


def _check_alike(layer: ChangeLayer, path: str | Path, name: str, decided: BoolArray) -> None:
    """Refuse reviews that differ from the other polygons (Kolmogorov and Smirnov)."""
    if name not in layer.table.columns:
        return
    values: Float64Array = layer.table[name].to_numpy(np.float64, na_value=np.nan)
    mine, others = (part[np.isfinite(part)] for part in (values[decided], values[~decided]))
    if min(len(mine), len(others)) < _LEAST:
        return
    if ks_2samp(mine, others).pvalue < CHANCE:
        raise DataError(
            f"expected reviews of {path} that are a random sample of its polygons, found that "
            f"{name} differs (median {np.median(mine):.4g} of the reviewed, "
            f"{np.median(others):.4g} of the others); draw with rscd review next --by random, or "
            "review all"
        )
