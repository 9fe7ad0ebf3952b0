"""Labelled shares of the training pairs of any folder that `rscd` reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rscd.base.errors import DataError
from rscd.data.layout import find_layout
from rscd.data.splits import Split, labeled_split, published_split
from rscd.data.street_conditions import training_names


def labelled_shares(
    folder: Path | str,
    percentages: Sequence[int],
    split: str = "train",
    *,
    lists: Path | str | None = None,
    how: Literal["random", "first"] = "random",
    seed: int = 0,
) -> dict[int, Split]:
    """Parts ``labeled`` and ``unlabeled`` of the training pairs, by percentage.

    Args:
        folder: of image pairs, or a street set: of ChangeSim the normal condition, of PCD fold 0.
        percentages: 1 to 99.
        split: the pairs to divide.
        lists: folder of published lists, see `rscd.data.splits.published_split`.
        how: see `rscd.data.splits.labeled_split`.
        seed: likewise.

    Raises:
        DataError: if there are no such pairs or lists, or the lists are of another dataset.
    """
    street = training_names(folder, split)
    names = street or _names(folder, split)
    if lists is None:
        return {percent: labeled_split(names, percent, how, seed) for percent in percentages}
    found = {percent: published_split(lists, percent) for percent in percentages}
    own_name = str if street else find_layout(folder).own_name
    for published in found.values():
        listed = set(map(own_name, (*published["labeled"], *published["unlabeled"])))
        if listed != set(names):
            odd = min(listed ^ set(names))
            raise DataError(
                f"expected lists of the {len(names)} pairs of {split} in {folder}, found "
                f"{len(listed)} names in {lists} (first difference: {odd!r}); prepare the set that "
                "they belong to"
            )
    return found


def _names(folder: Path | str, split: str) -> tuple[str, ...]:
    layout = find_layout(folder)
    return tuple(layout.title(part, name) for part, name in layout.select(split))
