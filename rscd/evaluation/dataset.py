"""A model on a labelled split: each pair is predicted as a small scene, counts are pooled."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch

from rscd.data.folder import PairFolder
from rscd.data.images import MaskRule
from rscd.errors import DataError, RscdError
from rscd.evaluation.judge import Scratch, only_counted
from rscd.evaluation.report import Pixels, Probabilities, Report, Sample, pooled
from rscd.evaluation.sheet import Row
from rscd.geo.changemap import binarise
from rscd.geo.scene import ScenePair
from rscd.geo.tiles import Box, batches, plan_tiles, reflect
from rscd.inference.predictor import Model
from rscd.inference.shipped import SceneFacts
from rscd.inference.tiled import fit_model, run_block
from rscd.metrics import ChangeMetrics, count
from rscd.objects import ObjectCounts
from rscd.types import IGNORE, BoolArray, ByteArray, FloatArray, Progress, ShapeHW, silent


@dataclass(frozen=True)
class MemoryPair:
    """Two dates in memory, read by boxes as a whole `rscd.geo.scene.ScenePair` is."""

    image: FloatArray
    """(2,C,H,W) raw values, 0 where not valid."""
    valid: BoolArray
    """(H,W) usable at both dates."""

    @property
    def shape_hw(self) -> ShapeHW:
        """(height, width) in pixels."""
        return self.valid.shape[0], self.valid.shape[1]

    @property
    def whole(self) -> "MemoryPair":
        """There is no part of it."""
        return self

    def inside(self, box: Box) -> BoolArray:
        """(h,w) true: all of it is asked for."""
        return np.ones(box.shape_hw, bool)

    def context(self, box: Box) -> tuple[FloatArray, BoolArray]:
        """The same as `read`: there is nothing around it."""
        return self.read(box)

    def read(self, box: Box) -> tuple[FloatArray, BoolArray]:
        """Raw values and validity of a box; beyond the edges reflected and not valid."""
        height, width = self.shape_hw
        rows = np.arange(box.row, box.row + box.height)
        cols = np.arange(box.col, box.col + box.width)
        place = (
            reflect(box.row, box.row + box.height, height)[:, None],
            reflect(box.col, box.col + box.width, width),
        )
        inside = ((rows >= 0) & (rows < height))[:, None] & ((cols >= 0) & (cols < width))
        image = np.ascontiguousarray(self.image[:, :, place[0], place[1]])
        return image, self.valid[place] & inside


def predict_pair(
    model: Model, image: FloatArray, valid: BoolArray, batch_size: int | None = None
) -> tuple[FloatArray, float]:
    """Predict one pair by the road that scenes take: fitted to it, tile by tile.

    Args:
        model: fitted to this pair alone.
        image: (2,C,H,W) raw values.
        valid: (H,W) usable at both dates.
        batch_size: tiles per call; default the model's.

    Returns:
        (H,W) float32 probability, NaN where not valid; and the model's threshold.
    """
    # of this the engine asks for what `MemoryPair` has, which plans its tiles itself
    pair = cast(ScenePair, MemoryPair(image, valid))
    predictor = fit_model(pair, model)
    tiling = predictor.tiling
    tiles = plan_tiles(valid.shape, tiling.tile_size, tiling.halo, tiling.multiple)
    prob = np.full(valid.shape, np.nan, np.float32)
    for group in batches(tiles, batch_size or tiling.batch_size):
        for tile, piece in run_block(pair, predictor, group):
            own = tile.write
            prob[own.row : own.row + own.height, own.col : own.col + own.width] = piece
    return prob, predictor.threshold


def labelled_folder(
    root: str | Path,
    split: str | None,
    mask_values: MaskRule = "strict",
    bands: Sequence[int] | None = None,
) -> PairFolder:
    """The pairs of a split, as they are evaluated; see `Split.open`."""
    keys = {"image", "mask", "valid"}
    return PairFolder(root, split, keys=keys, mask_values=mask_values, bands=bands)


class LabelledPairs(Protocol):
    """What is evaluated: samples with ``image``, ``mask`` and ``valid``, by number."""

    @property
    def eight_bit(self) -> bool:
        """Whether the dates hold 8-bit values."""

    @property
    def root(self) -> Path:
        """Where they lie."""

    @property
    def split(self) -> str | None:
        """Which of them; None for all."""

    @property
    def names(self) -> Sequence[str]:
        """Of the pairs."""

    def __len__(self) -> int:
        """Number of pairs."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read one pair."""


def facts(data: LabelledPairs, gsd_m: float | None) -> SceneFacts:
    """What is known of the pairs of a folder; they count as images without georeferencing."""
    n_bands = int(data[0]["image"].shape[1])
    return SceneFacts(n_bands, gsd_m, georeferenced=False, eight_bit=data.eight_bit)


