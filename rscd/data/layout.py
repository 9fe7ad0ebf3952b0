"""Layouts of folders of image pairs: where the two dates and the labels are.

Only this module translates folder names of published sets to t1, t2 and mask.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rscd.base.errors import DataError
from rscd.base.files import by_stem
from rscd.data.images import IMAGE_SUFFIXES

# A name is meaningful only with its partner: `t1` is the first date beside `t2`, and the
# second date beside `t0`.
DATE_FOLDERS = (
    ("a", "b"),
    ("t1", "t2"),
    ("t0", "t1"),
    ("im1", "im2"),
    ("img1", "img2"),
    ("image1", "image2"),
    ("time1", "time2"),
    ("before", "after"),
    ("pre", "post"),
    ("pre_images", "post_images"),
    ("pre-event", "post-event"),
    ("2012", "2016"),
)
MASK_FOLDERS = (
    "label",
    "labels",
    "out",
    "mask",
    "masks",
    "gt",
    "groundtruth",
    "ground_truth",
    "cm",
    "change",
    "change_label",
    "change label",
)
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
LIST_FOLDERS = ("list", "lists", "splits")
_SPLIT_OF = {
    spelling: split for split, spellings in SPLIT_FOLDERS.items() for spelling in spellings
}

Folders = tuple[str, str] | tuple[str, str, str]
"""Explicit folder names of t1, t2 and, if there is one, the mask."""


@dataclass(frozen=True)
class PairDir:
    """The files of one folder of pairs, by name (the file name without its suffix)."""

    base: Path
    """The folder that contains the date folders and additional layers."""
    names: tuple[str, str, str]
    """Folder names of t1, t2 and mask; an empty third name means no masks."""
    t1: Mapping[str, Path]
    t2: Mapping[str, Path]
    mask: Mapping[str, Path]

    @property
    def pairs(self) -> tuple[str, ...]:
        """Names with both dates, sorted."""
        return tuple(sorted(self.t1.keys() & self.t2.keys()))

    @property
    def names_of_either(self) -> tuple[str, ...]:
        """Names with a file at either date, sorted, so that missing partners are noticed."""
        return tuple(sorted(self.t1.keys() | self.t2.keys()))


@dataclass(frozen=True)
class Layout:
    """Contents of a dataset folder."""

    root: Path
    parts: Mapping[str, PairDir]
    """By split folder; the key is empty if all pairs are in one folder."""
    lists: Mapping[str, Path]
    """List files by split, as ``train.txt``."""
    label_lists: Mapping[str, Path]
    """Image-level label files by split, as ``train_label.txt``."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Available split names."""
        prefixes = [s for s in SPLIT_FOLDERS if self._with_prefix(s)]
        found = [p for p in self.parts if p] + list(self.lists) + prefixes
        return tuple(dict.fromkeys(found))

    def select(self, split: str | None = None) -> list[tuple[str, str]]:
        """(part, name) of every pair of a split, or of all pairs, including incomplete ones.

        Raises:
            DataError: if there is no such split.
        """
        if split is None:
            return [
                (part, name) for part, here in self.parts.items() for name in here.names_of_either
            ]
        if split in self.parts:
            return [(split, name) for name in self.parts[split].names_of_either]
        if split in self.lists:
            return self.locate(read_names(self.lists[split]))
        named = self._with_prefix(split)
        if named:
            return [("", name) for name in named]
        offered = ", ".join(self.splits) or "none"
        raise DataError(
            f"{self.root}: no split {split!r} (searched for a folder {split}/, a list "
            f"list/{split}.txt and files {split}_*); available: {offered}"
        )

    def title(self, part: str, name: str, split: str | None = None) -> str:
        """Name of a pair: ``part/name`` if several parts are read as one dataset."""
        return f"{part}/{name}" if split is None and len(self.parts) > 1 else name

    def locate(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """(part, name) of the given names, in their order; ``train/x`` names x of one part."""
        found = []
        for name in names:
            hits = self.places(name)
            if len(hits) != 1:
                problem = "is not in the folder" if not hits else _several(name, hits)
                raise DataError(f"{self.root}: listed pair {name!r} {problem}; correct the list")
            found += hits
        return found

    def places(self, name: str) -> list[tuple[str, str]]:
        """(part, name) of all pairs that a name may mean: one of each part, unless it names one."""
        part = self.own_name(pair_name(name)).rpartition("/")[0]
        parts = [part] if part else list(self.parts)
        for stem in (Path(name).name, image_id(name)):
            hits = [p for p in parts if stem in self.parts[p].t1 or stem in self.parts[p].t2]
            if hits:
                return [(p, stem) for p in hits]
        return []

    def own_name(self, name: str) -> str:
        """A name of `pair_name`, without the split folder if there is no such one here."""
        part, _, stem = name.rpartition("/")
        return name if part in self.parts else stem

    def _with_prefix(self, split: str) -> list[str]:
        # the archives of LEVIR-CD unpack into one A/ B/ label/ with train_1.png, val_1.png, ...
        if "" not in self.parts or not split:
            return []
        names = self.parts[""].names_of_either
        return [name for name in names if name.startswith(f"{split}_")]


def find_layout(root: Path | str, folders: Folders | None = None) -> Layout:
    """Find the pairs of a dataset folder.

    Supported are two date folders and a label folder (see :data:`DATE_FOLDERS`), directly or in
    ``train``/``val``/``test``, list files in ``list/``, and single folders of
    ``NAME_A.tif NAME_B.tif NAME_label.tif``.

    Raises:
        DataError: if there is no such layout; the message states what was searched for.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(
            f"{root}: expected a dataset folder, found {'a file' if root.exists() else 'nothing'}; "
            "give the folder that contains A/ and B/, or train/ and test/"
        )
    whole = _pair_dir(root, folders)
    parts = {"": whole} if whole else _split_dirs(root, folders)
    if not parts:
        raise DataError(_nothing_found(root, folders))
    return Layout(root, parts, *_lists(root))


def read_names(path: Path) -> list[str]:
    """Names of a list file: one per line, see `pair_name`; blank lines are skipped."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: the list cannot be read ({error}); expected a text file"
        ) from error
    return [pair_name(line.strip()) for line in lines if line.strip()]


