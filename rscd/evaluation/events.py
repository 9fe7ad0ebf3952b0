"""Change events of a segmenter on a labelled split, by level and gamma (DiffMatch, Tables 5, 6).

Every pair is segmented once, into a `rscd.labels.store.Store`; each level and gamma is then counted
on the same stored scores. As published, pixels are counted twice: all of them, where one that is
not reliable is no change, and the reliable ones alone. The instance level knows no gamma.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rscd.base.errors import DataError, UsageError
from rscd.base.types import IGNORE, ByteArray, Progress, silent
from rscd.data.folder import PairFolder
from rscd.evaluation.report import confusion
from rscd.evaluation.rows import ALL, Row, row_of, table
from rscd.events.pixels import LEVELS, Level
from rscd.geo.labels import MaskRule
from rscd.geo.measure import ground_of
from rscd.labels.from_segmenter import (
    LabelOptions,
    PairInput,
    UnreadablePair,
    check_patience,
    fingerprint,
    folder_pairs,
    labels_of,
    segment_missing,
    stored_dates,
)
from rscd.labels.store import Store, open_store
from rscd.metrics.pixels import Counts, count, summarise
from rscd.segmenters.prompts import PromptSet
from rscd.segmenters.segmenter import Segmenter

RELIABLE = "reliable"
"""The condition of the pixels on which a level says something."""

log = logging.getLogger(__name__)

Counted = tuple[Counts, Counts]
"""Of all pixels, and of the reliable ones."""


@dataclass(frozen=True)
class LabelledEvents:
    """The pairs of a split with their true masks."""

    truth: PairFolder
    """Gives ``mask``."""
    pairs: Sequence[PairInput]
    """The same pairs, for a segmenter."""

    @classmethod
    def open(
        cls,
        root: str | Path,
        split: str | None,
        mask_values: MaskRule = "strict",
        bands: Sequence[int] | None = None,
        split_file: str | Path | None = None,
        gsd_m: float | None = None,
    ) -> "LabelledEvents":
        """Find the pairs; the arguments are those of `rscd.evaluation.dataset.labelled_folder`.

        Raises:
            DataError: no such folder, split or masks.
        """
        truth = PairFolder(
            root, split, keys={"mask"}, mask_values=mask_values, split_file=split_file
        )
        own = None if split_file is not None else split
        known = {(p.labels, p.stem): p for p in folder_pairs(Path(root), None, own, bands, gsd_m)}
        return cls(truth, [known[file.base, file.stem] for file in truth.files])


@dataclass(frozen=True)
class EventsReport:
    """Counts by level and gamma."""

    subject: Mapping[str, Any]
    """What was compared, as plain data."""
    counts: Mapping[tuple[Level, float | None], Counted]
    """By level and gamma, which is None for the instance level."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Errors of pairs that could not be measured, by name."""

    def rows(self, name: str) -> list[Row]:
        """Rows of a table: ``at`` is the level, ``threshold`` gamma; all pixels, then reliable."""
        found = []
        for (level, gamma), both in self.counts.items():
            conditions = (ALL,) if gamma is None else (ALL, RELIABLE)
            for condition, counts in zip(conditions, both, strict=False):
                found.append(row_of(name, condition, level, gamma, counts))
        return found

    @property
    def reliable(self) -> dict[float, float]:
        """Fraction of the counted pixels on which the pixel level says something, by gamma."""
        return {
            gamma: sum(some.true) / max(sum(every.true), 1)
            for (level, gamma), (every, some) in self.counts.items()
            if level == "pixel" and gamma is not None
        }

    def json(self) -> dict[str, Any]:
        """Everything as plain data for one JSON object."""
        levels = [
            {"level": level, "gamma": gamma}
            | {
                condition: {"confusion": confusion(counts), "metrics": summarise(counts)}
                for condition, counts in zip((ALL, RELIABLE), both, strict=True)
                if condition == ALL or gamma is not None
            }
            for (level, gamma), both in self.counts.items()
        ]
        shares = {f"{gamma:g}": share for gamma, share in self.reliable.items()}
        return {
            **self.subject,
            "levels": levels,
            "reliable": shares,
            "failed": dict(self.failed),
        }

    def text(self) -> str:
        """The report as text."""
        shares = ", ".join(f"{gamma:g}: {share:.1%}" for gamma, share in self.reliable.items())
        return "\n".join(
            [
                *(f"{key}: {value}" for key, value in self.subject.items()),
                f"reliable at both dates by gamma: {shares}",
                "",
                table(self.rows(str(self.subject["segmenter"]))),
                *(f"failed: {name}: {reason}" for name, reason in self.failed.items()),
            ]
        )


