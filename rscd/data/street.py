"""Street-level sets: ChangeSim, PCD (TSUNAMI and GSV) and VL-CMU-CD.

Layouts and rules follow ``methods/scene.md`` section 9. In all of them the mask refers to the later
image, and the camera moved between the dates; none has flow.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rscd.base.errors import DataError
from rscd.base.files import by_stem, natural_key
from rscd.base.types import ByteArray, ShapeHW
from rscd.data.folder import Transform
from rscd.data.images import IMAGE_SUFFIXES, read_picture
from rscd.data.splits import Split
from rscd.data.street_base import StreetDataset, StreetPair, side_by_side

__all__ = ["PCD", "VLCMUCD", "ChangeSim", "StreetDataset", "StreetPair"]

log = logging.getLogger(__name__)

Polarity = Literal["white", "nonwhite", "auto"]
"""Stored values of change: 255, everything but 255, or whichever is rarer in the folder."""

CHANGESIM_COLOURS = {
    (0, 0, 0): 0,
    (81, 38, 0): 1,
    (41, 36, 132): 2,
    (25, 48, 16): 3,
    (131, 192, 13): 4,
}
"""RGB of ChangeSim's change maps to class: static, new, missing, rotated, replaced."""
CONDITIONS = {"normal": "", "dusty": "_dust", "dark": "_dark"}
CROP, STRIDE, WIDTH = 224, 56, 1024
"""PCD's crops in pixels: 15 windows of 224 x 224 along a panorama of 224 x 1024."""
FOLDS = 5


class ChangeSim(StreetDataset):
    """Simulated warehouses; images of 640 x 480, masks with four kinds of change.

    Training has Warehouse_0 to 5, test Warehouse_6 to 9. The published training set is the normal
    condition, 13 221 pairs; the test sets are about 4200 pairs per condition. Compare ``len`` with
    these: the papers do not state which sequences they used.
    """

    def __init__(
        self,
        root: Path | str,
        split: Literal["train", "test"] = "train",
        *,
        condition: Literal["normal", "dusty", "dark"] = "normal",
        sequences: Sequence[int] | None = None,
        max_pose_difference: float | None = None,
        keys: set[str] | frozenset[str] = frozenset({"image", "mask"}),
        size: ShapeHW | None = None,
        only: Mapping[str, Any] | None = None,
        transforms: Transform | None = None,
    ) -> None:
        """Find the pairs.

        Args:
            root: contains ``Query_Seq_Train`` and ``Query_Seq_Test``.
            split: train or test.
            condition: normal, dusty or dark.
            sequences: default 0 and 1 for training, 0 for test.
            max_pose_difference: skip pairs whose mean absolute difference of the seven pose numbers
                reaches this (the published loader uses 0.5 in training).
            keys: see :class:`StreetDataset`.
            size: see :class:`StreetDataset`.
            only: see :class:`StreetDataset`.
            transforms: see :class:`StreetDataset`.

        Raises:
            DataError: if nothing is found; the message states what was searched for and where.
        """
        self.unknown_colours = 0
        """Number of pixels of unknown colours read so far."""
        base = Path(root) / f"Query_Seq_{split.capitalize()}"
        chosen = sequences if sequences is not None else ((0, 1) if split == "train" else (0,))
        pairs: list[StreetPair] = []
        for folder in sorted(base.glob("Warehouse_*"), key=natural_key):
            for number in chosen:
                pairs += _changesim_pairs(folder / f"Seq_{number}{CONDITIONS[condition]}")
        if max_pose_difference is not None:
            pairs = [pair for pair in pairs if _pose_difference(pair) < max_pose_difference]
        if not pairs:
            raise DataError(
                f"{base}: no ChangeSim pairs; expected Warehouse_*/Seq_{{0,1}}"
                f"{CONDITIONS[condition]}/ with rgb/, t0/rgb/ and change_segmentation/; get the "
                "set from https://github.com/SAMMiCA/ChangeSim"
            )
        super().__init__(pairs, keys=keys, size=size, only=only, transforms=transforms)
        log.info(
            "ChangeSim %s %s, sequences %s: %d pairs, %d of them used",
            *(split, condition, chosen, len(pairs), len(self)),
        )

    def read_change(self, path: Path) -> ByteArray:
        """(H,W) uint8 class by colour; unknown colours become static and are counted."""
        colours = read_picture(path).pixels
        if len(colours) != 3:
            raise DataError(
                f"{path}: expected a colour image of classes, found {len(colours)} bands"
            )
        classes = np.zeros(colours.shape[1:], np.uint8)
        known = np.zeros(colours.shape[1:], bool)
        for colour, value in CHANGESIM_COLOURS.items():
            here = (colours == np.array(colour, np.uint8)[:, None, None]).all(axis=0)
            classes[here] = value
            known |= here
        unknown = int(np.count_nonzero(~known))
        if unknown:
            self.unknown_colours += unknown
            log.warning("%s: %d pixels of unknown colours are treated as static", path, unknown)
        return classes