def pair_name(text: str) -> str:
    """How a list names a pair: ``A/x.png`` and ``x`` give ``x``, ``train/A/x.png`` ``train/x``.

    Split folders tell pairs of one name apart; all other folders are dropped.
    """
    folders = [folder.lower() for folder in Path(text).parent.parts]
    part = next((_SPLIT_OF[folder] for folder in reversed(folders) if folder in _SPLIT_OF), "")
    return f"{part}/{image_id(text)}" if part else image_id(text)


def _several(name: str, hits: Sequence[tuple[str, str]]) -> str:
    """The problem of a name that pairs of several parts have."""
    parts = [part for part, _ in hits]
    return f"is in {', '.join(parts)} (write {parts[0]}/{hits[0][1]})"


def image_id(name: str) -> str:
    """A file name without folder and image suffix: ``A/x.1.png`` and ``x.1`` give ``x.1``."""
    path = Path(name)
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name


def _split_dirs(root: Path, folders: Folders | None) -> dict[str, PairDir]:
    children = _children(root)
    parts = {}
    for split, spellings in SPLIT_FOLDERS.items():
        for spelling in spellings:
            here = _pair_dir(children[spelling], folders) if spelling in children else None
            if here is not None:
                parts[split] = here
    return parts


def _pair_dir(base: Path, folders: Folders | None) -> PairDir | None:
    children = _children(base)
    if folders is not None:
        wanted = [base / name for name in folders]
        if not all(folder.is_dir() for folder in wanted):
            return None
        return _read_dirs(base, wanted[0], wanted[1], wanted[2] if len(wanted) == 3 else None)
    dates = [(a, b) for a, b in DATE_FOLDERS if a in children and b in children]
    if len(dates) > 1:
        raise DataError(
            f"{base}: the date folders are ambiguous ({' or '.join('+'.join(d) for d in dates)}); "
            "give folders=(t1, t2, mask)"
        )
    if not dates:
        return _suffixed(base)
    masks = [children[name] for name in MASK_FOLDERS if name in children]
    return _read_dirs(
        base, children[dates[0][0]], children[dates[0][1]], masks[0] if masks else None
    )


def _read_dirs(base: Path, t1: Path, t2: Path, mask: Path | None) -> PairDir:
    names = (t1.name, t2.name, mask.name if mask else "")
    files = [by_stem(folder, IMAGE_SUFFIXES) if folder else {} for folder in (t1, t2, mask)]
    return PairDir(base, names, *files)


def _suffixed(base: Path) -> PairDir | None:
    """``NAME_A.tif NAME_B.tif NAME_label.tif`` side by side in one folder."""
    files = by_stem(base, IMAGE_SUFFIXES)
    for first, second in DATE_FOLDERS:
        t1, t2 = _ending(files, first), _ending(files, second)
        if t1 and t1.keys() & t2.keys():
            masks = [(name, _ending(files, name)) for name in MASK_FOLDERS]
            word, mask = next(((n, m) for n, m in masks if m), ("", {}))
            return PairDir(base, (first, second, word), t1, t2, mask)
    return None


def _ending(files: Mapping[str, Path], word: str) -> dict[str, Path]:
    tail = f"_{word}"
    return {n[: -len(tail)]: p for n, p in files.items() if n.lower().endswith(tail) and n != tail}


def _children(folder: Path) -> dict[str, Path]:
    return {child.name.lower(): child for child in sorted(folder.iterdir()) if child.is_dir()}


def _lists(root: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    children = _children(root)
    folders = [children[name] for name in LIST_FOLDERS if name in children] or [root]
    files = {path.stem: path for folder in folders for path in sorted(folder.glob("*.txt"))}
    labels = {n.removesuffix("_label"): p for n, p in files.items() if n.endswith("_label")}
    known = {n: p for n, p in files.items() if not n.endswith("_label")}
    if folders == [root]:  # the folder may also contain readme.txt and the like
        known = {n: p for n, p in known.items() if n in SPLIT_FOLDERS}
    return known, labels


def _nothing_found(root: Path, folders: Folders | None) -> str:
    wanted = (
        "/ ".join(folders) + "/"
        if folders
        else "A/ B/ label/ (or t1 t2, im1 im2, image1 image2, time1 time2, before after, pre post)"
    )
    found = sorted(child.name + "/" * child.is_dir() for child in root.iterdir())[:8]
    return (
        f"{root}: no image pairs; searched for {wanted} here and in train/ val/ test/, found "
        f"{', '.join(found) or 'an empty folder'}; give the folder that contains them, or folders="
    )
