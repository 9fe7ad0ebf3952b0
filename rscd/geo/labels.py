"""What the values stored in a label file mean: one rule for training, evaluation and events.

A file is judged as a whole, never a patch of it. Its colour table says nothing: the stored numbers
count. Bands that hold the same count as one; colours are refused, their codes name no class.
Without label (255) are pixels where alpha or the file's own mask is 0, NaN, and the declared
nodata.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from rscd.base.errors import DataError
from rscd.base.types import IGNORE, BoolArray, ByteArray
from rscd.geo.bands import Bands, has_own_mask, usable_pixels

MOST_CLASSES = 64
"""No more distinct values of a file are looked for."""

WINDOW_PIXELS = 1 << 22
"""Pixels of a file that are looked at together."""


@dataclass(frozen=True)
class Values:
    """Stored values that the user named; all others mean no change."""

    change: tuple[float, ...] | None = None
    """None: 1 or 255, as the file holds, see ``strict``."""
    unlabelled: tuple[float, ...] | None = None
    """None: the declared nodata; empty: all pixels count."""


MaskRule = Literal["strict", "threshold", "nonzero", "reference"] | Mapping[int, int] | Values
"""How stored label values become 0 (no change), 1 (change) and 255 (ignore).

``strict`` (default): the file holds 0 beside 1, or beside 255; where it holds both, 1 is change and
255 means ignore, as in the masks of this package. Anything else is an error.
``threshold``: change where the value is at least 128, for gray or JPEG labels.
``nonzero``: change where the value is not 0, as TorchGeo reads labels.
``reference``: change only where the value is 255, as the training loaders of KD-MSI and DiffMatch
read labels (``floor(value / 255)``): a {0, 1} file becomes all no change.
A mapping names every value that may occur, for example ``{0: 0, 255: 1, 127: 255}``; `Values` names
those of change and those without label.

