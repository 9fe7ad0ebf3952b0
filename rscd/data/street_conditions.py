"""A labelled street set of any known layout, with the conditions to evaluate separately."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch.utils.data import Dataset

from rscd.base.errors import DataError
from rscd.base.types import ShapeHW
from rscd.data.folder import Sample
from rscd.data.splits import Subset, read_split
from rscd.data.street import CONDITIONS, PCD, VLCMUCD, ChangeSim
from rscd.data.street_base import MASK_FOLDERS, StreetDataset

Parts = dict[str, StreetDataset]

SPLITS: tuple[str, ...] = ("train", "test")
"""The last one is the default."""


class StreetConditions(Dataset[Sample]):
    """The concatenated parts of a street set by condition.

    A sample has ``image``, ``mask`` and ``name`` as in `StreetDataset`, and ``valid`` (1,H,W), true
    everywhere.
    """

    eight_bit = True

    def __init__(self, root: Path | str, split: str | None, parts: Mapping[str, StreetDataset]):
        self.root, self.split = Path(root), split
        self.parts = dict(parts)
        places = [(part, index) for part in parts.values() for index in range(len(part))]
        self._places: Sequence[tuple[StreetDataset, int]] = places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        part, place = self._places[index]
        sample = part[place]
        return sample | {"valid": torch.ones_like(sample["mask"], dtype=torch.bool)}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the pairs, in the order of the indices."""
        return tuple(part.names[index] for part, index in self._places)

    @property
    def conditions(self) -> dict[str, tuple[int, ...]]:
        """Indices by condition."""
        found, start = {}, 0
        for name, part in self.parts.items():
            found[name] = tuple(range(start, start + len(part)))
            start += len(part)
        return found


def street_conditions(
    root: Path | str,
    split: str | None = None,
    size: ShapeHW | None = None,
    split_file: Path | str | None = None,
) -> StreetConditions | None:
    """A street set, or None if the folder has another layout.

    | layout | conditions |
    |---|---|
    | ChangeSim: ``Query_Seq_Train``, ``Query_Seq_Test`` | normal, dusty, dark, as available |
    | PCD: ``TSUNAMI`` and ``GSV``, or crops in ``set0`` | TSUNAMI, GSV; fold 0 |
    | VL-CMU-CD: ``{train,test}/t0``, or ``raw`` | one |
    | ``t0/ t1/ mask/`` | one |
    | folders of ``t0/ t1/ mask/`` | each |

    Args:
        root: the folder.
        split: ``train`` or ``test`` if the layout has them, by default ``test``.
        size: (height, width) to resize to; papers resize to 520 x 520.
        split_file: a split on disk, see `rscd.data.splits.read_split`; ``split`` then names one of
            its parts.

    Raises:
        DataError: for a street set without pairs, without masks, or without that split.
    """
    root, splits = Path(root), SPLITS
    if any((root / f"Query_Seq_{part}").is_dir() for part in ("Train", "Test")):
        parts_of = _changesim
    elif any(map(_is_plain, (root / "TSUNAMI", root / "GSV", *_in_splits(root / "set0")))):
        parts_of = _pcd
    elif any(map(_is_plain, _in_splits(root))):
        parts_of = _vl_cmu
    else:
        splits = ()
        one_set = _is_plain(root) or (root / "raw").is_dir()
        if not one_set and not _plain_folders(root):
            return None
        parts_of = _vl_cmu if one_set else _folders
    if split_file is not None:
        return _listed(
            root,
            split,
            split_file,
            [parts_of(root, own or "all", size) for own in _present(root, splits)],
        )
    chosen = _split(root, split, splits)
    return StreetConditions(root, chosen, parts_of(root, chosen or "all", size))


