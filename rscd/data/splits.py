"""Splits: training, validation and test pairs, labelled and unlabelled ones.

The published lists of labelled pairs (5, 10, 20 and 40 % of LEVIR-CD and WHU-CD) are not part of
this package. If the list files exist, :func:`published_split` reads and checks them; otherwise
:func:`labeled_split` selects as many pairs by a stated rule, which gives different pairs.
``rscd data split`` writes both as files.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from rscd.base.errors import DataError
from rscd.base.files import digest_of, write_whole
from rscd.data.layout import read_names

FORMAT = "rscd-split/1"
Shares = Mapping[str, float | int]
"""Part name to fraction (floats that sum to 1) or to count (integers)."""


@dataclass(frozen=True)
class Split:
    """Disjoint named parts of a dataset.

    Parts are usually ``train``, ``val``, ``test``, or ``labeled``, ``unlabeled``.
    """

    parts: Mapping[str, tuple[str, ...]]
    """Pair names by part, in the order they are used."""
    rule: str
    """Description of how the split was made."""

    def __post_init__(self) -> None:
        owner: dict[str, str] = {}
        for part, names in self.parts.items():
            for name in names:
                if name in owner:
                    where = "twice" if owner[name] == part else f"also in {owner[name]!r}"
                    raise DataError(
                        f"pair {name!r} of part {part!r} is {where}; keep it in one part"
                    )
                owner[name] = part

    @property
    def hash(self) -> str:
        """SHA-256 over parts and names; it does not depend on their order or on the rule."""
        return digest_of({part: sorted(names) for part, names in self.parts.items()})

    @property
    def counts(self) -> dict[str, int]:
        """Number of pairs by part."""
        return {part: len(names) for part, names in self.parts.items()}

    def __getitem__(self, part: str) -> tuple[str, ...]:
        """Names of one part.

        Raises:
            DataError: if there is no such part.
        """
        if part not in self.parts:
            raise DataError(f"the split has no part {part!r}; it has {', '.join(self.parts)}")
        return self.parts[part]

    def write(self, path: Path | str) -> None:
        """Write one JSON file, or a folder of ``PART.txt`` lists if ``path`` has no suffix."""
        path = Path(path)
        if path.suffix != ".json":
            for part, names in self.parts.items():
                write_whole(path / f"{part}.txt", "".join(f"{name}\n" for name in names))
            return
        write_whole(path, self.text())

    def text(self) -> str:
        """The content of the JSON file."""
        parts = {part: list(names) for part, names in self.parts.items()}
        content = {"format": FORMAT, "rule": self.rule, "hash": self.hash, "parts": parts}
        return json.dumps(content, indent=1) + "\n"


def read_split(path: Path | str) -> Split:
    """Read a split written by :meth:`Split.write`, or a folder of lists of any origin.

    Raises:
        DataError: if the file is missing, malformed, or does not match its hash.
    """
    path = Path(path)
    if path.is_dir():
        lists = {file.stem: file for file in sorted(path.glob("*.txt"))}
        parts = {n: tuple(read_names(f)) for n, f in lists.items() if not n.endswith("_label")}
        if not parts:
            raise DataError(f"{path}: no lists; expected files such as train.txt")
        return Split(parts, f"lists of {path.name}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no readable split ({error}); expected a JSON file") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path}: expected a split of format {FORMAT}; write it with Split.write")
    try:
        parts = {str(part): tuple(map(str, names)) for part, names in content["parts"].items()}
        split = Split(parts, str(content["rule"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: damaged split ({error!r}); write it again") from error
    if split.hash != content.get("hash"):
        raise DataError(f"{path}: the names do not match the stored hash; the file was edited")
    return split


def random_split(names: Sequence[str], shares: Shares, seed: int = 0) -> Split:
    """Seeded random parts.

    The names are sorted, shuffled by Python's Mersenne Twister with ``seed``, and cut in the order
    of ``shares``. Fractions are rounded down; the last part gets the rest.

    Raises:
        DataError: if the fractions do not sum to 1, or counts exceed the number of names.
    """
    counts = part_counts(len(names), shares)
    shuffled = sorted(names)
    random.Random(seed).shuffle(shuffled)
    rest = iter(shuffled)
    parts = {part: tuple(islice(rest, count)) for part, count in counts.items()}
    return Split(parts, f"random, seed {seed}")


def part_counts(n: int, shares: Shares) -> dict[str, int]:
    """Number of the ``n`` pairs that each part gets; see :func:`random_split`.

    Raises:
        DataError: if the fractions do not sum to 1, or counts exceed ``n``.
    """
    values = list(shares.values())
    if not values:
        raise DataError("a split needs at least one part, such as {'train': 0.8, 'test': 0.2}")
    if all(isinstance(value, int) for value in values):
        if sum(values) > n or min(values) < 0:
            raise DataError(f"counts {dict(shares)} do not fit {n} pairs; lower them")
        return {part: int(value) for part, value in shares.items()}
    if min(values) < 0 or abs(sum(values) - 1) > 1e-9:
        raise DataError(f"shares {dict(shares)} sum to {sum(values):g}; they must sum to 1")
    # n * 0.29 may be slightly below the integer it represents
    counts = {part: int(n * value + 1e-9) for part, value in shares.items()}
    last = list(counts)[-1]
    return counts | {last: counts[last] + n - sum(counts.values())}


def labeled_split(
    names: Sequence[str], percent: int, how: Literal["random", "first"] = "random", seed: int = 0
) -> Split:
    """Parts ``labeled`` and ``unlabeled`` of a training set.

    ``labeled`` gets ``floor(n * percent / 100)`` pairs, as published (``methods/diffmatch.md``
    section 5.1). ``first`` uses the first of the sorted names, as in WHU-CD's published lists;
    ``random`` shuffles once per seed, so that a smaller percentage is a prefix of a larger one, as
    in LEVIR-CD's lists (but these are not LEVIR-CD's published pairs).

    Raises:
        DataError: if the percentage is not in 1 to 99 or leaves nothing labelled.
    """
    if not 0 < percent < 100:
        raise DataError(f"percent is {percent}; expected 1 to 99")
    ordered = sorted(names)
    if how == "random":
        random.Random(seed).shuffle(ordered)
    n = len(ordered) * percent // 100
    if n == 0:
        raise DataError(f"{percent} % of {len(ordered)} pairs is none; raise the percentage")
    rule = f"first {percent} % of the sorted names" if how == "first" else ""
    rule = rule or f"random {percent} %, seed {seed}; not the published list"
    return Split({"labeled": tuple(ordered[:n]), "unlabeled": tuple(ordered[n:])}, rule)


def published_split(folder: Path | str, percent: int) -> Split:
    """Read ``<percent>%/labeled.txt`` and ``unlabeled.txt`` of the published lists.

    Args:
        folder: contains ``5%/``, ``10%/``, ... and usually ``train.txt``, ``val.txt``,
            ``test.txt``.
        percent: 5, 10, 20 or 40.

    Returns:
        Parts ``labeled``, ``unlabeled``, and ``val``, ``test`` if there are such lists.

    Raises:
        DataError: if the lists are missing, overlap, or do not match the paper: ``floor(n * percent
            / 100)`` labelled pairs, which together with the unlabelled ones are the training list.
    """
    folder = Path(folder)
    here = folder / f"{percent}%"
    files = {"labeled": here / "labeled.txt", "unlabeled": here / "unlabeled.txt"}
    if not all(file.is_file() for file in files.values()):
        raise DataError(
            f"expected labeled.txt and unlabeled.txt in {here}, found no such lists; name the "
            "shares that are there with --percent, get the lists of the paper's code, or leave "
            "--lists out for other pairs"
        )
    more = {part: folder / f"{part}.txt" for part in ("val", "test")}
    files |= {part: file for part, file in more.items() if file.is_file()}
    split = Split(
        {p: tuple(read_names(f)) for p, f in files.items()}, f"published lists, {percent} %"
    )
    _check_published(split, folder, percent)
    return split


def _check_published(split: Split, folder: Path, percent: int) -> None:
    counts = split.counts
    n = counts["labeled"] + counts["unlabeled"]
    if counts["labeled"] != n * percent // 100:
        raise DataError(
            f"{folder}: {counts['labeled']} of {n} training pairs are labelled, {percent} % is "
            f"{n * percent // 100}; the lists are incomplete or of another percentage"
        )
    train = folder / "train.txt"
    if train.is_file() and set(read_names(train)) != {*split["labeled"], *split["unlabeled"]}:
        raise DataError(f"{folder}: labelled and unlabelled pairs are not those of train.txt")


@dataclass(frozen=True)
class Subset:
    """Some of the pairs of a dataset, as plain data of a configuration."""

    names: tuple[str, ...] | None = None
    """These pairs, in this order."""
    percent: int | None = None
    """The labelled pairs of :func:`labeled_split`; 100 for all."""
    seed: int = 0
    """Of ``percent``."""
    split_file: str | None = None
    """A split on disk, see :func:`read_split`."""
    part: str | None = None
    """The part of ``split_file``."""

    def __post_init__(self) -> None:
        ways = [self.names is not None, self.percent is not None, self.split_file is not None]
        if sum(ways) != 1 or (self.split_file is None) != (self.part is None):
            raise DataError(
                "expected a subset by names, by percent, or by split_file and part, found "
                f"{self}; give one of them"
            )

    def of(self, names: Sequence[str]) -> tuple[str, ...]:
        """The chosen ones among the names of a dataset, in the order of the choice.

        Raises:
            DataError: if a chosen pair is not among them, or the percentage is impossible.
        """
        if self.percent is not None:
            return tuple(
                names
                if self.percent == 100
                else labeled_split(names, self.percent, seed=self.seed)["labeled"]
            )
        known = set(names)
        chosen = (
            self.names if self.split_file is None else read_split(self.split_file)[str(self.part)]
        )
        missing = [name for name in chosen or () if name not in known]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(chosen or ())} chosen pairs do not exist, first "
                f"{missing[0]!r}; the choice belongs to another dataset or split"
            )
        return tuple(chosen or ())


def group_split(
    names: Sequence[str], group: Callable[[str], str], shares: Shares, seed: int = 0
) -> Split:
    """Random parts that keep groups, such as the patches of one parent scene, together.

    Groups are shuffled and assigned in turn to the part that is furthest below its target, so that
    sizes are as close to it as whole groups allow. With counts, remaining pairs are not in the
    split.

    Args:
        names: pair names.
        group: name to group; :func:`rscd.data.tiles.parent_of` knows the published names.
        shares: see :data:`Shares`.
        seed: of the shuffle.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(group(name), []).append(name)
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    wanted = part_counts(len(names), shares)
    parts: dict[str, list[str]] = {part: [] for part in shares}
    for key in order:
        part = max(parts, key=lambda p: (wanted[p] - len(parts[p])) / max(wanted[p], 1))
        if len(parts[part]) >= wanted[part]:
            break
        parts[part].extend(groups[key])
    done = {part: tuple(sorted(found)) for part, found in parts.items()}
    return Split(done, f"groups kept together, seed {seed}")
