"""Folders of image pairs as a TorchGeo dataset."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchgeo.datasets import NonGeoDataset

from rscd.base.errors import DataError
from rscd.base.types import IGNORE, BoolArray
from rscd.data.images import (
    Picture,
    Place,
    fill_invalid,
    read_mask,
    read_pair,
    read_picture,
    say_elsewhere,
)
from rscd.data.labels import image_label, labels_for, read_label_list
from rscd.data.layout import Folders, Layout, PairDir, find_layout, pair_name
from rscd.data.plotted import Plotted
from rscd.data.splits import read_split
from rscd.geo.labels import IGNORE_CODED, MaskRule

Sample = dict[str, Any]
Transform = Callable[[Sample], Sample]
OWN_KEYS = frozenset({"image", "mask", "label", "valid"})
KINDS = ("t1", "t2", "mask")
"""Files of a pair, by their names in `PairDir`."""
MOST_NAMED = 5
"""Most pairs without partner listed in a message."""


@dataclass(frozen=True)
class Layer:
    """An additional label map of each pair, such as a pseudo mask."""

    folder: str | Path
    """Folder of files with the pairs' names, relative to the folder of the dates."""
    values: MaskRule = field(default_factory=lambda: IGNORE_CODED)
    """How stored values become 0, 1 and 255; by default 255 is ignore, as in pseudo labels."""


@dataclass(frozen=True)
class PairFiles:
    """The files of one sample."""

    name: str
    t1: Path
    t2: Path
    mask: Path | None
    layers: Mapping[str, Path]
    base: Path
    """The folder that contains the dates and additional layers."""
    stem: str
    """File name in additional layers, without suffix."""
    part: str = ""
    """Its split folder, if the dataset has such."""

    @property
    def full(self) -> str:
        """Its name among the pairs of all split folders."""
        return f"{self.part}/{self.stem}" if self.part else self.stem


