"""Base of the street-level sets: pairs of files, samples, folders side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchgeo.datasets import NonGeoDataset

from rscd.base.arguments import check_names, made
from rscd.base.errors import DataError
from rscd.base.files import by_stem, natural_key
from rscd.base.types import ByteArray, ShapeHW
from rscd.data.folder import Sample, Transform, stack_dates
from rscd.data.images import IMAGE_SUFFIXES, Picture, read_label_values, read_picture
from rscd.data.plotted import Plotted
from rscd.data.splits import Subset

MASK_FOLDERS = ("mask", "gt", "ground_truth")
OWN_KEYS = frozenset({"image", "mask", "label", "classes", "flow", "use_flow"})


@dataclass(frozen=True)
class StreetPair:
    """The files of one sample, and the part of them to use."""

    name: str
    t1: Path
    t2: Path
    mask: Path | None
    group: str
    """Sequence, panorama or condition; evaluation and splits keep groups together."""
    window: tuple[int, int] | None = None
    """Left edge and side of a square crop, pixels; None for the whole image."""
    turns: int = 0
    """Quarter turns counter-clockwise after cropping."""


class StreetDataset(Plotted, NonGeoDataset):
    """Pairs of street images as TorchGeo samples; the subclasses find the files.

    A sample has ``name`` and ``keys``:

    * ``image`` (2,3,H,W) float32 raw values, reference first;
    * ``mask`` (1,H,W) int64, 0 or 1, on the grid of t2;
    * ``label`` () int64: 1 if anything changed;
    * ``classes`` (1,H,W) int64 change classes, ChangeSim only;
    * ``flow`` (2,H,W) zeros and ``use_flow`` () float32 0: these sets have no flow.
    """

    def __init__(
        self,
        pairs: Sequence[StreetPair],
        *,
        keys: set[str] | frozenset[str] = frozenset({"image", "mask"}),
        size: ShapeHW | None = None,
        only: Mapping[str, Any] | None = None,
        transforms: Transform | None = None,
    ) -> None:
        """Store the pairs.

        Args:
            pairs: files of the samples.
            keys: keys of a sample besides its name; without ``mask``, ``label`` and ``classes`` no
                mask is opened.
            size: (height, width) to resize to, images bilinear, masks nearest.
            only: fields of :class:`rscd.data.splits.Subset`: the pairs to keep, by name, such as
                ``{percent: 10}`` or ``{split_file: split.json, part: labeled}``.
            transforms: applied to each sample.

        Raises:
            DataError: if a key is unknown, a mask is missing, or a chosen pair does not exist.
        """
        check_names(keys, sorted(OWN_KEYS), "keys of street sets", DataError)
        self.pairs = tuple(pairs)
        if only is not None:
            self.keep(made(Subset, only, "only"))
        self.keys = frozenset(keys)
        self.size = size
        self.transforms = transforms
        bare = [pair.name for pair in pairs if pair.mask is None]
        if bare and self.needs_masks:
            raise DataError(f"masks missing: {len(bare)}, first of {bare[0]!r}; add the files")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample.

        Raises:
            DataError: if a file is damaged or the sizes of a pair differ.
        """
        pair = self.pairs[index]
        sample: Sample = {"name": pair.name}
        shape = None
        if self.keys & {"image", "flow"}:
            first, second = (self._picture(path, pair) for path in (pair.t1, pair.t2))
            if first.pixels.shape != second.pixels.shape:
                raise DataError(
                    f"{pair.t2}: (bands, height, width) is {second.pixels.shape}, t1 has "
                    f"{first.pixels.shape}; make both one size, or give size="
                )
            shape = first.shape_hw
            sample |= self._from_images(first, second)
        if self.keys & {"flow", "use_flow"}:
            sample["use_flow"] = torch.tensor(0.0)
        if pair.mask is not None and self.needs_masks:
            sample |= self._from_mask(pair.mask, pair, shape)
        return self.transforms(sample) if self.transforms is not None else sample

    def keep(self, subset: Subset) -> None:
        """Drop all pairs but some.

        Raises:
            DataError: if one of them does not exist.
        """
        by_name = {pair.name: pair for pair in self.pairs}
        self.pairs = tuple(by_name[name] for name in subset.of(self.names))

    @property
    def needs_masks(self) -> bool:
        """True if a key is read from masks; otherwise no mask is opened."""
        return bool(self.keys & {"mask", "label", "classes"})

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the samples, in the order of the indices."""
        return tuple(pair.name for pair in self.pairs)

    def read_change(self, path: Path) -> ByteArray:
        """(H,W) uint8 change class of a mask file, 0 for static; subclasses define the coding."""
        return np.asarray(read_label_values(path) != 0, np.uint8)

    def _picture(self, path: Path, pair: StreetPair) -> Picture:
        pixels = _crop(read_picture(path).pixels, pair)
        if self.size is not None:
            pixels = _resized(pixels, self.size, cv2.INTER_LINEAR)
        return Picture(pixels, None)

    def _from_images(self, first: Picture, second: Picture) -> Sample:
        sample: Sample = {}
        if "image" in self.keys:
            sample["image"] = stack_dates(first, second)
        if "flow" in self.keys:
            sample["flow"] = torch.zeros(2, *first.shape_hw)
        return sample

    def _from_mask(self, path: Path, pair: StreetPair, shape: ShapeHW | None) -> Sample:
        classes = _crop(self.read_change(path)[None], pair)
        if self.size is not None:
            classes = _resized(classes, self.size, cv2.INTER_NEAREST)
        if shape is not None and classes.shape[1:] != shape:
            raise DataError(
                f"{path}: the mask is {classes.shape[1]} x {classes.shape[2]} pixels (height x "
                f"width), the images are {shape[0]} x {shape[1]}; give size="
            )
        change = torch.from_numpy(np.ascontiguousarray(classes)).to(torch.int64)
        found = {"mask": (change > 0).long(), "label": (change > 0).any().long(), "classes": change}
        return {key: value for key, value in found.items() if key in self.keys}


def side_by_side(base: Path, group: Callable[[str], str]) -> list[StreetPair]:
    """Pairs of ``t0/`` and ``t1/`` with ``mask/``, ``gt/`` or ``ground_truth/``."""
    if not (base / "t0").is_dir() or not (base / "t1").is_dir():
        return []
    folders = [base / name for name in MASK_FOLDERS if (base / name).is_dir()]
    masks = by_stem(folders[0], IMAGE_SUFFIXES) if folders else {}
    later = by_stem(base / "t1", IMAGE_SUFFIXES)
    earlier = by_stem(base / "t0", IMAGE_SUFFIXES)
    for folder, other, names in (
        ("t1", "t0", earlier.keys() - later.keys()),
        ("t0", "t1", later.keys() - earlier.keys()),
    ):
        if names:
            raise DataError(
                f"{base / folder}: no image {min(names)!r} beside {other}; complete the set"
            )
    pairs = []
    for name in sorted(earlier, key=natural_key):
        found = earlier[name], later[name], masks.get(name)
        pairs.append(StreetPair(name, *found, group(name)))
    return pairs


def _resized(pixels: NDArray[Any], size: ShapeHW, how: int) -> NDArray[Any]:
    channels = [cv2.resize(np.ascontiguousarray(c), size[::-1], interpolation=how) for c in pixels]
    return np.stack(channels)


def _crop(pixels: NDArray[Any], pair: StreetPair) -> NDArray[Any]:
    """The window and rotation of (C,H,W) that the pair specifies."""
    if pair.window is None:
        return pixels
    left, side = pair.window
    _, height, width = pixels.shape
    if height != side or width < left + side:
        raise DataError(
            f"{pair.t1}: crops need images {side} pixels high and at least {left + side} wide, "
            f"found {width} x {height}; pass crops=False"
        )
    return np.rot90(pixels[:, :, left : left + side], pair.turns, axes=(1, 2))