@dataclass(frozen=True)
class Split:
    """A labelled split and the model on trial."""

    data: LabelledPairs
    model: Model
    threshold: float | None
    """Instead of the model's own."""
    conditions: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Numbers of pairs whose counts are also given apart, by name."""

    @classmethod
    def open(
        cls,
        root: str | Path,
        split: str | None,
        model: Model,
        *,
        threshold: float | None = None,
        mask_values: MaskRule = "strict",
        bands: Sequence[int] | None = None,
    ) -> "Split":
        """Find the pairs.

        Args:
            root: a folder of image pairs with masks.
            split: one split; None for all pairs.
            model: what predicts.
            threshold: probability at or above which a pixel is change; default the model's own.
            mask_values: how stored labels are read.
            bands: 1-based bands to use.

        Raises:
            DataError: no such folder, split or masks.
        """
        return cls(labelled_folder(root, split, mask_values, bands), model, threshold)

    def predict(self, index: int) -> tuple[dict[str, Any], FloatArray, float]:
        """One sample, its (H,W) probabilities and the threshold that counts."""
        sample = self.data[index]
        try:
            prob, own = predict_pair(
                self.model, sample["image"].numpy(), sample["valid"][0].numpy()
            )
        except RscdError as error:
            raise type(error)(f"pair {sample['name']}: {error}") from error
        return sample, prob, own if self.threshold is None else self.threshold

    def row(self, sample: Sample) -> Row:
        """What a sheet shows of a sample: predicted once more, nothing was kept."""
        found, prob, threshold = self.predict(sample.index)
        predicted, true = only_counted(binarise(prob, threshold), _mask(found))
        return Row(found["image"].numpy(), predicted, true)


def evaluate_split(split: Split, progress: Progress = silent) -> Report:
    """Predict every pair of a split and pool the counts.

    Args:
        split: pairs and model.
        progress: told after each pair.

    Raises:
        DataError: a pair that cannot be read, or no labelled pixel in the whole split.
        ModelError: bands that do not fit the model.
    """
    samples: list[Sample] = []
    objects = ObjectCounts()
    unlabelled = 0
    thresholds: set[float] = set()
    metrics = ChangeMetrics()
    with tempfile.TemporaryDirectory(prefix="rscd-") as folder:
        for index, name in enumerate(split.data.names):
            found, prob, threshold = split.predict(index)
            predicted, true = only_counted(binarise(prob, threshold), _mask(found))
            metrics.update(torch.from_numpy(np.nan_to_num(prob)), torch.from_numpy(true))
            samples.append(Sample(name, index, count(predicted, true)))
            objects += _objects(Path(folder), predicted, true)
            unlabelled += int(np.count_nonzero(true == IGNORE))
            thresholds.add(threshold)
            progress("pairs", index + 1, len(split.data))
    counts = pooled(samples)
    if sum(counts.true) == 0:
        raise DataError(
            f"expected labelled pixels in {split.data.root}, found none in {len(samples)} pairs; "
            "check --unlabelled and the masks"
        )
    return Report(
        subject=_subject(split, samples),
        threshold=thresholds.pop() if len(thresholds) == 1 else None,
        counts=counts,
        pixels=Pixels(sum(counts.true), unlabelled, 0),
        objects=objects,
        samples=samples,
        probabilities=Probabilities.of(metrics),
        area_m2=None,
        conditions={
            name: pooled(samples[index] for index in indices)
            for name, indices in split.conditions.items()
        },
    )


def mask_rule(change: Sequence[int], unlabelled: Sequence[int]) -> MaskRule:
    """The rule for stored labels that names the values of change and of pixels without label.

    Args:
        change: all other values mean no change; empty for the strict rule.
        unlabelled: likewise with 0 as no change and 255 or 1 as change where ``change`` is empty.
    """
    if not change and not unlabelled:
        return "strict"
    rule: Mapping[int, int] = {
        **(dict.fromkeys(range(256), 0) if change else {0: 0, 1: 1, 255: 1}),
        **dict.fromkeys(change, 1),
        **dict.fromkeys(unlabelled, IGNORE),
    }
    return rule


def _objects(folder: Path, predicted: ByteArray, true: ByteArray) -> ObjectCounts:
    height, width = true.shape
    scratch = Scratch.create(folder, (height, width))
    scratch.write(Box(0, 0, height, width), predicted, true)
    return scratch.objects()


def _mask(sample: Mapping[str, Any]) -> ByteArray:
    mask: ByteArray = sample["mask"][0].numpy().astype(np.uint8)
    return mask


def _subject(split: Split, samples: Sequence[Sample]) -> dict[str, Any]:
    return {
        "dataset": str(split.data.root),
        "split": split.data.split or "all",
        "pairs": len(samples),
        "model": split.model.name,
    }