class PairFolder(Plotted, NonGeoDataset):
    """Pairs of images in folders, as TorchGeo samples.

    Understands ``A/ B/ label/`` with list files, ``train/val/test`` subfolders, and the folder
    names of WHU-CD, LEVIR-CD, DSIFN-CD, CDD, SYSU-CD and S2Looking; PNG, JPEG or GeoTIFF of any
    number of bands (see :func:`rscd.data.layout.find_layout`).

    A sample has exactly ``keys`` besides its ``name``, and with GeoTIFF ``crs``, ``bounds`` and
    ``transform``:

    * ``image`` (2,C,H,W) float32, raw values, t1 first, 0 where invalid;
    * ``mask`` (1,H,W) int64: 0 no change, 1 change, 255 ignore (also where a date is invalid);
    * ``label`` () int64: 1 if the pair has change;
    * ``valid`` (1,H,W) bool: usable at both dates;
    * any other key: a :class:`Layer`, (1,H,W) int64.

    Files are opened only for requested keys. In particular ``keys={"image", "label"}``
    never opens a mask: the labels come from a list.
    """

    def __init__(
        self,
        root: Path | str,
        split: str | None = None,
        *,
        keys: set[str] | frozenset[str] | None = None,
        names: Sequence[str] | None = None,
        split_file: Path | str | None = None,
        labels: Path | str | Mapping[str, int] | None = None,
        min_change_pixels: int = 1,
        mask_values: MaskRule = "strict",
        folders: Folders | None = None,
        layers: Mapping[str, Layer] | None = None,
        bands: Sequence[int] | None = None,
        transforms: Transform | None = None,
        mask_from: str | None = None,
    ) -> None:
        """Find the files; no image is opened, except the first pair if ``keys`` is not given.

        Args:
            root: the dataset's folder.
            split: a split folder, a list file ``list/SPLIT.txt``, or a prefix of the file names;
                None for all pairs.
            keys: keys of a sample; by default image, mask if there are masks, and valid if the
                first pair declares nodata.
            names: keep only these pairs, in this order (one part of a ``Split``).
            split_file: a ``Split`` on disk; ``split`` then names one of its parts.
            labels: list file ``NAME.png,0,0,L`` or labels by name; default
                ``list/SPLIT_label.txt``. Without a list, labels are counted from masks, but only if
                ``mask`` is a key as well.
            min_change_pixels: changed pixels from which a counted label is 1.
            mask_values: how stored label values are read.
            folders: folder names of t1, t2 and mask, if they are not known ones.
            layers: additional label maps by key; a key without an entry is a folder of that name.
                Values are 0, 1 and 255 = ignore unless the entry says otherwise.
            bands: 1-based bands to keep.
            transforms: applied to each sample.
            mask_from: folder beside the dates whose files are used as ``mask`` instead of the true
                ones, such as ``pseudo``, coded like ``layers``, or the path of a folder elsewhere
                written by ``rscd pseudolabel -o``; true masks are then never opened. None or
                ``true``: the label folder.

        Raises:
            DataError: if the folder, split, a partner file or a label is missing.
        """
        self.root = Path(root)
        self.split = split
        self.layout = find_layout(self.root, folders)
        self.mask_values = mask_values
        self.min_change_pixels = min_change_pixels
        self.bands = bands
        self.transforms = transforms
        self.layers = dict(layers or {})
        self.mask_from = None if mask_from == "true" else mask_from
        if split_file is not None:
            names = _part(split_file, split, names)
        found = self.layout.select(split if split_file is None else None)
        if names is not None:
            found = _only(self.layout, found, names)
        if not found:
            raise DataError(
                f"{self.root}: split {split!r} holds no pairs; check the lists and folders"
            )
        _check_partners(self.layout, found, KINDS[:2])
        self.keys = frozenset(keys) if keys is not None else self._default_keys(found)
        if "mask" in self.keys and self.mask_from is None:
            _check_partners(self.layout, found, KINDS[2:])
        # a part of a split file may hold pairs of one name in several folders
        alike = split_file is not None and len({name for _, name in found}) < len(found)
        folder = None if alike else split
        self.files = [self._files(part, name, folder) for part, name in found]
        self.labels = self._labels(labels)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        """Read one pair.

        Raises:
            DataError: if a file is damaged or the sizes of a pair differ, with the file's name.
        """
        files = self.files[index]
        sample: Sample = {"name": files.name}
        valid = self._add_images(sample, files) if self.keys & {"image", "valid"} else None
        place = Place(sample["crs"], sample["transform"]) if "transform" in sample else None
        if "mask" in self.keys and files.mask is not None:
            own = self.mask_from is None
            rule = self.mask_values if own else self._layer(str(self.mask_from)).values
            sample["mask"] = _labels_of(files.mask, rule, valid, place)
        for key, path in files.layers.items():
            rule = self._layer(key).values
            sample[key] = _labels_of(path, rule, valid, place)
        if "label" in self.keys:
            sample["label"] = torch.tensor(self._label(files, sample))
        return self.transforms(sample) if self.transforms is not None else sample

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the pairs, in the order of the indices."""
        return tuple(files.name for files in self.files)

    @property
    def eight_bit(self) -> bool:
        """Whether the first readable pair has 8-bit values."""
        for files in self.files:
            try:
                return all(
                    read_picture(path).pixels.dtype == np.uint8 for path in (files.t1, files.t2)
                )
            except DataError:
                continue  # the error is reported when that pair is read
        return True

    def _default_keys(self, found: list[tuple[str, str]]) -> frozenset[str]:
        part, name = found[0]
        here = self.layout.parts[part]
        keys = {"image"} | ({"mask"} if here.names[2] or self.mask_from else set())
        first = [read_picture(side[name]) for side in (here.t1, here.t2)]
        return frozenset(keys | ({"valid"} if any(p.valid is not None for p in first) else set()))

    def _files(self, part: str, name: str, folder: str | None) -> PairFiles:
        here = self.layout.parts[part]
        t1, t2 = here.t1[name], here.t2[name]
        mask = self._mask_file(here, name) if "mask" in self.keys else None
        layers = {
            key: _file_in(here.base / self._layer(key).folder, key, name)
            for key in sorted(self.keys - OWN_KEYS)
        }
        title = self.layout.title(part, name, folder)
        return PairFiles(title, t1, t2, mask, layers, here.base, name, part)

    def _mask_file(self, here: PairDir, name: str) -> Path:
        if self.mask_from is None:
            return here.mask[name]
        folder = here.base / self._layer(self.mask_from).folder
        elsewhere = Path(self.mask_from) / here.base.relative_to(self.root)
        named = Path(self.mask_from).name != self.mask_from or elsewhere.is_dir()
        if not folder.is_dir() and named:
            folder = elsewhere
        return _file_in(folder, self.mask_from, name)

    def _layer(self, key: str) -> Layer:
        return self.layers.get(key, Layer(key))

    def _labels(self, given: Path | str | Mapping[str, int] | None) -> dict[str, int]:
        if "label" not in self.keys:
            return {}
        if isinstance(given, Mapping):
            return self._by_name(given, "the given labels")
        path = Path(given) if given is not None else self.layout.label_lists.get(self.split or "")
        if path is not None:
            return self._by_name(read_label_list(path), str(path))
        if "mask" in self.keys:
            return {}
        raise DataError(
            f"{self.root}: image-level labels were requested without masks, and there is no list "
            f"list/{self.split or 'SPLIT'}_label.txt; give labels= (lines NAME.png,0,0,L)"
        )

    def _by_name(self, given: Mapping[str, int], source: str) -> dict[str, int]:
        """Labels of the pairs; a list of one split has bare names, others ``split/name``."""
        known: dict[str, int] = {}
        for text, label in given.items():
            name = self.layout.own_name(pair_name(text))
            if label not in (0, 1):
                raise DataError(
                    f"{source}: expected 0 or 1 for {name}, found {label!r}; correct it"
                )
            if known.setdefault(name, label) != label:
                raise DataError(f"{source}: {name} has both labels; keep one")
        keys = {f.name: f.full if f.full in known else f.stem for f in self.files}
        twice = [key for key, n in Counter(keys.values()).items() if n > 1 and key in known]
        if twice:
            raise DataError(
                f"{source}: expected labels of one pair each, found {twice[0]!r} in several "
                f"splits; write the split before the name, such as {self.files[0].full}"
            )
        found = labels_for(known, keys.values(), source)
        return {name: found[key] for name, key in keys.items()}

    def _label(self, files: PairFiles, sample: Sample) -> int:
        if self.labels:
            return self.labels[files.name]
        return image_label(sample["mask"].numpy(), self.min_change_pixels, IGNORE)

    def _add_images(self, sample: Sample, files: PairFiles) -> BoolArray:
        """Add image, valid and georeferencing; return (H,W) validity at both dates."""
        first, second = read_pair(files.t1, files.t2, self.bands)
        if first.pixels.shape != second.pixels.shape:
            raise DataError(
                f"{files.t2}: (bands, height, width) is {second.pixels.shape}, t1 has "
                f"{first.pixels.shape}; make both dates one size"
            )
        say_elsewhere(files.t2, second.place, first.place, first.shape_hw)
        valid = _valid_at_both(first, second)
        if "image" in self.keys:
            sample["image"] = stack_dates(first, second)
        if "valid" in self.keys:
            sample["valid"] = torch.from_numpy(valid[None])
        if first.transform is not None:
            georeferencing = {"crs": first.crs, "bounds": first.bounds}
            sample.update(georeferencing, transform=first.transform)
        return valid


def _file_in(folder: Path, key: str, name: str) -> Path:
    for suffix in (".png", ".tif", ".tiff"):
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    raise DataError(
        f"{folder}: no {name}.png or .tif for the key {key!r}; create the layer, or name its "
        "folder with layers="
    )


def stack_dates(first: Picture, second: Picture) -> Tensor:
    """(2,C,H,W) float32 of two images of one shape, t1 first, 0 where a date is invalid."""
    image = np.empty((2, *first.pixels.shape), np.float32)
    for side, picture in zip(image, (first, second), strict=True):
        # fast path for the common case: one conversion, no temporary
        side[...] = picture.pixels if picture.valid is None else fill_invalid(picture)
    return torch.from_numpy(image)


def _check_partners(layout: Layout, found: Sequence[tuple[str, str]], kinds: Sequence[str]) -> None:
    """Raise DataError, with the names, where files of some kinds (t1, t2, mask) are missing."""
    for kind in kinds:
        alone = [(p, name) for p, name in found if name not in getattr(layout.parts[p], kind)]
        if not alone:
            continue
        names = [repr(layout.title(part, name)) for part, name in alone[:MOST_NAMED]]
        more = f" and {len(alone) - MOST_NAMED} more" if len(alone) > MOST_NAMED else ""
        nor = f", nor have {', '.join(names[1:])}{more}" if len(alone) > 1 else ""
        here = layout.parts[alone[0][0]]
        folder = here.names[KINDS.index(kind)] or "a label folder such as label/"
        raise DataError(
            f"{here.base}: pair {names[0]} has no {kind} file{nor} (looked in {folder}); add the "
            f"files or remove the pairs (or, in Python and configurations, omit the key {kind})"
        )


def _part(split_file: Path | str, split: str | None, names: Sequence[str] | None) -> Sequence[str]:
    if split is None or names is not None:
        raise DataError(
            f"expected split to name a part of {split_file}, and no names beside it; correct both"
        )
    return read_split(split_file)[split]


def _only(
    layout: Layout, found: Sequence[tuple[str, str]], names: Sequence[str]
) -> list[tuple[str, str]]:
    chosen = set(found)
    meant = {name: [pair for pair in layout.places(name) if pair in chosen] for name in names}
    missing = [name for name in names if not meant[name]]
    if missing:
        raise DataError(
            f"{layout.root}: {len(missing)} of {len(names)} named pairs do not exist, first "
            f"{missing[0]!r}; the split belongs to another dataset"
        )
    for name, pairs in meant.items():
        if len(pairs) > 1:
            parts = ", ".join(part for part, _ in pairs)
            raise DataError(
                f"{layout.root}: expected names of one pair each, found {name!r} in {parts}; write "
                f"{'/'.join(pairs[0])}, or whichever is meant"
            )
    return [meant[name][0] for name in names]


def _valid_at_both(first: Picture, second: Picture) -> BoolArray:
    valid = np.ones(first.shape_hw, bool)
    for picture in (first, second):
        if picture.valid is not None:
            valid &= picture.valid
    return valid


def _labels_of(path: Path, rule: MaskRule, valid: BoolArray | None, like: Place | None) -> Tensor:
    """(1,H,W) int64 of a label file, 255 where the images are not valid."""
    mask = read_mask(path, rule, like)
    if valid is not None:
        if mask.shape != valid.shape:
            raise DataError(
                f"{path}: the mask is {mask.shape[0]} x {mask.shape[1]} pixels (height x width), "
                f"the images are {valid.shape[0]} x {valid.shape[1]}; cut it to the images' size"
            )
        mask[~valid] = IGNORE
    return torch.from_numpy(mask[None].astype(np.int64))