class PCD(StreetDataset):
    """Panoramic change detection: the subsets TSUNAMI and GSV, 100 panoramas each.

    Each panorama of 224 x 1024 gives 60 crops: 15 windows of 224 x 224, 56 apart, in four
    quarter turns. Fold k of 5 tests panoramas 20k to 20k + 19 of each subset (for other numbers of
    panoramas: the k-th fifth), so that no panorama is on both sides. The training set contains both
    subsets; evaluate them separately (:attr:`subsets`).
    """

    def __init__(
        self,
        root: Path | str,
        split: Literal["train", "test", "all"] = "train",
        *,
        fold: int = 0,
        subsets: Sequence[str] = ("TSUNAMI", "GSV"),
        crops: bool = True,
        change_value: Polarity = "auto",
        keys: set[str] | frozenset[str] = frozenset({"image", "mask"}),
        size: ShapeHW | None = None,
        only: Mapping[str, Any] | None = None,
        transforms: Transform | None = None,
    ) -> None:
        """Find the pairs.

        Args:
            root: contains ``TSUNAMI`` and ``GSV`` with ``t0/ t1/`` and ``mask/`` or
                ``ground_truth/``; or the ready crops ``set0`` to ``set4`` with ``train`` and
                ``test``.
            split: train, test, or all panoramas regardless of the fold.
            fold: 0 to 4.
            subsets: TSUNAMI, GSV or both.
            crops: cut panoramas into 60 crops; ready crops are never cut again.
            change_value: stored values of change. ``auto`` decides per folder: change is the rarer
                of 255 and the rest, which is a guess; the choice is logged.
            keys: see :class:`StreetDataset`.
            size: see :class:`StreetDataset`.
            only: see :class:`StreetDataset`.
            transforms: see :class:`StreetDataset`.

        Raises:
            DataError: if nothing is found or the fold is not 0 to 4.
        """
        root = Path(root)
        ready = root / f"set{fold}"
        if ready.is_dir():
            pairs = _ready_crops(ready, split, subsets)
        else:
            pairs = _panoramas(root, split, fold, subsets)
            pairs = [crop for pair in pairs for crop in crops_of(pair)] if crops else pairs
        if not pairs:
            raise DataError(
                f"{root}: no PCD pairs; expected {', '.join(subsets)} with t0/ t1/ and mask/ or "
                f"ground_truth/, or set{fold}/train and test; get the set from "
                "https://kensakurada.github.io/pcd_dataset.html"
            )
        super().__init__(pairs, keys=keys, size=size, only=only, transforms=transforms)
        self.polarity = self._polarities(change_value) if self.needs_masks else {}
        """Values of change by mask folder."""

    @property
    def subsets(self) -> dict[str, tuple[int, ...]]:
        """Indices by subset, TSUNAMI and GSV, from folder or file name."""
        found: dict[str, list[int]] = {}
        for index, pair in enumerate(self.pairs):
            found.setdefault(_subset_of(pair.t1), []).append(index)
        return {name: tuple(indices) for name, indices in found.items()}

    def _polarities(self, change_value: Polarity) -> dict[Path, Literal["white", "nonwhite"]]:
        masks = (pair.mask for pair in self.pairs if pair.mask is not None)
        folders = dict.fromkeys(mask.parent for mask in masks)
        if change_value != "auto":
            return dict.fromkeys(folders, change_value)
        # of the whole folder: a few pairs, or those of a fold, may be changed for the most part
        found = {
            folder: detect_polarity(sorted(by_stem(folder, IMAGE_SUFFIXES).values()))
            for folder in folders
        }
        for folder, polarity in found.items():
            log.info("%s: change is %s", folder, polarity)
        return found

    def read_change(self, path: Path) -> ByteArray:
        """(H,W) uint8, 1 for change, by the polarity of the mask's folder."""
        white = read_picture(path).pixels[0] == 255
        return np.asarray(white if self.polarity[path.parent] == "white" else ~white, np.uint8)


