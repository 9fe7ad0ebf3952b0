"""TorchGeo's own change-detection datasets behind one function.

The classes are used unchanged, including their downloads. If a set's mask contains classes, or
lacks its leading dimension, TorchGeo's ``transforms`` hook converts it to the common sample.

These classes open every mask. For training without masks use the same folder with
:class:`rscd.data.folder.PairFolder`, which reads the unpacked LEVIR-CD and LEVIR-CD+.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torchgeo.datasets import NonGeoDataset

from rscd.base.errors import DataError
from rscd.base.types import IGNORE
from rscd.data.compat import (
    DatasetNotFoundError,
    DependencyNotFoundError,
    SampleTransform,
    dataset_class,
)
from rscd.data.labels import image_label


@dataclass(frozen=True)
class TorchGeoSet:
    """Facts about one of TorchGeo's datasets."""

    classes: tuple[str, ...]
    """Class names, newest first."""
    splits: tuple[str, ...]
    looked_for: str
    """Folders or archives expected under the root."""
    source: str
    """Source of the data."""
    downloads: bool = True
    """False if the licence requires a manual download."""
    first_change: int | None = None
    """Lowest class that is change; None if the mask already is 0/1."""


SETS: dict[str, TorchGeoSet] = {
    "levir-cd": TorchGeoSet(
        ("LEVIRCD",),
        ("train", "val", "test"),
        "A/ B/ label/ with train_*.png, val_*.png, test_*.png",
        "https://justchenhao.github.io/LEVIR/",
    ),
    "levir-cd+": TorchGeoSet(
        ("LEVIRCDPlus",),
        ("train", "test"),
        "LEVIR-CD+/train and LEVIR-CD+/test with A/ B/ label/",
        "https://github.com/S2Looking/Dataset",
    ),
    "oscd": TorchGeoSet(
        ("OSCD",),
        ("train", "test"),
        "'Onera Satellite Change Detection dataset - Images' and '... Train Labels', "
        "'... Test Labels', or their .zip archives",
        "https://rcdaudt.github.io/oscd/",
    ),
    "oscd100": TorchGeoSet(
        ("OSCD100",),
        ("train", "val", "test"),
        "the folders of OSCD with 100 patches",
        "https://huggingface.co/datasets/hkristen/oscd100",
    ),
    "xbd": TorchGeoSet(
        ("xBD", "XView2"),
        ("train", "test"),
        "train/ and test/ with images/ targets/, or train_images_labels_targets.tar.gz and "
        "test_images_labels_targets.tar.gz",
        "https://xview2.org/dataset (registration)",
        downloads=False,
        # TorchGeo subtracts the building mask before the event from the damage classes after it:
        # 0 is undamaged or no building, 1 to 3 are minor, major, destroyed
        first_change=1,
    ),
    "bright": TorchGeoSet(
        ("BRIGHTDFC2025",),
        ("train", "val", "test"),
        "dfc25_track2_trainval/ or its .zip archive",
        "https://huggingface.co/datasets/isaaccorley/bright",
        first_change=2,  # 1 is intact, 2 damaged, 3 destroyed
    ),
    "chabud": TorchGeoSet(
        ("ChaBuD",),
        ("train", "val"),
        "train_eval.hdf5",
        "https://huggingface.co/datasets/chabud-team/chabud-ecml-pkdd2023",
    ),
    "cabuar": TorchGeoSet(
        ("CaBuAr",),
        ("train", "val", "test"),
        "512x512.hdf5 and chabud_test.h5",
        "https://huggingface.co/datasets/DarthReca/california_burned_areas",
    ),
}
ALIASES = {
    "xview2": "xbd",
    "levircd": "levir-cd",
    "levircd+": "levir-cd+",
    "levir-cd-plus": "levir-cd+",
}


@dataclass(frozen=True)
class CommonSample:
    """Converts one of TorchGeo's samples to the common one: mask (1,H,W) of 0 and 1, and label."""

    first_change: int | None
    then: Callable[[dict[str, Any]], dict[str, Any]] | None
    min_change_pixels: int = 1

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Convert the sample, then apply the user's transform."""
        mask = sample.get("mask")
        if mask is not None:
            mask = mask if mask.ndim == 3 else mask[None]
            if self.first_change is not None:
                mask = mask >= self.first_change
            sample["mask"] = mask.to(torch.int64)
            changed = image_label(sample["mask"].numpy(), self.min_change_pixels, IGNORE)
            sample["label"] = torch.tensor(changed)
        return self.then(sample) if self.then is not None else sample


def torchgeo_dataset(
    name: str,
    root: Path | str,
    split: str = "train",
    *,
    download: bool = False,
    checksum: bool = True,
    min_change_pixels: int = 1,
    transforms: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    **options: Any,
) -> NonGeoDataset:
    """Open one of TorchGeo's change-detection datasets.

    Args:
        name: a key of :data:`SETS`: levir-cd, levir-cd+, oscd, oscd100, xbd, bright, chabud or
            cabuar.
        root: folder that contains the dataset, or will.
        split: one of the set's splits.
        download: fetch the dataset with TorchGeo's code if it is missing.
        checksum: verify downloaded archives.
        min_change_pixels: changed pixels from which ``label`` is 1.
        transforms: applied to each sample.
        **options: further arguments of the TorchGeo class, such as ``bands`` of OSCD.

    Returns:
        TorchGeo's dataset; samples have ``image`` (2,C,H,W) float32, ``mask`` (1,H,W) int64 with 1
        where something changed, and ``label`` () int64, 1 if anything did.

    Raises:
        DataError: if the set or split is unknown, the data are missing (stating what was searched
            for, where, and how to get it), or the download fails.
    """
    key = ALIASES.get(name.lower(), name.lower())
    if key not in SETS:
        raise DataError(f"no TorchGeo set {name!r}; known are {', '.join(SETS)}")
    known = SETS[key]
    if split not in known.splits:
        raise DataError(f"{key} has no split {split!r}; it has {', '.join(known.splits)}")
    if download and not known.downloads:
        raise DataError(
            f"{key} cannot be downloaded automatically; get it from {known.source} and unpack "
            f"it so that {root} contains {known.looked_for}"
        )
    arguments = {"root": str(root), "split": split, "checksum": checksum, **options}
    arguments |= {"download": download} if known.downloads else {}
    common = CommonSample(known.first_change, transforms, min_change_pixels)
    dataset = dataset_class(known.classes)
    try:
        return dataset(**arguments, transforms=SampleTransform(common))
    except DatasetNotFoundError as error:
        raise DataError(_missing(key, known, root)) from error
    except DependencyNotFoundError as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{key} needs another package: {reason}") from error
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{key}: could not be fetched or unpacked in {root} ({' '.join(str(error).split())}); "
            f"try again, or get it from {known.source} by hand"
        ) from error


def _missing(key: str, known: TorchGeoSet, root: Path | str) -> str:
    way = "pass download=True, or get it" if known.downloads else "get it"
    return (
        f"{key} is not in {root}: expected {known.looked_for}; {way} from {known.source} and "
        "unpack it there"
    )
