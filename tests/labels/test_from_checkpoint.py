"""Pseudo masks: what becomes change, what is kept, what stops and what does not."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from rscd.base.errors import DataError, OutputError
from rscd.base.types import silent
from rscd.data.folder import PairFolder
from rscd.data.images import read_label_values, write_picture
from rscd.evaluation.thresholds import otsu
from rscd.labels.from_checkpoint import (
    mask_folders,
    note,
    positive_maps,
    prepare,
    write_pseudo_masks,
)

SIDE = 16


def pairs(root: Path, n: int = 3) -> Path:
    for number in range(n):
        for date in ("A", "B"):
            (root / date).mkdir(parents=True, exist_ok=True)
            pixels = np.full((3, SIDE, SIDE), 10 * number + 5, np.uint8)
            write_picture(root / date / f"p{number}.png", pixels)
    return root


@pytest.mark.parametrize("threshold", [0.3, 0.5, 1 / 3])
def test_change_is_strictly_above_the_threshold_in_float32(
    tmp_path: Path, threshold: float
) -> None:
    data = PairFolder(pairs(tmp_path, 1), keys={"image", "valid"})
    at = np.float32(threshold)
    values = np.array([np.nextafter(at, 0), at, np.nextafter(at, 1)], np.float32)
    prob = np.resize(values, (SIDE, SIDE))
    with prepare(mask_folders(data, "pseudo"), {}):
        write_pseudo_masks(data, lambda image: prob, threshold, "pseudo", progress=silent)
    mask = read_label_values(tmp_path / "pseudo" / "p0.png")
    np.testing.assert_array_equal(mask, prob > at)
    assert mask.sum() == (prob == values[2]).sum()


def test_pixels_without_data_do_not_count_for_otsu(tmp_path: Path) -> None:
    """A constant map over half of a pair would be one of the two groups."""
    for date in ("A", "B"):
        pixels = np.full((4, SIDE, SIDE), 90, np.uint8)
        pixels[3] = 255
        pixels[3, : SIDE // 2] = 0  # transparent
        (tmp_path / date).mkdir()
        Image.fromarray(np.moveaxis(pixels, 0, 2)).save(tmp_path / date / "p.png")
    prob = np.full((SIDE, SIDE), 0.05, np.float32)
    prob[SIDE // 2 :, : SIDE // 2], prob[SIDE // 2 :, SIDE // 2 :] = 0.5, 0.7
    for keys, threshold in (({"image", "valid"}, 0.6), ({"image"}, 0.275)):
        data = PairFolder(tmp_path, keys=keys)
        found = otsu(positive_maps(data, lambda image: prob, progress=silent), prob.size)
        assert found.threshold == pytest.approx(threshold)
    everywhere = PairFolder(tmp_path, keys={"image", "valid"})[0]
    nothing = [{**everywhere, "valid": torch.zeros_like(everywhere["valid"])}]
    with pytest.raises(DataError, match="expected pairs with change for Otsu's threshold"):
        otsu(positive_maps(nothing, lambda image: prob, progress=silent), prob.size)


def test_a_damaged_pair_stops_nothing_and_gets_its_mask_when_mended(tmp_path: Path) -> None:
    data = PairFolder(pairs(tmp_path), keys={"image", "valid"})
    damaged = tmp_path / "B" / "p1.png"
    whole = damaged.read_bytes()
    damaged.write_bytes(b"no picture")
    maps = []

    def some_map(image: np.ndarray) -> np.ndarray:
        maps.append(image)
        return np.full((SIDE, SIDE), 0.9, np.float32)

    with prepare(mask_folders(data, "pseudo"), {"a": 1}) as earlier:
        assert earlier is None
    found = write_pseudo_masks(data, some_map, 0.5, "pseudo", progress=silent)
    assert (found.written, found.pairs, len(maps)) == (2, 3, 2)
    assert list(found.failed) == ["p1"]
    assert "p1.png: cannot be read" in found.failed["p1"]
    damaged.write_bytes(whole)
    again = write_pseudo_masks(data, some_map, 0.5, "pseudo", progress=silent)
    assert (again.written, len(maps), again.failed) == (1, 3, {})


def test_masks_of_georeferenced_dates_lie_where_the_dates_lie(
    tmp_path: Path, write_tif: Callable[..., Path]
) -> None:
    for folder in ("A", "B"):
        (tmp_path / folder).mkdir()
        pixels = np.full((3, SIDE, SIDE), 5, np.uint8)
        if folder == "B":
            pixels[:, :2] = 0
        write_tif(tmp_path / folder / "p.tif", pixels, nodata=0)
    data = PairFolder(tmp_path, keys={"image", "valid"})
    prob = np.eye(SIDE, dtype=np.float32)
    for written in (1, 0):  # the second time it is there
        with prepare(mask_folders(data, "pseudo"), {}):
            found = write_pseudo_masks(data, lambda image: prob, 0.5, "pseudo", progress=silent)
        assert found.written == written
    with (
        rasterio.open(tmp_path / "A" / "p.tif") as t1,
        rasterio.open(tmp_path / "pseudo" / "p.tif") as mask,
    ):
        assert (mask.crs, mask.transform, mask.nodata) == (t1.crs, t1.transform, 255)
        expected = np.where(np.arange(SIDE)[:, None] < 2, 255, prob)
        np.testing.assert_array_equal(mask.read(1), expected)
    read = PairFolder(tmp_path, keys={"mask"}, mask_from="pseudo")[0]["mask"]
    np.testing.assert_array_equal(read[0], expected)
    with prepare(mask_folders(data, "pseudo"), {"other": 1}, overwrite=True):
        assert not (tmp_path / "pseudo" / "p.tif").exists()


def test_folders_that_a_killed_run_left_without_a_note_get_it(tmp_path: Path) -> None:
    for part in ("train", "val"):
        pairs(tmp_path / part)
    data = PairFolder(tmp_path, keys={"image", "valid"})
    run = {"recipe": {"a": 1}, "found": {}}
    with prepare(mask_folders(data, "pseudo"), {"a": 1}):
        note(mask_folders(data, "pseudo"), run)
    lost = tmp_path / "val" / "pseudo" / "run.json"
    lost.unlink()
    with prepare(mask_folders(data, "pseudo"), {"a": 1}) as earlier:
        assert earlier == run
    assert lost.exists()


def test_a_threshold_of_another_recipe_is_not_taken(tmp_path: Path) -> None:
    data = PairFolder(pairs(tmp_path), keys={"image", "valid"})
    with prepare(mask_folders(data, "pseudo"), {"a": 1}):
        note(mask_folders(data, "pseudo"), {"recipe": {"a": 1}, "found": {}})
    with prepare(mask_folders(data, "pseudo"), {"a": 2}) as earlier:  # no mask was written
        assert earlier is None


@pytest.mark.parametrize("recipe", [{"a": 1}, {"a": 2}])
def test_masks_of_version_0_1_are_resumed_by_the_same_recipe_alone(
    tmp_path: Path, recipe: dict[str, int]
) -> None:
    data = PairFolder(pairs(tmp_path), keys={"image", "valid"})
    run = {"recipe": {"a": 1}, "found": {}}
    with prepare(mask_folders(data, "pseudo"), {"a": 1}):
        note(mask_folders(data, "pseudo"), run)
        shutil.copy(tmp_path / "A" / "p0.png", tmp_path / "pseudo" / "p0.png")
    (tmp_path / "pseudo" / "claim.json").unlink()
    if recipe == {"a": 1}:
        with prepare(mask_folders(data, "pseudo"), recipe) as earlier:
            assert earlier == run
    else:
        with pytest.raises(OutputError, match="found other a; give --overwrite"):
            prepare(mask_folders(data, "pseudo"), recipe).__enter__()
        with prepare(mask_folders(data, "pseudo"), recipe, overwrite=True) as earlier:
            assert earlier is None
        assert [path.name for path in (tmp_path / "pseudo").iterdir()] == ["claim.json"]