class VLCMUCD(StreetDataset):
    """VL-CMU-CD: 152 street sequences, binary change; 933 training and 429 test pairs.

    Supports the prepared layout ``{train,test}/{t0,t1,mask}/`` (or ``gt``) and the raw layout
    ``raw/SSS/RGB/{1,2}_NN.png`` with ``raw/SSS/GT/gtNN.png``, which has no split.
    """

    def __init__(
        self,
        root: Path | str,
        split: Literal["train", "test", "all"] = "train",
        *,
        keys: set[str] | frozenset[str] = frozenset({"image", "mask"}),
        size: ShapeHW | None = None,
        only: Mapping[str, Any] | None = None,
        transforms: Transform | None = None,
    ) -> None:
        """Find the pairs.

        Args:
            root: the set's folder, or one with ``t0/ t1/ mask/`` directly (split ``all``).
            split: train or test of the prepared layout; all for the raw layout.
            keys: see :class:`StreetDataset`.
            size: see :class:`StreetDataset`.
            only: see :class:`StreetDataset`.
            transforms: see :class:`StreetDataset`.

        Raises:
            DataError: if nothing is found; the message states what was searched for and where.
        """
        root = Path(root)
        if split == "all":
            pairs = _raw_cmu(root / "raw") or side_by_side(root, _place)
        else:
            pairs = side_by_side(root / split, _place)
        if not pairs:
            raise DataError(
                f"{root}: no VL-CMU-CD pairs; expected {split}/ with t0/ t1/ mask/ (or gt/), and "
                "with split='all' raw/SSS/RGB and raw/SSS/GT; get the set from "
                "https://ghsi.github.io/proj/RSS2016.html"
            )
        super().__init__(pairs, keys=keys, size=size, only=only, transforms=transforms)


def crops_of(pair: StreetPair) -> list[StreetPair]:
    """The 60 crops of one panorama: 15 windows x 4 quarter turns."""
    return [
        replace(pair, name=f"{pair.name}_x{x:03d}_r{90 * turns:03d}", window=(x, CROP), turns=turns)
        for x in range(0, WIDTH - CROP + 1, STRIDE)
        for turns in range(4)
    ]


