"""Synthetic towns with labels as from a vision-language model.

No files, no model: a `FakeSegmenter` with given faults segments the town's land cover, and change
events are derived from its output. The same index gives the same town with the same faults.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from rscd.base.arguments import made
from rscd.base.errors import DataError, UsageError
from rscd.base.types import LAYERS, ByteArray, FloatArray
from rscd.events.pixels import ChangeLabels, Level, change_labels
from rscd.segmenters.fake import FakeSegmenter, Faults
from rscd.segmenters.prompts import parse_prompts
from rscd.segmenters.segmenter import View
from rscd.synthetic.town_pairs import TownPairs
from rscd.synthetic.towns import LAND_COVER

Sample = dict[str, Any]

COVERS: Mapping[str, tuple[str, ...]] = {
    "building": ("building",),
    "road": ("road", "paved"),
    "grass": ("grass", "crop"),
    "tree": ("tree",),
    "water": ("water",),
    "bare": ("bare",),
}
"""Kinds of land cover by prompt, foreground first."""


FAULTS = {
    "missed": 0.15,
    "invented": 0.1,
    "ragged_px": 1.0,
    "shift_px": 1.0,
    "confidence": 0.93,
    "doubt": 0.08,
}
"""Faults of a good but imperfect segmenter."""


class GuidedTowns(Dataset[Sample]):
    """`TownPairs` with ``vl_change``, ``vl_t1`` and ``vl_t2``, (1,H,W) int64 of 0, 1 and 255."""

    def __init__(
        self,
        towns: Mapping[str, Any] | None = None,
        *,
        faults: Mapping[str, float] | None = None,
        gamma: float = 0.8,
        change: Level = "mixed",
        keys: Sequence[str] = ("image", "mask", *LAYERS),
    ) -> None:
        """Check the parameters; towns are generated on access.

        Args:
            towns: arguments of `TownPairs` except ``keys``.
            faults: fields of `rscd.segmenters.fake.Faults` that override `FAULTS`.
            gamma: probability from which a pixel is reliable; others are 255.
            change: level of ``vl_change``: ``mixed`` uses flips within whole objects that appeared
                or vanished, ``pixel`` all flips.
            keys: keys of a sample: these layers and keys of `TownPairs`.

        Raises:
            DataError: for unknown parameters or keys.
        """
        own = {key for key in keys if key not in LAYERS}
        guided = {"land_cover"} if len(own) < len(set(keys)) else set()
        self.keys = frozenset(keys)
        self.towns = TownPairs(**(towns or {}), keys=own | guided)
        self.gamma = gamma
        self.change = change
        try:
            self.faults = made(Faults, FAULTS | dict(faults or {}), "faults")
        except UsageError as error:
            text = str(error).removeprefix("faults: ")
            raise DataError(f"faults: {text}; correct the configuration") from error

    @property
    def endless(self) -> bool:
        """Whether indices beyond the length are valid."""
        return self.towns.endless

    def __len__(self) -> int:
        return len(self.towns)

    def __getitem__(self, index: int) -> Sample:
        """Town ``index`` with its labels."""
        sample = self.towns[index]
        if self.keys.isdisjoint(LAYERS):
            return sample
        cover = sample["land_cover"].numpy().astype(np.uint8)
        seen = seen_labels(cover, sample["name"], self.faults, self.gamma)
        change = seen.of(self.change)
        maps = zip(LAYERS, (change, seen.seg1, seen.seg2), strict=True)
        sample |= {key: torch.from_numpy(value[None].astype(np.int64)) for key, value in maps}
        if "land_cover" not in self.keys:
            del sample["land_cover"]
        return sample


def seen_labels(cover: ByteArray, name: str, faults: Faults, gamma: float) -> ChangeLabels:
    """Labels that a segmenter with faults gives for known land cover.

    Args:
        cover: (2,H,W), values of `rscd.synthetic.towns.LAND_COVER` at t1 and t2.
        name: of the pair; together with the faults' seed it determines the faults.
        faults: how bad the segmenter is.
        gamma: see `rscd.events.pixels.change_labels`.
    """
    planes = {"t1": _planes(cover[0]), "t2": _planes(cover[1])}
    fake = FakeSegmenter(lambda view, _: planes[view.date], faults)
    blank = np.zeros((*cover.shape[1:], 3), np.uint8)
    views = [View(blank, name, "t1"), View(blank, name, "t2")]
    front, *behind = COVERS
    first, second = fake.predict(views, parse_prompts(front, ",".join(behind)))
    return change_labels(first, second, gamma=gamma)


def _planes(cover: ByteArray) -> FloatArray:
    """(C,H,W): 1 where the land cover is that of the prompt."""
    found = [np.isin(cover, [LAND_COVER[kind] for kind in kinds]) for kinds in COVERS.values()]
    return np.stack(found).astype(np.float32)