def evaluate_events(
    data: LabelledEvents,
    segmenter: Segmenter,
    prompts: PromptSet,
    store: Path,
    options: LabelOptions,
    gammas: Sequence[float] | None = None,
    *,
    allow_slow: bool = False,
    progress: Progress = silent,
) -> EventsReport:
    """Segment what the store lacks, and count every level at every gamma.

    Args:
        data: pairs and truth.
        segmenter: the backend.
        prompts: the classes.
        store: folder of the segmentations, such as ``rscd pseudolabel -o`` made.
        options: how scores become events; the gamma does not count.
        gammas: at which pixel and mixed level are counted; default the segmenter's own.
        allow_slow: do not refuse a run that will take long on a CPU.
        progress: progress callback.

    Raises:
        UsageError: options out of range, or a run too slow to start without permission.
        OutputError: the store was made with other settings, or cannot be written.
        DataError: no pair is readable, or none has a labelled pixel.
    """
    own = options.filled(segmenter)
    several = [own] if not gammas else [replace(own, gamma=g).filled(segmenter) for g in gammas]
    if len({one.gamma for one in several}) < len(several):
        raise UsageError(f"expected each gamma once, found {gammas}; drop the repeated one")
    check_patience(segmenter, data.pairs, prompts, own, allow_slow=allow_slow)
    stated = data.pairs[0].gsd_m
    print_of = fingerprint(segmenter, prompts, own, stated)
    counts: dict[tuple[Level, float | None], Counted] = defaultdict(
        lambda: (Counts.none(), Counts.none())
    )
    failed: dict[str, str] = {}
    with open_store(store, print_of, prompts.classes, prompts.n_foreground) as kept:
        for index, pair in enumerate(data.pairs):
            progress("pairs", index, len(data.pairs))
            try:
                segment_missing(kept, segmenter, prompts, pair, own)
                found = _counted(kept, pair, several, _truth(data.truth, index))
            except (UnreadablePair, _Unlabelled) as error:
                failed[pair.name] = str(error)
                if len(failed) == len(data.pairs):
                    raise
                log.error("pair %s failed: %s", pair.name, error)
                continue
            for key, (every, some) in found.items():
                counts[key] = counts[key][0] + every, counts[key][1] + some
        progress("pairs", len(data.pairs), len(data.pairs))
    order = sorted(counts, key=lambda key: LEVELS.index(key[0]))
    if sum(counts[order[0]][0].true) == 0:
        raise DataError(
            f"expected labelled pixels in {data.truth.root}, found none in {len(data.pairs)} "
            "pairs; check --unlabelled and the masks"
        )
    return EventsReport(
        {
            "dataset": str(data.truth.root),
            "split": data.truth.split or "all",
            "pairs": len(data.pairs) - len(failed),
            "segmenter": segmenter.info.name,
        },
        {key: counts[key] for key in order},
        failed,
    )


class _Unlabelled(DataError):
    """The mask of a single pair is damaged."""


def _truth(truth: PairFolder, index: int) -> ByteArray:
    try:
        mask: ByteArray = truth[index]["mask"][0].numpy().astype(np.uint8)
    except (DataError, OSError) as error:
        raise _Unlabelled(str(error)) from error
    return mask


def _counted(
    store: Store, pair: PairInput, several: Sequence[LabelOptions], truth: ByteArray
) -> dict[tuple[Level, float | None], Counted]:
    """Counts of one pair by level and gamma."""
    dates, grid = stored_dates(store, pair)
    ground = ground_of(grid, pair.gsd_m)
    counts = {}
    for options in several:
        labels = labels_of(dates, options, ground)
        if truth.shape != labels.valid.shape:
            raise _Unlabelled(
                f"pair {pair.name}: expected a mask of {labels.valid.shape} pixels as the images "
                f"have, found {truth.shape}; cut it to their size"
            )
        true = np.where(labels.valid, truth, np.uint8(IGNORE))
        for level in LEVELS:
            change = labels.of(level)
            key = (level, None if level == "instance" else options.gamma)
            some = np.where(change == IGNORE, np.uint8(IGNORE), true)
            every = np.asarray(change == 1, np.uint8)
            counts[key] = count(every, true), count(every, some)
    return counts