Pixels that a raster declares to be nodata are 255 whatever the rule, unless the rule names that
value as change. A nodata of 0 is what drawing programs leave behind and viewers show as
transparent: it is "no change" like any other 0, unless `Values` leave another value for that.
"""

IGNORE_CODED: Mapping[int, int] = {0: 0, 1: 1, IGNORE: IGNORE}
"""Mapping of files that already hold 0, 1 and 255 = ignore, as pseudo labels do."""

NAME_VALUES = (
    "choose mask_values='threshold', 'nonzero', 'reference' or a mapping such as "
    "{0: 0, 1: 1, 255: 255}; of rscd evaluate name the values with --change-value, "
    "--predicted-value and --unlabelled"
)

NODATA_IN_PNG = 127
"""Stored value of "no data" beside 0 and 255 in the PNG masks that rscd writes."""

NAME_NODATA = (
    "if 127 is no data, as in PNG masks that rscd writes, choose mask_values="
    "{0: 0, 255: 1, 127: 255}; of rscd evaluate name it with --unlabelled 127"
)


@dataclass(frozen=True)
class Coding:
    """The meaning of the values stored in one file."""

    what: str
    """Which file, for messages."""
    change: frozenset[float] = frozenset()
    unknown: frozenset[float] = frozenset()
    """No label, or no prediction; NaN is unknown always."""
    no_change: frozenset[float] | None = None
    """None: all others."""
    compared: Literal["threshold", "nonzero", "reference"] | None = None
    """Instead of ``change``: how values are compared."""

    def decode(self, values: NDArray[Any], known: BoolArray | None = None) -> ByteArray:
        """Stored values as 0 and 1, and 255 where unknown.

        Args:
            values: (h,w) of any type.
            known: (h,w) bool, where the file has a label; None: everywhere.

        Raises:
            DataError: for a value without meaning, which is named.
        """
        unknown = _one_of(values, self.unknown)
        if known is not None:
            unknown |= ~known
        if np.issubdtype(values.dtype, np.floating):
            unknown |= np.isnan(values)
        compared = None if self.compared is None else _COMPARED[self.compared]
        change = _one_of(values, self.change) if compared is None else compared(values)
        if self.no_change is not None:
            strange = ~(change | unknown | _one_of(values, self.no_change))
            if strange.any():
                named = sorted(self.change | self.no_change | self.unknown)
                raise DataError(
                    f"{self.what}: the label mapping covers {some_values(named)}, the file also "
                    f"holds {some_values(values[strange])}; name these values in the mapping"
                )
        mask: ByteArray = change.astype(np.uint8)
        mask[unknown] = IGNORE
        return mask


_COMPARED: Mapping[str, Callable[[NDArray[Any]], BoolArray]] = {
    "threshold": lambda values: values >= 128,
    "nonzero": lambda values: values != 0,
    "reference": lambda values: values == 255,
}


def needs_values(rule: MaskRule, nodata: float | None) -> bool:
    """Whether `coding_of` must know which values a file holds."""
    if isinstance(rule, Values):
        return rule.change is None or nodata == 0
    return rule == "strict"


def coding_of(
    what: str, rule: MaskRule, nodata: float | None, found: Iterable[float] = ()
) -> Coding:
    """Find out what stored values mean, by the rule and by what the whole file holds.

    The papers' programs disagree: evaluation of KD-MSI accepts 0 and 255 only, its training (and
    DiffMatch's) takes only 255 for change, TorchGeo anything but 0 (``methods/kdmsi.md`` section 6,
    ``methods/diffmatch.md`` section 5.1). On clean {0, 255} files all rules agree.

    Args:
        what: which file, for messages.
        rule: see :data:`MaskRule`.
        nodata: declared by the file.
        found: distinct values of the file's labelled pixels, where `needs_values`.

    Raises:
        DataError: for a rule that is none, or values whose meaning is not clear.
    """
    if isinstance(rule, str) and rule != "strict":
        if rule not in _COMPARED:
            raise DataError(
                f"{what}: unknown label rule {rule!r}; use strict, {', '.join(_COMPARED)} or a "
                "mapping"
            )
        return Coding(what, unknown=_declared(nodata), compared=rule)
    if isinstance(rule, Mapping):
        return _mapped(what, rule, nodata)
    return _named(what, rule if isinstance(rule, Values) else Values(), nodata, found)


def _declared(nodata: float | None) -> frozenset[float]:
    return frozenset(() if nodata is None or nodata == 0 else (float(nodata),))


def _mapped(what: str, mapping: Mapping[int, int], nodata: float | None) -> Coding:
    if not set(mapping.values()) <= {0, 1, IGNORE}:
        raise DataError(
            f"{what}: a label mapping leads to 0, 1 or 255, not to {sorted(set(mapping.values()))}"
        )
    no_change, change, unknown = (
        frozenset(float(stored) for stored, wanted in mapping.items() if wanted == meaning)
        for meaning in (0, 1, IGNORE)
    )
    unknown |= _declared(nodata) - change
    return Coding(what, change, unknown, no_change - unknown)


def _named(what: str, rule: Values, nodata: float | None, found: Iterable[float]) -> Coding:
    declared = frozenset(() if nodata is None else (float(nodata),))
    missing = declared if rule.unlabelled is None else frozenset(map(float, rule.unlabelled))
    values = frozenset(float(value) for value in found if not np.isnan(value)) - missing
    if rule.change is not None:
        change = frozenset(map(float, rule.change))
        unknown = missing - change
    elif values <= {0, 1, IGNORE}:
        whole = 1 in values or IGNORE not in values
        change = frozenset({1.0 if whole else float(IGNORE)})
        unknown = missing | ({float(IGNORE)} if whole and IGNORE in values else frozenset())
    else:
        own = NAME_NODATA if NODATA_IN_PNG in values <= {0, NODATA_IN_PNG, IGNORE} else NAME_VALUES
        raise DataError(
            f"{what}: expected label values 0 and 255 (or 0 and 1), found "
            f"{some_values(values)}; {own}"
        )
    if rule.unlabelled is None and nodata == 0 and values - unknown <= change:
        unknown -= {0.0}
    return Coding(what, change, unknown)


def says_255_is_change(rule: MaskRule, nodata: float | None, coding: Coding) -> bool | None:
    """What a file tells of 255 by what it holds beside it: change, or ignore.

    Where 255 means ignore, a file of 0 and 255 without any 1 would be read as change, so the files
    of a folder must not contradict each other.

    Returns:
        None if the file does not tell, or need not: the rule says it, or 255 is declared nodata.
    """
    named = rule.unlabelled or () if isinstance(rule, Values) else ()
    found = rule == "strict" or (isinstance(rule, Values) and rule.change is None)
    if not found or nodata == IGNORE or IGNORE in named:
        return None
    means_change = IGNORE in coding.change
    return means_change if means_change or IGNORE in coding.unknown else None


def contradiction(folder: str, alone: str, beside: str, argument: str = "mask_values") -> DataError:
    """The error of two files of a folder that do: 0 and 255 alone in one, 1 beside 255 in other."""
    return DataError(
        f"{folder}: expected one meaning of 255, found 0 and 255 alone in {alone} and 1 beside 255 "
        f"in {beside}; say which it is, such as {argument}={{0: 0, 1: 1, 255: 255}}"
    )


@dataclass
class Told255:
    """What files have told of 255 so far, see `says_255_is_change`."""

    argument: str = "mask_values"
    """That names what stored values mean, for messages."""
    by_folder: dict[tuple[Path, bool], Path] = field(default_factory=dict)

    def add(self, path: Path, says: bool | None) -> None:
        """Add what a file tells.

        Raises:
            DataError: another file of its folder told otherwise.
        """
        if says is None:
            return
        self.by_folder.setdefault((path.parent, says), path)
        if (path.parent, not says) in self.by_folder:
            alone, beside = (self.by_folder[path.parent, change].name for change in (True, False))
            raise contradiction(str(path.parent), alone, beside, self.argument)


def _one_of(values: NDArray[Any], wanted: frozenset[float]) -> BoolArray:
    found = np.zeros(values.shape, bool)
    for value in wanted:
        found |= values == value
    return found


def some_values(values: Iterable[float]) -> str:
    """The smallest of some values, for messages."""
    found = sorted({float(value) for value in values})
    if len(found) > MOST_CLASSES:
        return f"more than {MOST_CLASSES} distinct values"
    return ", ".join(f"{v:g}" for v in found[:8]) + (", ..." if len(found) > 8 else "")


def one_band(what: str, values: NDArray[Any]) -> NDArray[Any]:
    """(C,h,w) stored values as (h,w), where all bands hold the same.

    Raises:
        DataError: they do not.
    """
    first: NDArray[Any] = values[0]
    differ = values[1:] != first
    if differ.any() and not (np.isnan(values[1:][differ]).all() and np.isnan(first).any()):
        raise DataError(
            f"{what}: expected a label with one band, found {len(values)} that differ; convert the "
            "colours to one band of class values"
        )
    return first


def distinct(values: NDArray[Any]) -> NDArray[Any]:
    """(K,) different values, sorted."""
    if values.dtype == np.uint8:
        return np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    return np.unique(values)


def read_stored(
    what: str, dataset: Any, window: Window | None = None
) -> tuple[NDArray[Any], BoolArray | None]:
    """(h,w) stored values of an open label file, and where alpha or its own mask let them count.

    Args:
        what: which file, for messages.
        dataset: open raster.
        window: a part of it; None: all.

    Returns:
        The values in the file's type, and (h,w) bool; None where the file has neither.

    Raises:
        DataError: see `one_band`.
    """
    bands = Bands.of(dataset)
    values = dataset.read(list(bands.data), window=window)
    own_mask = has_own_mask(dataset)
    known = usable_pixels(
        dataset, values, alpha=bands.alpha, nodata=None, own_mask=own_mask, window=window
    )
    return one_band(what, values), known


def coding_in(what: str, dataset: Any, rule: MaskRule) -> Coding:
    """`coding_of` an open label file, which is looked through where the rule needs its values.

    Raises:
        DataError: see `coding_of` and `one_band`.
    """
    nodata = declared_nodata(dataset)
    found: set[float] = set()
    for window in windows_of(dataset) if needs_values(rule, nodata) else ():
        values, known = read_stored(what, dataset, window)
        found |= set(distinct(values if known is None else values[known]).tolist())
        if len(found) > MOST_CLASSES:
            break
    return coding_of(what, rule, nodata, found)


def declared_nodata(dataset: Any) -> float | None:
    """The nodata of the band that holds the labels of an open file."""
    nodata: float | None = dataset.nodatavals[Bands.of(dataset).data[0] - 1]
    return nodata


def windows_of(dataset: Any) -> Iterator[Window]:
    """Parts of an open raster that cover it, as large as its blocks or some million pixels."""
    block_h, block_w = dataset.block_shapes[0]
    if block_w < dataset.width:
        yield from (window for _, window in dataset.block_windows(1))
        return
    rows = max(1, WINDOW_PIXELS // dataset.width // block_h) * block_h
    for row in range(0, dataset.height, rows):
        yield Window(0, row, dataset.width, min(rows, dataset.height - row))
