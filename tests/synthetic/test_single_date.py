"""Pairs made from images of one date: what is change in them, and what never is."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from rscd.base.errors import DataError
from rscd.synthetic import single_date
from rscd.synthetic.single_date import SingleDatePairs, held_back, read_tiles
from rscd.training.module import ChangeDataModule, Stream

ROOF = (255, 0, 255)
"""Red, green, blue; no ground has it."""


def picture(rng: np.random.Generator, *, buildings: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Noise of a ground tone with square roofs, and its mask."""
    image = np.clip(rng.normal(90, 12, (200, 200, 3)), 0, 255).astype(np.uint8)
    mask = np.zeros((200, 200), np.uint8)
    for _ in range(buildings):
        top, left = rng.integers(10, 150, 2)
        image[top : top + 36, left : left + 36] = ROOF
        mask[top : top + 36, left : left + 36] = 255
    return image, mask


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("singles")
    rng = np.random.default_rng(0)
    rows = []
    for name, count, buildings, place in (
        ("towns", 6, 5, "here"),
        ("towns", 3, 5, "panauti"),
        ("bare", 20, 0, None),
    ):
        for folder in ("image", "mask"):
            (root / name / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            file = f"{place}_{number:03d}"
            image, mask = picture(rng, buildings=buildings)
            quality = [cv2.IMWRITE_JPEG_QUALITY, 100]
            cv2.imwrite(str(root / name / "image" / f"{file}.jpg"), image[..., ::-1], quality)
            if buildings:
                cv2.imwrite(str(root / name / "mask" / f"{file}.png"), mask)
            rows.append((name, file, 0.4, place))
    pd.DataFrame(rows, columns=["set", "name", "gsd_m", "place"]).to_csv(
        root / "index.csv", index=False
    )
    return root


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Light, season and shadow left alone, so that roofs can be told by their colour."""
    monkeypatch.setattr(single_date, "lit", lambda _rng, image: image * 255)
    monkeypatch.setattr(single_date, "seasoned", lambda _rng, image: image)
    monkeypatch.setattr(single_date, "shaded", lambda _rng, image, *_: image)


def roofs(sample: dict[str, Any]) -> Tensor:
    """(2,S,S): where each date shows the colour of roofs."""
    image = sample["image"]
    return (image[:, 0] > 180) & (image[:, 2] > 180) & (image[:, 1] < 90)


def test_a_pair_depends_on_seed_and_number_alone(folder: Path) -> None:
    first = SingleDatePairs(folder, seed=1, patch_size=96)
    again = SingleDatePairs(folder, seed=1, patch_size=96)
    other = SingleDatePairs(folder, seed=2, patch_size=96)
    first[5]  # what was asked before does not matter
    for key in ("image", "mask", "standing"):
        assert torch.equal(first[3][key], again[3][key])
    assert not torch.equal(first[3]["image"], other[3]["image"])


@pytest.mark.parametrize("number", range(6))
def test_a_sample_holds_what_it_says(folder: Path, number: int) -> None:
    sample = SingleDatePairs(folder, patch_size=96)[number]
    assert sample["image"].shape == (2, 3, 96, 96)
    assert sample["image"].dtype == torch.float32
    assert 0 <= sample["image"].min() <= sample["image"].max() <= 255
    assert sample["mask"].shape == (1, 96, 96)
    assert sample["standing"].shape == (2, 96, 96)
    assert set(sample["mask"].unique().tolist()) <= {0, 1, 255}
    assert set(sample["standing"].unique().tolist()) <= {0, 1, 255}


@pytest.mark.usefixtures("plain")
def test_where_nothing_is_built_nothing_is_change(folder: Path) -> None:
    pairs = SingleDatePairs(folder, patch_size=96, kinds=(0, 0, 1))
    samples = [pairs[number] for number in range(12)]
    assert any((sample["standing"] == 1).any() for sample in samples)
    assert not any((sample["mask"] == 1).any() for sample in samples)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("kinds", [(1, 0, 0), (0, 1, 0)])
def test_change_is_a_building_at_exactly_one_date(
    folder: Path, kinds: tuple[int, int, int]
) -> None:
    pairs = SingleDatePairs(folder, patch_size=96, kinds=kinds, shift_px=0)
    inside = changed = 0
    for number in range(40):
        sample = pairs[number]
        one = sample["standing"].eq(1).sum(0) == 1
        change = sample["mask"][0] == 1
        # roofs lean by some pixels: of what changed, nearly all stands at one date
        inside += int((change & one).sum())
        changed += int(change.sum())
        both = sample["standing"].eq(1).all(0)
        assert (change & both).sum() <= 0.1 * change.sum() + 60
    assert changed > 1000
    assert inside > 0.9 * changed


@pytest.mark.usefixtures("plain")
def test_truth_lies_where_the_picture_shows_a_roof(folder: Path) -> None:
    pairs = SingleDatePairs(folder, patch_size=96, kinds=(0, 1, 0))
    hit = shown = 0
    for number in range(25):
        sample = pairs[number]
        seen = roofs(sample)
        standing = sample["standing"] == 1
        hit += int((seen & standing).sum())
        shown += int(seen.sum())
    assert shown > 2000
    assert hit > 0.85 * shown


@pytest.mark.usefixtures("plain")
def test_meeting_buildings_of_two_places_are_left_out(folder: Path) -> None:
    pairs = SingleDatePairs(folder, patch_size=160, kinds=(1, 0, 0), shift_px=0)
    left_out = 0
    for number in range(40):
        sample = pairs[number]
        both = sample["standing"].eq(1).all(0)
        left_out += int((both & (sample["mask"][0] == 255)).sum())
    assert left_out > 200


def test_validation_sees_other_pictures(folder: Path) -> None:
    names = {
        split: {tile.name for tiles in read_tiles(folder, split) for tile in tiles}
        for split in ("train", "val")
    }
    assert names["train"]
    assert names["val"]
    assert not names["train"] & names["val"]
    assert {name for name in names["val"] if "panauti" in name} == {
        f"towns/panauti_{number:03d}" for number in range(3)
    }


def test_pictures_without_a_place_are_held_back_in_blocks_of_neighbours() -> None:
    rows = pd.DataFrame({"name": [f"{n:04d}" for n in range(300)], "place": None})
    held = held_back("any", rows)
    assert 0.1 < held.mean() < 0.2
    assert np.count_nonzero(np.diff(held.astype(int))) <= 2 * 300 / 128 + 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*`isinstance.treespec, LeafSpec.` is deprecated")
def test_streams_of_both_kinds_train_the_mixed_method(folder: Path) -> None:
    from rscd.methods.registry import METHODS
    from rscd.synthetic.town_pairs import TownPairs

    method = METHODS["building-change-mixed"](
        encoder_rate=0.5, weak={"patch_size": 64}, losses={"bce": 1, "dice": 1}
    )
    data = ChangeDataModule(
        {
            "train": Stream.of(
                TownPairs(2, patch_size=96, keys=["image", "mask", "land_cover"], fresh=False),
                batch_size=1,
            ),
            "real": Stream.of(SingleDatePairs(folder, length=4, patch_size=64), batch_size=2),
        },
        needs=method.needs,
    )
    data.setup("fit")
    batches = next(iter(data.train_dataloader()))[0]
    assert set(batches) == {"train", "real"}
    terms = method.losses(batches, 0, 1)
    assert set(terms) == {"bce", "dice", "buildings"}
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    slow, fast = method.parameter_groups(0.1)
    assert (slow["lr"], fast["lr"]) == (0.05, 0.1)
    known = {*slow["params"], *fast["params"]}
    assert known == set(method.parameters())


def test_a_folder_of_something_else_is_a_user_error(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match=r"expected index\.csv .* found none"):
        SingleDatePairs(tmp_path)
    with pytest.raises(DataError, match="expected image, mask, standing, found flow"):
        SingleDatePairs(folder, keys=["image", "flow"])


def test_a_picture_that_is_missing_is_named(tmp_path: Path) -> None:
    pd.DataFrame([("a", "1", 0.4, None)], columns=["set", "name", "gsd_m", "place"]).to_csv(
        tmp_path / "index.csv", index=False
    )
    with pytest.raises(DataError, match=r"expected a readable image, found none .*1\.jpg"):
        read_tiles(tmp_path, "val")


def test_a_folder_without_bare_ground_is_a_user_error(tmp_path: Path, folder: Path) -> None:
    table = pd.read_csv(folder / "index.csv")
    table[table["set"] == "towns"].to_csv(tmp_path / "index.csv", index=False)
    (tmp_path / "towns").symlink_to(folder / "towns")
    with pytest.raises(DataError, match="found 3 and 0; check the folder"):
        SingleDatePairs(tmp_path, "val")
