"""Pseudo masks of a folder of pairs, predicted by a change model and stored as files.

They lie in the folder of a run, or beside the dates in a folder of their own, in the coding of
further layers: 0 no change, 1 change, 255 where a date has no data, with the georeferencing of t1;
``run.json`` there says what made them. Training takes them with ``mask_from`` of
`rscd.data.folder.PairFolder`.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rscd.base.claim import Claim, Earlier, alone
from rscd.base.errors import DataError, UsageError
from rscd.base.files import digest_of, read_note, write_whole, writing
from rscd.base.types import IGNORE, ByteArray, FloatArray, Progress, Provenance
from rscd.data.folder import PairFiles, PairFolder
from rscd.data.images import label_suffix, write_picture
from rscd.geo.changemap import check_numbers
from rscd.labels.store import source_of

RUN = "run.json"

log = logging.getLogger(__name__)


ChangeMaps = Callable[[FloatArray], FloatArray]
"""Change map of a whole image: (2,C,H,W) float32 raw values -> (H,W) float32 in [0,1]."""


@dataclass(frozen=True)
class Summary:
    """Summary of the masks of a run."""

    folders: list[str]
    pairs: int
    written: int
    """Masks written in this run; the others existed already."""
    predicted: int
    """Maps computed; pairs labelled unchanged need none."""
    changed_share: float
    """Fraction of the valid pixels of the masks written in this run."""
    failed: dict[str, str] = field(default_factory=dict)
    """Errors of unreadable pairs by name; these have no mask yet."""


class Samples(Protocol):
    """Numbered samples with ``image``, and further keys by use."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


def labelled_maps(
    data: Samples, make_map: ChangeMaps, *, gated: bool, progress: Progress, stage: str
) -> Iterator[tuple[FloatArray, ByteArray]]:
    """Maps and true masks of a split, to choose a threshold by.

    Args:
        data: with keys ``image`` and ``mask``.
        make_map: the model.
        gated: use empty maps for pairs whose mask (or ``label``, if it is a key) shows no change.
        progress: progress callback, called after each pair.
        stage: the stage to report.

    Yields:
        (H,W) map and (H,W) mask of each pair.
    """
    for index in range(len(data)):
        sample = data[index]
        mask: ByteArray = sample["mask"][0].numpy().astype(np.uint8)
        changed = bool(sample["label"]) if "label" in sample else bool((mask == 1).any())
        if gated and not changed:
            yield np.zeros(mask.shape, np.float32), mask
        else:
            yield _map_of(sample, make_map), mask
        progress(stage, index + 1, len(data))


def positive_maps(
    data: Samples, make_map: ChangeMaps, *, progress: Progress
) -> Iterator[FloatArray]:
    """Values (n,) of the maps of pairs whose ``label`` is change, or of all if that is not a key.

    Where ``valid`` says that a date has no data, the map tells nothing and is left out.
    """
    for index in range(len(data)):
        sample = data[index]
        if bool(sample.get("label", 1)):
            found = _map_of(sample, make_map)
            yield found[sample["valid"][0].numpy()] if "valid" in sample else found.ravel()
        progress("threshold", index + 1, len(data))


@contextmanager
def prepare(
    folders: Sequence[Path], recipe: Provenance, *, overwrite: bool = False
) -> Iterator[Provenance | None]:
    """Hold the folders for masks, and see whether a run with the same recipe began there.

    Args:
        folders: for masks, such as `mask_folders`.
        recipe: plain data that determines the masks.
        overwrite: delete masks of another recipe.

    Yields:
        What an earlier run of this recipe noted; None where there was none.

    Raises:
        OutputError: where masks of another recipe lie, or another run is writing.
        DataError: where the notes of an earlier run are damaged.
    """
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(alone(folder))
        for folder in folders:
            Claim(
                folder,
                "masks",
                recipe,
                _made,
                "give --overwrite, or another --name or -o FOLDER",
                Earlier(RUN, lambda note: note.get("recipe", {})),
            ).take(overwrite=overwrite)
        noted = {folder: _read(folder / RUN) for folder in folders}
        same = (run for run in noted.values() if run is not None and run.get("recipe") == recipe)
        earlier = next(same, None)
        if earlier is not None:  # a run killed while it noted this left folders without
            note([folder for folder in folders if noted[folder] != earlier], earlier)
        yield earlier


def _made(folder: Path) -> list[Path]:
    masks = [*folder.glob("*.png"), *folder.rglob("*.tif")]
    return [*masks, folder / RUN] if masks else masks


def note(folders: Sequence[Path], run: Provenance) -> None:
    """Write what made the masks beside them."""
    text = json.dumps(run, indent=2, sort_keys=True) + "\n"
    for folder in folders:
        with writing(folder / RUN):
            write_whole(folder / RUN, text)