def fold_split(panoramas: Sequence[str], fold: int) -> Split:
    """Train and test panoramas of one of five folds, in the order of the names.

    Fold k tests positions k n / 5 to (k + 1) n / 5: 20 k to 20 k + 19 of 100.

    Raises:
        DataError: if the fold is not 0 to 4.
    """
    if fold not in range(FOLDS):
        raise DataError(f"fold is {fold}; PCD has folds 0 to {FOLDS - 1}")
    ordered = sorted(panoramas, key=natural_key)
    start, stop = (len(ordered) * k // FOLDS for k in (fold, fold + 1))
    parts = {"train": (*ordered[:start], *ordered[stop:]), "test": tuple(ordered[start:stop])}
    return Split(parts, f"fold {fold} of {FOLDS} by panorama")


def detect_polarity(masks: Sequence[Path]) -> Literal["white", "nonwhite"]:
    """Stored values of change, assuming that change is the smaller part of all masks together.

    PNG masks of PCD have 255 for change, the raw GSV bitmaps everything but 255. At most 100
    masks are read.
    """
    chosen = masks[:: -(-len(masks) // 100)]
    shares = [float((read_picture(path).pixels[0] == 255).mean()) for path in chosen]
    return "white" if np.mean(shares) < 0.5 else "nonwhite"


def _changesim_pairs(sequence: Path) -> list[StreetPair]:
    reference, masks = sequence / "t0" / "rgb", sequence / "change_segmentation"
    group = f"{sequence.parent.name}/{sequence.name}"
    pairs = []
    for query in sorted((sequence / "rgb").glob("*.png"), key=natural_key):
        files = (reference / query.name, masks / query.name)
        if not files[0].is_file():
            raise DataError(f"{files[0]}: the reference view of {query} is missing; add the file")
        mask = files[1] if files[1].is_file() else None
        pairs.append(StreetPair(f"{group}/{query.stem}", files[0], query, mask, group))
    return pairs


def _pose_difference(pair: StreetPair) -> float:
    """Mean absolute difference of the seven pose numbers of query and reference frame."""
    sequence = pair.t2.parent.parent
    index = sequence / "t0" / "idx" / f"{pair.t2.stem}.txt"
    try:
        frame = int(float(index.read_text(encoding="utf-8").split()[0]))
        own = np.loadtxt(sequence / "pose" / f"{pair.t2.stem}.txt").ravel()
        other = np.loadtxt(_reference_sequence(sequence) / "pose" / f"{frame}.txt").ravel()
    except (OSError, ValueError, IndexError) as error:
        raise DataError(
            f"{pair.t2}: poses cannot be read ({error}); do not filter by pose"
        ) from error
    return float(np.abs(own[:7] - other[:7]).mean())


def _reference_sequence(sequence: Path) -> Path:
    """The mapping run that a query sequence was matched with: same warehouse and number."""
    top = sequence.parents[1]
    number = sequence.name.split("_")[1]
    return top.with_name(top.name.replace("Query", "Ref")) / sequence.parent.name / f"Seq_{number}"


def _panoramas(root: Path, split: str, fold: int, subsets: Sequence[str]) -> list[StreetPair]:
    pairs: list[StreetPair] = []
    for subset in subsets:
        here = {pair.group: pair for pair in side_by_side(root / subset, str)}
        chosen = list(here) if split == "all" else fold_split(list(here), fold)[split]
        pairs += [
            replace(here[name], name=f"{subset}/{name}", group=f"{subset}/{name}")
            for name in chosen
        ]
    return pairs


def _ready_crops(root: Path, split: str, subsets: Sequence[str]) -> list[StreetPair]:
    splits = ("train", "test") if split == "all" else (split,)
    found = [pair for part in splits for pair in side_by_side(root / part, _panorama_of)]
    wanted = {subset.upper() for subset in subsets}
    return [pair for pair in found if _subset_of(pair.t1) in wanted]


def _raw_cmu(raw: Path) -> list[StreetPair]:
    pairs = []
    for sequence in sorted(raw.glob("*/RGB"), key=natural_key):
        place = sequence.parent
        for first in sorted(sequence.glob("1_*.png"), key=natural_key):
            number = first.stem.partition("_")[2]
            second, mask = sequence / f"2_{number}.png", place / "GT" / f"gt{number}.png"
            if not second.is_file():
                raise DataError(f"{second}: the later image of {first} is missing; add the file")
            found = mask if mask.is_file() else None
            pairs.append(StreetPair(f"{place.name}_{number}", first, second, found, place.name))
    return pairs


def _place(name: str) -> str:
    """The sequence of a VL-CMU-CD image: its name without the last number or word."""
    return name.rpartition("_")[0] or name


def _panorama_of(name: str) -> str:
    """The panorama of a ready crop, ``00000012_3`` or ``gsv_012_x056_r090``."""
    return re.sub(r"(_[xr]?\d+)+$", "", name) or name


def _subset_of(path: Path) -> str:
    """TSUNAMI or GSV, from the file name or else the innermost folder that tells."""
    for text in reversed(path.parts):
        for subset in ("TSUNAMI", "GSV"):
            if subset in text.upper():
                return subset
    return "PCD"
