"""Results of an evaluation: plain numbers, as JSON and as text."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rscd.metrics.objects import OBJECT_IOU, ObjectCounts, summarise_objects
from rscd.metrics.pixels import MONITOR, Counts, summarise

if TYPE_CHECKING:
    from rscd.metrics.probabilities import ChangeMetrics

LABELS = {
    "iou_change": "IoU of change",
    "f1_change": "F1 of change",
    "precision": "precision",
    "recall": "recall",
    "oa": "overall accuracy",
    "kappa": "kappa",
    "miou": "mean IoU of both classes",
    "f1_macro": "mean F1 of both classes",
    "iou_no_change": "IoU of no change",
    "fp_union": "false positives / union",
    "fn_union": "false negatives / union",
}
"""Names of the metrics in the order of the table."""

PROTOCOL = 0.5
"""Threshold of published evaluations: the more probable class."""

LEAST = ("min_area_m2", "min_score")
GROUPS = ("best", "median", "worst")


@dataclass(frozen=True)
class Sample:
    """One pair of a split, or one square of a map."""

    name: str
    index: int
    """Index of the pair or square."""
    counts: Counts
    protocol: Counts | None = None
    """The same at `PROTOCOL`; None for classes."""

    @property
    def score(self) -> float:
        """The metric that also selects checkpoints (`MONITOR`)."""
        return summarise(self.counts)[MONITOR]

    @property
    def wrong(self) -> int:
        """False positives and false negatives."""
        return self.counts.true[1] + self.counts.predicted[1] - 2 * self.counts.hit[1]


@dataclass(frozen=True)
class Pixels:
    """Breakdown of all pixels; the three counts add up to them."""

    counted: int
    """With label and prediction."""
    unlabelled: int
    """Without label (in a split, also where a date has no data)."""
    without_prediction: int
    """With a label, but outside the prediction or its nodata."""

    @property
    def missing_share(self) -> float:
        """Fraction of the labelled pixels without prediction."""
        labelled = self.counted + self.without_prediction
        return self.without_prediction / labelled if labelled else 0.0


@dataclass(frozen=True)
class Probabilities:
    """Threshold-independent quality of probabilities."""

    ece: float
    """Expected calibration error."""
    reliability: tuple[tuple[float, ...], ...]
    """Mean probability, fraction of changed pixels and fraction of all pixels, by bin."""
    best_threshold: float
    """Threshold with the highest `MONITOR` on these same pixels."""
    best_counts: Counts
    protocol_counts: Counts
    """At `PROTOCOL`."""

    @classmethod
    def of(cls, metrics: "ChangeMetrics") -> "Probabilities":
        """From the state of a pooled metric."""
        best = metrics.best_threshold()
        bins = tuple(tuple(float(v) for v in row) for row in metrics.reliability())
        counts = metrics.counts
        return cls(metrics.calibration_error(), bins, best, counts(best), counts(PROTOCOL))


@dataclass(frozen=True)
class Report:
    """The result of an evaluation."""

    subject: Mapping[str, Any]
    """What was compared, as plain data."""
    threshold: float | None
    """Probability at or above which a pixel counts as change; None for classes."""
    counts: Counts
    pixels: Pixels
    objects: ObjectCounts
    samples: Sequence[Sample]
    probabilities: Probabilities | None
    """None if the prediction has only classes."""
    area_m2: Mapping[str, float] | None
    """``predicted``, ``true``, ``hit``, ``false_positive`` and ``false_negative`` change; None if
    the pixel size is unknown."""
    conditions: Mapping[str, Counts] = field(default_factory=dict)
    """Metrics of parts of the samples, such as light or location, by name."""
    least_object: tuple[float, float] | None = None
    """Least area in square metres and least score of predicted polygons that count as objects; None
    if all regions of a finished map count."""
    protocol_conditions: Mapping[str, Counts] = field(default_factory=dict)
    """`conditions` at `PROTOCOL`; empty for classes."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Errors of samples that could not be measured and were omitted, by name."""

    @property
    def notes(self) -> list[str]:
        """Notes that a reader needs to interpret the numbers."""
        cases = (
            (self.counts.true[1], "no counted pixel is labelled as change"),
            (self.counts.predicted[1], "no counted pixel was predicted as change"),
        )
        return [f"{text}: 0/0 is given as 0" for pixels, text in cases if pixels == 0]

    def json(self) -> dict[str, Any]:
        """Everything as plain data for one JSON object."""
        best, least = self.probabilities, self.least_object
        return {
            **self.subject,
            "threshold": self.threshold,
            "pixels": asdict(self.pixels) | {"missing_share": self.pixels.missing_share},
            "confusion": confusion(self.counts),
            "metrics": summarise(self.counts),
            "objects": {
                "least_iou": OBJECT_IOU,
                **asdict(self.objects),
                **summarise_objects(self.objects),
                **({} if least is None else dict(zip(LEAST, least, strict=True))),
            },
            "calibration": self._calibration(),
            "at_protocol_threshold": None
            if best is None
            else {"threshold": PROTOCOL, **summarise(best.protocol_counts)},
            "best_threshold_on_this_data": None
            if best is None
            else {"threshold": best.best_threshold, **summarise(best.best_counts)},
            "area_m2": None if self.area_m2 is None else dict(self.area_m2),
            "conditions": {name: summarise(own) for name, own in self.conditions.items()},
            "samples": [
                {"group": group, "name": sample.name, MONITOR: sample.score}
                for group, sample in extremes(self.samples)
            ],
            "failed": dict(self.failed),
            "notes": self.notes,
        }

    def text(self) -> str:
        """The report as text."""
        return "\n".join(
            [
                *(f"{key}: {value}" for key, value in self.subject.items()),
                *self._pixel_lines(),
                "",
                *self._metric_lines(),
                "",
                *self._object_lines(),
                *self._area_lines(),
                *self._condition_lines(),
                *(f"failed: {name}: {reason}" for name, reason in self.failed.items()),
                *(f"note: {note}" for note in self.notes),
            ]
        )

    def _calibration(self) -> dict[str, Any] | None:
        if self.probabilities is None:
            return None
        names = ("mean_probability", "changed_share", "pixel_share")
        bins = {n: list(r) for n, r in zip(names, self.probabilities.reliability, strict=True)}
        return {"ece": self.probabilities.ece, **bins}

    def _pixel_lines(self) -> list[str]:
        pixels = self.pixels
        lines = [f"pixels counted: {pixels.counted:,}; without label: {pixels.unlabelled:,}"]
        if pixels.without_prediction:
            lines.append(
                f"pixels with label but without prediction: {pixels.without_prediction:,} "
                f"({100 * pixels.missing_share:.3g} % of the labelled), ignored"
            )
        return lines

    def _metric_lines(self) -> list[str]:
        found = summarise(self.counts)
        head = "" if self.threshold is None else f"at {self.threshold:.3g}"
        heads, columns = [head], [found]
        if self.probabilities is not None:
            best = self.probabilities
            if self.threshold != PROTOCOL:
                heads.append(f"at {PROTOCOL:.3g}")
                columns.append(summarise(best.protocol_counts))
            heads.append(f"at {best.best_threshold:.3g} *")
            columns.append(summarise(best.best_counts))
        lines = [f"{'':<26}" + "".join(f"{text:>12}" for text in heads)] if any(heads) else []
        for name, words in LABELS.items():
            lines.append(f"{words:<26}" + "".join(f"{column[name]:>12.4f}" for column in columns))
        if self.probabilities is not None:
            lines.append(f"{'calibration error (ECE)':<26}{self.probabilities.ece:>12.4f}")
            lines.append(f"published numbers are at {PROTOCOL:.3g}, the more probable class")
            lines.append("* the best threshold, chosen on these same pixels: not a fair estimate")
        return lines

    def _object_lines(self) -> list[str]:
        counts, found = self.objects, summarise_objects(self.objects)
        area, score = self.least_object or (0.0, 0.0)
        asked = [f"{area:g} m2"] * (area > 0) + [f"score {score:g}"] * (score > 0)
        least = f" of at least {' and '.join(asked)}" if asked else ""
        return [
            f"objects (IoU of {OBJECT_IOU:g} or more): {counts.matched:,} of {counts.true:,} "
            f"found, {counts.predicted:,} predicted{least}",
            f"{'object precision':<26}{found['object_precision']:>12.4f}",
            f"{'object recall':<26}{found['object_recall']:>12.4f}",
            f"{'object F1':<26}{found['object_f1']:>12.4f}",
        ]

    def _area_lines(self) -> list[str]:
        if self.area_m2 is None:
            return []
        area = self.area_m2
        return [
            "",
            f"area of change: {area['true']:,.0f} m2 true, {area['predicted']:,.0f} m2 predicted, "
            f"{area['hit']:,.0f} m2 both",
        ]

    def _condition_lines(self) -> list[str]:
        if not self.conditions:
            return []
        shown = ("f1_change", "precision", "recall", "iou_change")
        lines = ["", f"{'':<26}" + "".join(f"{LABELS[name]:>15}" for name in shown)]
        for condition, counts in self.conditions.items():
            found = summarise(counts)
            lines.append(f"{condition:<26}" + "".join(f"{found[name]:>15.4f}" for name in shown))
        return lines


