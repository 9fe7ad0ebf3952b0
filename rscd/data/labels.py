"""Image-level labels: did anything change in this pair?

The list format is that of ``methods/kdmsi.md`` section 7: ``NAME.png,0,0,L`` per line, the first
field is the name, the last the label, and everything between is ignored.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rscd.base.errors import DataError
from rscd.base.files import write_whole
from rscd.data.layout import pair_name


def image_label(values: NDArray[Any], min_change_pixels: int = 1, ignore: int | None = None) -> int:
    """1 if at least ``min_change_pixels`` values are neither 0 nor ``ignore``, else 0.

    With the defaults this is the published rule: 0 only if every stored value is 0, so that even a
    value 1 in a 0/255 file counts as change (``methods/kdmsi.md`` section 7).

    Args:
        values: (H,W) or (1,H,W) mask or stored label values.
        min_change_pixels: least number of changed pixels, 1 or more.
        ignore: value to ignore, 255 for masks of this package.

    Raises:
        DataError: if ``min_change_pixels`` is below 1, which would label every pair as change.
    """
    if min_change_pixels < 1:
        raise DataError(f"min_change_pixels is {min_change_pixels}; it must be at least 1")
    changed = values != 0
    if ignore is not None:
        changed &= values != ignore
    return int(np.count_nonzero(changed) >= min_change_pixels)


def parse_label_list(text: str, source: str = "label list") -> dict[str, int]:
    """Labels by image name from the lines of a list file.

    A missing final newline, blank lines and CRLF are accepted.

    Raises:
        DataError: if a line has no label, the label is not 0 or 1, or a name has two labels.
    """
    labels: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        fields = [field.strip() for field in line.split(",")]
        if fields == [""]:
            continue
        if len(fields) < 2 or fields[-1] not in {"0", "1"}:
            raise DataError(
                f"{source} line {number}: expected NAME.png,0,0,L with L 0 or 1, found {line!r}"
            )
        name, label = pair_name(fields[0]), int(fields[-1])
        if labels.setdefault(name, label) != label:
            raise DataError(f"{source} line {number}: {name} already has the other label; keep one")
    return labels


def format_label_list(labels: Mapping[str, int], suffix: str = ".png") -> str:
    """The lines ``NAME.png,0,0,L``, newline-terminated, in the order of the mapping."""
    return "".join(f"{name}{suffix},0,0,{label}\n" for name, label in labels.items())


def read_label_list(path: Path | str) -> dict[str, int]:
    """Labels by image name from a list file.

    Raises:
        DataError: if the file is missing or a line is malformed.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: no readable list of image-level labels; expected lines NAME.png,0,0,L "
            "(write_label_list makes them from masks)"
        ) from error
    return parse_label_list(text, str(path))


def write_label_list(path: Path | str, labels: Mapping[str, int], suffix: str = ".png") -> None:
    """Write a list file; it appears by rename."""
    write_whole(Path(path), format_label_list(labels, suffix))


def labels_for(labels: Mapping[str, int], names: Iterable[str], source: str) -> dict[str, int]:
    """The labels of the given names.

    Raises:
        DataError: if one of them is missing, with its name.
    """
    wanted = list(names)
    missing = [name for name in wanted if name not in labels]
    if missing:
        raise DataError(
            f"{source}: {len(missing)} of {len(wanted)} pairs have no label, first {missing[0]!r}; "
            "complete the list"
        )
    return {name: labels[name] for name in wanted}
