"""Contents and problems of a folder of image pairs."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rscd.base.errors import DataError
from rscd.base.types import IGNORE, ShapeHW
from rscd.data.images import Picture, check_agreement, read_label, read_picture
from rscd.data.labels import image_label, read_label_list
from rscd.data.layout import SPLIT_FOLDERS, Folders, Layout, PairDir, find_layout, read_names
from rscd.data.leaks import NO_CONTENT, check_leaks, content_hash
from rscd.data.splits import Split
from rscd.data.tiles import Tile, find_tiles
from rscd.geo.labels import NODATA_IN_PNG

MOST = 5
"""Most problems of one kind listed in the text."""


@dataclass(frozen=True)
class Problem:
    """One problem."""

    kind: str
    """unreadable, size, bands, label values, empty, partner, identical, list, label, or leak."""
    where: str
    """The file or pair."""
    detail: str


@dataclass(frozen=True)
class PartReport:
    """The pairs of one split folder, or of the whole folder."""

    name: str
    folders: tuple[str, str, str]
    """Folder names of t1, t2 and mask."""
    pairs: int
    masks: int
    empty_masks: int
    """Readable masks without any change."""
    sizes: Mapping[str, int]
    """Pairs by ``width x height, bands x dtype`` of t1."""
    label_values: Mapping[str, int]
    """Pixels by stored label value."""
    change_share: float | None
    """Fraction of label pixels that are not 0 (and not 127 = unlabelled); None without masks."""
    georeferenced: int
    """Pairs whose t1 has a transform."""


@dataclass(frozen=True)
class FolderReport:
    """The result of :func:`info`."""

    root: str
    parts: tuple[PartReport, ...]
    lists: Mapping[str, int]
    """Names by list file."""
    problems: tuple[Problem, ...]
    leaks_checked: tuple[str, ...]
    """Kinds of leaks that could be checked; empty without splits."""

    @property
    def ok(self) -> bool:
        """True if there are no problems."""
        return not self.problems

    def json(self) -> str:
        """The report as one JSON object."""
        return json.dumps(asdict(self) | {"ok": self.ok}, indent=1)

    def text(self) -> str:
        """The report as text: contents, then problems."""
        lines = [f"{self.root}: {_count(sum(part.pairs for part in self.parts), 'pair')}"]
        lines += [f"  {line}" for part in self.parts for line in _part_lines(part)]
        lines += [f"  list {name}: {count} names" for name, count in self.lists.items()]
        if self.leaks_checked:
            lines.append(f"  leaks checked: {', '.join(self.leaks_checked)}")
        lines += _problem_lines(self.problems)
        return "\n".join(lines)


@dataclass
class _Findings:
    problems: list[Problem] = field(default_factory=list)
    hashes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tiles: list[Tile] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, where: Path | str, detail: str) -> None:
        self.problems.append(Problem(kind, str(where), detail))


def info(folder: Path | str, *, folders: Folders | None = None, leaks: bool = True) -> FolderReport:
    """Read every file of a pair folder once and report.

    Checks for unreadable files, dates or masks that differ in size or bands, label values other
    than 0 and 255 (or 0 and 1), masks that are all empty, files without partner, pairs with
    identical dates, lists that name absent pairs or contradict the masks, and leaks between splits
    (equal pixels, touching tiles, shared parents).

    Args:
        folder: a folder of image pairs.
        folders: explicit folder names of t1, t2 and mask.
        leaks: compare the splits with each other.

    Returns:
        The report; print ``report.text()`` or ``report.json()``.

    Raises:
        DataError: if there are no image pairs at all.
    """
    layout = find_layout(folder, folders)
    findings = _Findings()
    parts = tuple(_part(layout, name, findings) for name in layout.parts)
    lists = _lists(layout, findings)
    checked = _leaks(layout, findings) if leaks else ()
    return FolderReport(str(folder), parts, lists, tuple(findings.problems), checked)


def _part(layout: Layout, part: str, findings: _Findings) -> PartReport:
    here = layout.parts[part]
    _partners(here, findings)
    sizes: Counter[str] = Counter()
    values: Counter[str] = Counter()
    empty = georeferenced = 0
    for name in here.pairs:
        title = layout.title(part, name)
        first = _dates(here, name, title, findings)
        if first is not None:
            height, width = first.shape_hw
            sizes[f"{width} x {height}, {len(first.pixels)} x {first.pixels.dtype}"] += 1
            georeferenced += first.transform is not None
        if name in here.mask:
            counts = _mask(here.mask[name], first.shape_hw if first else None, title, findings)
            values.update(counts)
            empty += bool(counts) and set(counts) == {"0"}
    masks = len(here.mask.keys() & set(here.pairs))
    if masks and empty == masks:
        findings.add("empty", here.base, f"all {masks} masks are without change")
    return PartReport(
        name=part,
        folders=here.names,
        pairs=len(here.pairs),
        masks=masks,
        empty_masks=empty,
        sizes=dict(sizes),
        label_values=dict(sorted(values.items(), key=lambda item: float(item[0]))),
        change_share=_share(values),
        georeferenced=georeferenced,
    )


def _partners(here: PairDir, findings: _Findings) -> None:
    sides = {"t1": here.t1, "t2": here.t2} | ({"mask": here.mask} if here.names[2] else {})
    for kind, files in sides.items():
        others = {name: path for side in sides.values() for name, path in side.items()}
        for name in sorted(others.keys() - files.keys()):
            findings.add("partner", others[name], f"has no {kind}")


def _dates(here: PairDir, name: str, title: str, findings: _Findings) -> Picture | None:
    """The first date, if readable; both are compared, hashed and located."""
    pictures = []
    for path in (here.t1[name], here.t2[name]):
        try:
            pictures.append(read_picture(path))
        except DataError as error:
            findings.add("unreadable", path, _reason(error, path))
    if len(pictures) < 2:
        return None
    first, second = pictures
    if first.shape_hw != second.shape_hw:
        findings.add("size", title, f"t1 is {_size(first.shape_hw)}, t2 {_size(second.shape_hw)}")
    if len(first.pixels) != len(second.pixels):
        detail = f"t1 has {len(first.pixels)} bands, t2 {len(second.pixels)}"
        findings.add("bands", title, detail)
    hashes = (content_hash(first), content_hash(second))
    if hashes[0] == hashes[1] != NO_CONTENT:
        findings.add("identical", title, "t1 and t2 have identical pixels")
    findings.hashes[title] = hashes
    findings.tiles += find_tiles([(title, here.t1[name])], first.shape_hw[1])
    return first


def _mask(
    path: Path, shape_hw: ShapeHW | None, title: str, findings: _Findings
) -> Mapping[str, int]:
    """Pixels by stored value; empty if the mask is unreadable."""
    try:
        label = read_label(path)
    except DataError as error:
        findings.add("unreadable", path, _reason(error, path))
        return {}
    if shape_hw is not None and label.values.shape != shape_hw:
        detail = f"the mask is {_size(label.values.shape)}, t1 {_size(shape_hw)}"
        findings.add("size", title, detail)
    values = label.values[~label.unlabelled]
    found, counts = np.unique(values, return_counts=True)
    names = (str(int(v)) if v == np.trunc(v) else str(v) for v in found)
    stored = {name: int(n) for name, n in zip(names, counts, strict=True)}
    if not set(stored) <= {"0", "1", "255"}:
        some = ", ".join(list(stored)[:MOST]) + (", ..." if len(stored) > MOST else "")
        findings.add("label values", path, f"{some}: reading needs mask_values=")
        findings.labels[title] = image_label(values)
        return stored
    coding = label.coding()
    try:
        check_agreement(label, coding)
    except DataError as error:
        findings.add("label values", path, _reason(error, path))
    mask = coding.decode(label.values, label.known)
    findings.labels[title] = image_label(mask, ignore=IGNORE)
    if IGNORE in coding.unknown:
        stored.pop(str(IGNORE), None)
    return stored


def _share(values: Mapping[str, int]) -> float | None:
    known = {value: n for value, n in values.items() if value != str(NODATA_IN_PNG)}
    total = sum(known.values())
    return (total - known.get("0", 0)) / total if total else None


def _lists(layout: Layout, findings: _Findings) -> dict[str, int]:
    counts = {}
    for path in layout.lists.values():
        try:
            names = read_names(path)
            counts[path.name] = len(names)
            layout.locate(names)
        except DataError as error:
            findings.add("list", path, _reason(error, layout.root))
        else:
            doubled = [name for name, n in Counter(names).items() if n > 1]
            if doubled:
                findings.add("list", path, f"names {doubled[0]} twice ({len(doubled)} such names)")
    for split, path in layout.label_lists.items():
        try:
            labels = read_label_list(path)
        except DataError as error:
            findings.add("label", path, _reason(error, path))
            continue
        counts[path.name] = len(labels)
        _contradictions(layout, split, labels, path, findings)
    return counts


def _contradictions(
    layout: Layout, split: str, labels: Mapping[str, int], path: Path, findings: _Findings
) -> None:
    parts = [split] if split in layout.parts else list(layout.parts)
    for name, label in labels.items():
        own = layout.own_name(name)
        titles = [own] if "/" in own else [layout.title(part, own) for part in parts]
        counted = next((findings.labels[t] for t in titles if t in findings.labels), label)
        if counted != label:
            findings.add("label", path, f"{name} is {label}, its mask says {counted}")


def _leaks(layout: Layout, findings: _Findings) -> tuple[str, ...]:
    try:
        split = _split_of(layout)
        if split is None:
            return ()
        report = check_leaks(split, findings.tiles, findings.hashes)
    except DataError as error:
        findings.add("leak", layout.root, str(error))
        return ("names",)
    findings.problems += [
        Problem(
            "leak", f"{leak.first} and {leak.second}", f"{leak.kind}, {' and '.join(leak.parts)}"
        )
        for leak in report.leaks
    ]
    return report.checked


def _split_of(layout: Layout) -> Split | None:
    """The folder's train, val and test; other lists may overlap intentionally."""
    chosen = {}
    for split in [name for name in SPLIT_FOLDERS if name in layout.splits]:
        try:
            pairs = layout.select(split)
        except DataError:
            continue  # a list that names absent pairs is reported with the lists
        whole = [(part, name) for part, name in pairs if name in layout.parts[part].pairs]
        chosen[split] = tuple(layout.title(part, name) for part, name in whole)
    return Split(chosen, "as found") if len(chosen) > 1 else None


