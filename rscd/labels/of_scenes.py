"""Pseudo masks of georeferenced scenes: predicted patch by patch, one GeoTIFF per scene.

They lie on the grid of the scenes: 0 no change, 1 change, 255 where a date has no data or no patch
was. Training takes them as ``labels`` of `rscd.data.scenes.Scene`.
"""

import logging
from collections import Counter
from pathlib import Path

import numpy as np

from rscd.base.errors import DataError, SceneError
from rscd.base.files import digest_of, writing
from rscd.base.redact import redacted
from rscd.base.types import IGNORE, ByteArray, Progress
from rscd.data.images import write_picture
from rscd.data.samplers import InOrder
from rscd.data.scenes import Placed, ScenePairs
from rscd.geo.grid import shape_hw, stored_crs
from rscd.geo.tiles import Box
from rscd.labels.from_checkpoint import ChangeMaps, Summary, mask_of
from rscd.labels.store import source_of

log = logging.getLogger(__name__)


def mask_path(folder: Path, name: str) -> Path:
    """File of the mask of a scene; a name such as ``town/a`` has a folder."""
    return folder / f"{name}.tif"


def identity(scenes: ScenePairs) -> str:
    """Hash of what the images, labels and answers of scenes are: tells when one was replaced."""
    images = {(redacted(s.path), s.stamp) for p in scenes.places for s in (p.pair.t1, p.pair.t2)}
    others = {path for place in scenes.places for path in _files(place) if Path(path).is_file()}
    texts = [scene.where for scene in scenes.scenes]
    stamps = [source_of(Path(path)) for path in sorted(others)]
    return digest_of({"images": sorted(map(str, images)), "labels": stamps, "where": texts})


def _files(place: Placed) -> set[str]:
    scene = place.scene
    answered = {scene.answers} if place.answer is not None else {scene.labels}
    others = {*(scene.buildings or ()), scene.area}
    return {path for path in answered | others if path is not None}


def write_scene_masks(
    patches: InOrder, make_map: ChangeMaps, threshold: float, folder: Path, *, progress: Progress
) -> Summary:
    """Write the missing masks; an unreadable scene does not stop the others.

    A mask is held in memory, one byte per pixel of its scene.

    Args:
        patches: of `ScenePairs` with keys ``image``, ``valid``, and optionally ``label``, by which
            unchanged patches get empty masks without prediction.
        make_map: the model.
        threshold: change is strictly above it, in float32.
        folder: for the masks.
        progress: progress callback, called after each patch.

    Raises:
        DataError: if two scenes have one name.
        OutputError: if a mask cannot be written.
    """
    scenes: ScenePairs = patches.dataset
    names = Counter({id(place.pair): place.name for place in scenes.places}.values())
    twice = next((name for name, count in names.items() if count > 1), None)
    if twice is not None:
        raise DataError(f"expected scenes of different names, found {twice} twice; set name")
    work: dict[str, list[int]] = {}
    for number, query in enumerate(patches.items):
        work.setdefault(scenes.locate(query)[0].name, []).append(number)
    written = predicted = changed = usable = done = 0
    failed: dict[str, str] = {}
    for name, numbers in work.items():
        path = mask_path(folder, name)
        if not path.exists():
            try:
                mask, made = _scene_mask(patches, numbers, make_map, threshold)
            except (DataError, SceneError) as error:
                log.error("scene %s failed: %s", name, error)
                failed[name] = str(error)
                continue
            grid = scenes.locate(patches.items[numbers[0]])[0].pair.grid
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_picture(path, mask[None], stored_crs(grid), grid.affine, IGNORE)
            written += 1
            predicted += made
            changed += int(np.count_nonzero(mask == 1))
            usable += int(np.count_nonzero(mask != IGNORE))
        done += len(numbers)
        progress("masks", done, len(patches))
    share = changed / usable if usable else 0.0
    return Summary([str(folder)], len(work), written, predicted, share, failed)


def _scene_mask(
    patches: InOrder, numbers: list[int], make_map: ChangeMaps, threshold: float
) -> tuple[ByteArray, int]:
    """(H,W) mask of one scene from its patches, and how many of them were predicted."""
    placed, _ = patches.dataset.locate(patches.items[numbers[0]])
    whole = np.full(shape_hw(placed.pair.grid), IGNORE, np.uint8)
    predicted = 0
    for number in numbers:
        _, box = patches.dataset.locate(patches.items[number])
        mask, made = mask_of(patches[number], make_map, threshold)
        predicted += made
        here, part = _inside(box, whole.shape)
        np.copyto(whole[here], mask[part], where=mask[part] != IGNORE)
    return whole, predicted


def _inside(box: Box, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The part of a box inside a grid, in pixels of the grid and of the box."""
    here, part = [], []
    for start, length, size in zip((box.row, box.col), box.shape_hw, shape, strict=True):
        low, high = max(start, 0), min(start + length, size)
        here.append(slice(low, high))
        part.append(slice(low - start, high - start))
    return (here[0], here[1]), (part[0], part[1])