def confusion(counts: Counts) -> dict[str, int]:
    """True and false positives and negatives of change."""
    return {
        "tp": counts.hit[1],
        "fp": counts.predicted[1] - counts.hit[1],
        "fn": counts.true[1] - counts.hit[1],
        "tn": counts.hit[0],
    }


def pooled(samples: Iterable[Sample]) -> Counts:
    """Counts of all samples together."""
    return sum((sample.counts for sample in samples), Counts.none())


def extremes(samples: Sequence[Sample], each: int = 3) -> list[tuple[str, Sample]]:
    """The best, median and worst samples among those with change, in descending order of score.

    Among equals, the one with more wrong pixels is worse.
    Samples in which nothing changed and nothing was predicted are omitted: they are uninformative.

    Args:
        samples: all of a split or map.
        each: most samples per group; fewer where there are fewer than three times as many.
    """
    holding = [s for s in samples if s.counts.true[1] + s.counts.predicted[1] > 0]
    ranked = sorted(holding, key=lambda sample: (-sample.score, sample.wrong, sample.index))
    n = len(ranked)
    each = max(1, min(each, n // 3))
    starts = (0, (n - each) // 2, n - each)
    chosen: dict[int, str] = {}
    for group, start in zip(GROUPS, starts, strict=True):
        for place in range(max(0, start), min(n, start + each)):
            chosen.setdefault(place, group)
    return [(chosen[place], ranked[place]) for place in sorted(chosen)]