def _part_lines(part: PartReport) -> list[str]:
    t1, t2, mask = part.folders
    head = f"{part.name or 'all'}: {_count(part.pairs, 'pair')} in {t1} and {t2}"
    head += f", {_count(part.masks, 'mask')} in {mask}" if mask else ", no masks"
    lines = [head + (f", {part.georeferenced} georeferenced" if part.georeferenced else "")]
    lines += [f"  {count} of {size}" for size, count in part.sizes.items()]
    if part.change_share is not None:
        shown = ", ".join(list(part.label_values)[:MOST])
        more = ", ..." if len(part.label_values) > MOST else ""
        lines.append(
            f"  label values {shown}{more}; {100 * part.change_share:.2f} % changed, "
            f"{part.empty_masks} of {_count(part.masks, 'mask')} empty"
        )
    return lines


def _problem_lines(problems: Sequence[Problem]) -> list[str]:
    if not problems:
        return ["  no problems"]
    lines = [f"  {_count(len(problems), 'problem')}"]
    for kind in dict.fromkeys(problem.kind for problem in problems):
        found = [problem for problem in problems if problem.kind == kind]
        lines += [f"    {kind}: {p.where}: {p.detail}" for p in found[:MOST]]
        if len(found) > MOST:
            lines.append(f"    {kind}: and {len(found) - MOST} more")
    return lines


def _reason(error: DataError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ").removeprefix(str(path)).strip()


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _size(shape_hw: tuple[Any, ...]) -> str:
    return f"{shape_hw[1]} x {shape_hw[0]}"