def training_names(root: Path | str, split: str = "train") -> tuple[str, ...]:
    """Names of the pairs of a street set in one split, of its first condition for ChangeSim.

    No mask is needed. Empty if the folder has another layout.
    """
    root = Path(root)
    data: StreetDataset
    keys = {"image"}
    if any((root / f"Query_Seq_{part}").is_dir() for part in ("Train", "Test")):
        data = ChangeSim(root, split, keys=keys)  # type: ignore[arg-type]
    elif any((place / "t0").is_dir() for place in (root / "TSUNAMI", *_in_splits(root / "set0"))):
        data = PCD(root, split, keys=keys)  # type: ignore[arg-type]
    elif any((place / "t0").is_dir() for place in _in_splits(root)):
        data = VLCMUCD(root, split, keys=keys)  # type: ignore[arg-type]
    else:
        return ()
    return data.names


def _present(root: Path, splits: tuple[str, ...]) -> list[str | None]:
    """The splits of a set to look for listed pairs in; None where there are none."""
    places = {split: (root / split, root / f"Query_Seq_{split.capitalize()}") for split in splits}
    by_folder = any(place.is_dir() for both in places.values() for place in both)
    return [split for split in splits if not by_folder or any(map(Path.is_dir, places[split]))] or [
        None
    ]


def _listed(
    root: Path, part: str | None, split_file: Path | str, found: Sequence[Parts]
) -> StreetConditions:
    """The pairs of one part of a split file, wherever they are."""
    if part is None:
        raise DataError(f"expected a part of {split_file}, found none; name it with the split")
    wanted = read_split(split_file)[part]
    datasets = [data for parts in found for data in parts.values()]
    times = Counter(name for data in datasets for name in data.names)
    Subset(names=wanted).of(tuple(times))
    for name in wanted:
        if times[name] > 1:
            raise DataError(
                f"expected names of one pair each in {split_file}, found {name!r} {times[name]} "
                f"times in the splits or folders of {root}; rename the files, or evaluate the "
                "folder of one split"
            )
    kept: Parts = {}
    for parts in found:
        for condition, data in parts.items():
            own = set(data.names)
            data.keep(Subset(names=tuple(name for name in wanted if name in own)))
            if len(data):
                again = f"{condition} (test)" if condition in kept else condition
                kept[again] = data
    return StreetConditions(root, part, kept)


def _in_splits(root: Path) -> list[Path]:
    return [root / split for split in SPLITS]


def _split(root: Path, split: str | None, known: tuple[str, ...]) -> str | None:
    if split is None:
        return known[-1] if known else None
    if split not in known:
        wanted = f"a split among {', '.join(known)}" if known else "no split"
        raise DataError(f"{root}: expected {wanted} for this layout, found {split!r}; correct it")
    return split


def _is_plain(root: Path) -> bool:
    """Whether pairs and masks are here; others, such as ``label/``, belong to other layouts."""
    dates = (root / "t0").is_dir() and (root / "t1").is_dir()
    return dates and any((root / name).is_dir() for name in MASK_FOLDERS)


def _plain_folders(root: Path) -> list[Path]:
    """Folders of pairs with masks below this one."""
    if not root.is_dir():
        return []
    return [folder for folder in sorted(root.iterdir()) if _is_plain(folder)]


def _changesim(root: Path, split: str, size: ShapeHW | None) -> Parts:
    pattern = f"Query_Seq_{split.capitalize()}/Warehouse_*/Seq_[0-9]"
    there = [name for name, suffix in CONDITIONS.items() if any(root.glob(pattern + suffix))]
    return {
        name: ChangeSim(root, split, condition=name, size=size)  # type: ignore[arg-type]
        for name in there or ["normal"]
    }


def _pcd(root: Path, split: str, size: ShapeHW | None) -> Parts:
    whole = PCD(root, split, size=size)  # type: ignore[arg-type]
    return {
        name: PCD(root, split, subsets=(name,), size=size)  # type: ignore[arg-type]
        for name in whole.subsets
    }


def _vl_cmu(root: Path, split: str, size: ShapeHW | None) -> Parts:
    return {root.name: VLCMUCD(root, split, size=size)}  # type: ignore[arg-type]


def _folders(root: Path, split: str, size: ShapeHW | None) -> Parts:
    return {folder.name: VLCMUCD(folder, "all", size=size) for folder in _plain_folders(root)}