def images_of(data: PairFolder) -> Provenance:
    """What the images of each pair are, by the pair's name: tells when one was replaced."""
    return {files.name: [source_of(files.t1), source_of(files.t2)] for files in data.files}


def chosen_from(data: PairFolder) -> str:
    """Hash of what the images and masks are that a threshold is chosen from."""
    files = [path for f in data.files for path in (f.t1, f.t2, f.mask) if path is not None]
    return digest_of({"files": [source_of(path) for path in files]})


def drop_outdated(data: PairFolder, name: str | Path, before: object) -> None:
    """Remove the masks of pairs whose images are no longer what they were.

    Args:
        data: with the images as they are.
        name: see `mask_folders`.
        before: `images_of` them when the masks were made; masks of others go.
    """
    known = before if isinstance(before, Mapping) else {}
    now = images_of(data)
    gone = []
    for files in data.files:
        path = _path(data, files, name)
        if known.get(files.name) != now[files.name] and path.exists():
            path.unlink()
            gone.append(files.name)
    if gone:
        log.warning(
            "images of %d pair(s) were replaced since their masks were made, such as %s: these "
            "masks are made anew",
            *(len(gone), gone[0]),
        )


def write_pseudo_masks(
    data: PairFolder,
    make_map: ChangeMaps,
    threshold: float,
    name: str | Path,
    *,
    progress: Progress,
) -> Summary:
    """Write the missing masks; an unreadable pair does not stop the others.

    Args:
        data: with keys ``image``, ``valid``, and optionally ``label``, by which unchanged pairs get
            empty masks without prediction (section 4.3).
        make_map: the model.
        threshold: change is strictly above it, in float32 (section 4.4).
        name: see `mask_folders`.
        progress: progress callback, called after each pair.
    """
    written = predicted = changed = usable = 0
    failed: dict[str, str] = {}
    for index, files in enumerate(data.files):
        path = _path(data, files, name)
        if not path.exists():
            try:
                sample = data[index]
            except DataError as error:
                log.error("pair %s failed: %s", files.name, error)
                failed[files.name] = str(error)
                continue
            mask, made = mask_of(sample, make_map, threshold)
            predicted += made
            place = sample.get("crs"), sample.get("transform")
            write_picture(path, mask[None], *place, IGNORE)
            written += 1
            changed += int(np.count_nonzero(mask == 1))
            usable += int(np.count_nonzero(mask != IGNORE))
        progress("masks", index + 1, len(data))
    folders = [str(folder) for folder in mask_folders(data, name)]
    share = changed / usable if usable else 0.0
    return Summary(folders, len(data), written, predicted, share, failed)


def mask_of(
    sample: Mapping[str, Any], make_map: ChangeMaps, threshold: float
) -> tuple[ByteArray, bool]:
    """The pseudo mask of a sample, and whether it was predicted; see `write_pseudo_masks`.

    Returns:
        (H,W) uint8: 0, 1, and 255 where the sample is not valid.
    """
    valid = sample["valid"][0].numpy()
    mask = np.zeros(valid.shape, np.uint8)
    predicted = bool(sample.get("label", 1))
    if predicted:
        mask[_map_of(sample, make_map) > np.float32(threshold)] = 1
    mask[~valid] = IGNORE
    return mask, predicted


def _map_of(sample: Mapping[str, Any], make_map: ChangeMaps) -> FloatArray:
    """The map of a sample: finite everywhere, because pixels without data are 0 in its images."""
    found = make_map(sample["image"].numpy())
    check_numbers(found, np.ones(found.shape, bool), f"the network for pair {sample['name']}")
    return found


def mask_folders(data: PairFolder, name: str | Path) -> list[Path]:
    """Folders for the masks of pairs, one beside each folder of a date.

    Args:
        data: whose pairs get masks.
        name: of the folder beside the dates, or the path of a folder elsewhere.

    Raises:
        UsageError: where `name` is none.
    """
    if isinstance(name, str) and (Path(name).name != name or name in ("", ".", "..")):
        raise UsageError(f"expected the name of a folder beside the dates, found {name!r}")
    return list(dict.fromkeys(_folder(data, files.base, name) for files in data.files))


def _path(data: PairFolder, files: PairFiles, name: str | Path) -> Path:
    """File of the mask of a pair."""
    return _folder(data, files.base, name) / f"{files.stem}{label_suffix(files.t1)}"


def _folder(data: PairFolder, base: Path, name: str | Path) -> Path:
    return base / name if isinstance(name, str) else name / base.relative_to(data.root)


def _read(path: Path) -> Provenance | None:
    return read_note(path, "the record of a run", "remove the folder") if path.exists() else None
