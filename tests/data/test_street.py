"""Street sets on stand-in trees of the published layouts."""

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rscd.base.errors import DataError
from rscd.data.show import write_sheet
from rscd.data.splits import Split, labeled_split
from rscd.data.street import (
    CHANGESIM_COLOURS,
    PCD,
    VLCMUCD,
    ChangeSim,
    StreetPair,
    crops_of,
    detect_polarity,
    fold_split,
)
from rscd.data.street_base import StreetDataset
from rscd.data.street_conditions import street_conditions


def groups(data: StreetDataset) -> Counter[str]:
    """Number of samples by group: panoramas, sequences or places."""
    return Counter(pair.group for pair in data.pairs)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def picture(seed: int, height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def colours(extra: tuple[int, int, int] | None = None) -> np.ndarray:
    array = np.zeros((12, 16, 3), np.uint8)
    for row, colour in enumerate(CHANGESIM_COLOURS):
        array[row] = colour
    if extra is not None:
        array[11, :3] = extra
    return array


def changesim(root: Path, frames: tuple[int, ...] = (0, 2, 10)) -> Path:
    for split, warehouses in (("Train", (0, 1)), ("Test", (6,))):
        for k in warehouses:
            for sequence in ("Seq_0", "Seq_1", "Seq_0_dust", "Seq_0_dark"):
                base = root / f"Query_Seq_{split}" / f"Warehouse_{k}" / sequence
                for n in frames:
                    save(base / "rgb" / f"{n}.png", picture(n))
                    save(base / "t0" / "rgb" / f"{n}.png", picture(100 + n))
                    save(base / "change_segmentation" / f"{n}.png", colours())
    return root


def test_changesim(tmp_path: Path) -> None:
    root = changesim(tmp_path)
    train = ChangeSim(root)
    assert len(train) == 2 * 2 * 3
    assert train.names[:3] == tuple(f"Warehouse_0/Seq_0/{n}" for n in (0, 2, 10))
    assert len(groups(train)) == 4
    assert len(ChangeSim(root, "test")) == 3
    assert len(ChangeSim(root, "test", sequences=(0, 1))) == 6
    for condition, suffix in (("dusty", "_dust"), ("dark", "_dark")):
        names = ChangeSim(root, "test", condition=condition).names  # type: ignore[arg-type]
        assert names[0] == f"Warehouse_6/Seq_0{suffix}/0"

    sample = ChangeSim(root, keys={"image", "mask", "label", "classes", "flow"})[2]
    assert sample["image"].shape == (2, 3, 12, 16)
    assert np.array_equal(sample["image"][0], np.moveaxis(picture(110), 2, 0))
    assert np.array_equal(sample["image"][1], np.moveaxis(picture(10), 2, 0))
    assert sample["classes"][0, :, 0].tolist() == [0, 1, 2, 3, 4] + [0] * 7
    assert torch.equal(sample["mask"], (sample["classes"] > 0).long())
    assert sample["label"] == 1
    assert sample["flow"].shape == (2, 12, 16)
    assert sample["flow"].abs().sum() == sample["use_flow"] == 0
    known = ChangeSim(root, keys={"image", "use_flow"})[2]
    assert known.keys() == {"name", "image", "use_flow"}
    assert known["use_flow"] == 0


def test_changesim_unknown_colours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = changesim(tmp_path, (0,)) / "Query_Seq_Train" / "Warehouse_0" / "Seq_0"
    save(base / "change_segmentation" / "0.png", colours((9, 9, 9)))
    data = ChangeSim(tmp_path, keys={"classes"})
    with caplog.at_level(logging.WARNING):
        assert data[0]["classes"][0, 11].sum() == 0
    assert data.unknown_colours == 3
    assert "3 pixels of unknown colours" in caplog.text


def test_changesim_pose_filter(tmp_path: Path) -> None:
    changesim(tmp_path, (0, 1))
    for k in (0, 1):
        for n in (0, 1):
            for s in ("Seq_0", "Seq_1"):
                query = tmp_path / "Query_Seq_Train" / f"Warehouse_{k}" / s
                reference = tmp_path / "Ref_Seq_Train" / f"Warehouse_{k}" / s
                for folder in (query / "pose", query / "t0" / "idx", reference / "pose"):
                    folder.mkdir(parents=True, exist_ok=True)
                (query / "pose" / f"{n}.txt").write_text(" ".join(["0"] * 7))
                (query / "t0" / "idx" / f"{n}.txt").write_text(str(n + 5))
                far = "3.5 0 0 0 0 0 0" if n else "3.4 0 0 0 0 0 0"
                (reference / "pose" / f"{n + 5}.txt").write_text(far)
    near = ChangeSim(tmp_path, max_pose_difference=0.5)
    assert [pair.t2.stem for pair in near.pairs] == ["0"] * 4
    with pytest.raises(DataError, match="poses cannot be read"):
        ChangeSim(tmp_path, "test", max_pose_difference=0.5)


def test_changesim_incomplete(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no ChangeSim pairs; expected Warehouse_\*/Seq_"):
        ChangeSim(tmp_path)
    base = changesim(tmp_path) / "Query_Seq_Train" / "Warehouse_0" / "Seq_0"
    (base / "change_segmentation" / "2.png").unlink()
    with pytest.raises(DataError, match="masks missing: 1, first of 'Warehouse_0/Seq_0/2'"):
        ChangeSim(tmp_path)
    assert "mask" not in ChangeSim(tmp_path, keys={"image"})[1]
    (base / "t0" / "rgb" / "2.png").unlink()
    with pytest.raises(DataError, match=r"2\.png: the reference view"):
        ChangeSim(tmp_path)


def panorama_mask(change_value: int) -> np.ndarray:
    mask = np.full((224, 1024), 255 - change_value, np.uint8)
    mask[:, 100:200] = change_value
    return mask


def pcd(root: Path, n: int = 5) -> Path:
    for subset, folder, value in (("TSUNAMI", "mask", 255), ("GSV", "ground_truth", 0)):
        for i in range(n):
            for date in ("t0", "t1"):
                image = picture(i + 50 * (date == "t1"), 224, 1024)
                save(root / subset / date / f"{i:08d}.jpg", image)
            suffix = "png" if folder == "mask" else "bmp"
            save(root / subset / folder / f"{i:08d}.{suffix}", panorama_mask(value))
    return root


def test_pcd_crops_and_folds(tmp_path: Path) -> None:
    root = pcd(tmp_path)
    train, test = (PCD(root, split, fold=1) for split in ("train", "test"))
    assert len(train) == 2 * 4 * 60
    assert len(test) == 2 * 60
    assert not set(groups(train)) & set(groups(test))
    assert set(groups(test)) == {"TSUNAMI/00000001", "GSV/00000001"}
    assert set(groups(test).values()) == {60}
    assert {name: len(indices) for name, indices in test.subsets.items()} == {
        "TSUNAMI": 60,
        "GSV": 60,
    }
    assert len(PCD(root, "all", crops=False, subsets=("GSV",))) == 5


def test_pcd_masks_of_both_polarities(tmp_path: Path) -> None:
    test = PCD(pcd(tmp_path, 5), "test")
    expected = np.zeros((224, 1024), np.int64)
    expected[:, 100:200] = 1
    for index in (0, 1, 4 * 14 + 3, 60, 60 + 6):
        pair, sample = test.pairs[index], test[index]
        assert pair.window is not None
        left, side = pair.window
        window = np.rot90(expected[:, left : left + side], pair.turns)
        assert np.array_equal(sample["mask"][0], window)
        assert sample["image"].shape == (2, 3, 224, 224)
    assert set(test.polarity.values()) == {"white", "nonwhite"}
    forced = PCD(tmp_path, "test", change_value="white", subsets=("GSV",))
    assert forced[0]["mask"].float().mean() > 0.5


def test_pcd_decides_what_change_is_by_all_masks_of_a_folder(tmp_path: Path) -> None:
    """Pairs that are changed for the most part say the opposite when they are chosen alone."""
    root = pcd(tmp_path)
    mostly = np.full((224, 1024), 255, np.uint8)
    mostly[:, :100] = 0
    save(root / "TSUNAMI" / "mask" / "00000000.png", mostly)
    for options in ({"split": "all", "only": {"names": ("TSUNAMI/00000000",)}}, {"split": "test"}):
        data = PCD(root, subsets=("TSUNAMI",), crops=False, **options)
        assert data.names == ("TSUNAMI/00000000",)
        assert torch.equal(data[0]["mask"][0] == 1, torch.from_numpy(mostly == 255))


def test_pcd_in_a_folder_called_after_its_subsets(tmp_path: Path) -> None:
    found = street_conditions(pcd(tmp_path / "tsunami_and_gsv"))
    assert found is not None
    assert {name: len(part) for name, part in found.parts.items()} == {"TSUNAMI": 60, "GSV": 60}


def test_pcd_turns_images_and_masks_alike(tmp_path: Path) -> None:
    data = PCD(pcd(tmp_path, 5), "test", keys={"image"})
    upright, turned = data[0]["image"], data[1]["image"]
    assert torch.equal(turned, torch.rot90(upright, 1, (2, 3)))
    whole = PCD(tmp_path, "test", keys={"image"}, crops=False)[0]["image"]
    assert torch.equal(upright, whole[..., :224])
    assert torch.equal(data[4 * 14]["image"], whole[..., 784:1008])


def test_pcd_published_numbers() -> None:
    panoramas = [f"{i:08d}" for i in range(100)]
    for fold in range(5):
        split = fold_split(panoramas, fold)
        assert split["test"] == tuple(panoramas[20 * fold : 20 * fold + 20])
        assert split.counts == {"train": 80, "test": 20}
    crops = crops_of(StreetPair("p", Path("a"), Path("b"), None, "p"))
    assert len(crops) == 60
    assert sorted({crop.window[0] for crop in crops if crop.window}) == list(range(0, 785, 56))
    assert len({crop.name for crop in crops}) == 60
    assert 2 * 80 * len(crops) == 9600
    with pytest.raises(DataError, match="folds 0 to 4"):
        fold_split(panoramas, 5)


def test_pcd_ready_crops(tmp_path: Path) -> None:
    for split, names in (("train", ("gsv_001_0", "tsunami_001_0")), ("test", ("gsv_002_0",))):
        base = tmp_path / "set2" / split
        for name in names:
            save(base / "t0" / f"{name}.jpg", picture(0))
            save(base / "t1" / f"{name}.jpg", picture(1))
            save(base / "mask" / f"{name}.png", np.eye(12, 16, dtype=np.uint8) * 255)
    train = PCD(tmp_path, "train", fold=2)
    assert len(train) == 2
    assert train.subsets == {"GSV": (0,), "TSUNAMI": (1,)}
    assert train[0]["mask"].sum() == 12
    assert len(PCD(tmp_path, "all", fold=2, subsets=("GSV",))) == 2


def test_pcd_failures(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no PCD pairs; expected TSUNAMI, GSV"):
        PCD(tmp_path)
    with pytest.raises(DataError, match="fold is 5"):
        PCD(tmp_path, fold=5)
    base = tmp_path / "GSV"
    for date in ("t0", "t1"):
        save(base / date / "a.png", picture(0))
    with pytest.raises(DataError, match=r"crops need images 224 pixels high .* found 16 x 12"):
        PCD(tmp_path, "all", keys={"image"})[0]
    (base / "t1" / "a.png").unlink()
    with pytest.raises(DataError, match="no image 'a' beside t0"):
        PCD(tmp_path, "all")


def test_vl_cmu_cd(tmp_path: Path) -> None:
    for split, n in (("train", 3), ("test", 2)):
        base = tmp_path / "prepared" / split
        for i in range(n):
            save(base / "t0" / f"000_{i:02d}.png", picture(i))
            save(base / "t1" / f"000_{i:02d}.png", picture(10 + i))
            save(base / "gt" / f"000_{i:02d}.png", np.eye(12, 16, dtype=np.uint8) * 7)
    data = VLCMUCD(tmp_path / "prepared", "test", keys={"image", "mask", "label"})
    assert len(data) == 2
    assert list(groups(data)) == ["000"]
    assert data[0]["mask"].sum() == 12
    assert data[0]["label"] == 1

    raw = tmp_path / "set" / "raw" / "003"
    for number in ("00", "01", "10"):
        save(raw / "RGB" / f"1_{number}.png", picture(0))
        save(raw / "RGB" / f"2_{number}.png", picture(1))
        save(raw / "GT" / f"gt{number}.png", np.zeros((12, 16), np.uint8))
    whole = VLCMUCD(tmp_path / "set", "all", keys={"mask", "label"})
    assert whole.names == ("003_00", "003_01", "003_10")
    assert whole[0]["label"] == 0
    with pytest.raises(DataError, match="no VL-CMU-CD pairs; expected train/"):
        VLCMUCD(tmp_path / "set")
    (raw / "RGB" / "2_10.png").unlink()
    with pytest.raises(DataError, match=r"2_10\.png: the later image"):
        VLCMUCD(tmp_path / "set", "all")


def test_sizes(tmp_path: Path) -> None:
    base = tmp_path / "train"
    save(base / "t0" / "a_1.png", picture(0))
    save(base / "t1" / "a_1.png", picture(0, 24, 32))
    save(base / "mask" / "a_1.png", np.repeat(np.eye(12, 16, dtype=np.uint8) * 255, 2, 1))
    with pytest.raises(DataError, match="make both one size, or give size="):
        VLCMUCD(tmp_path)[0]
    sample = VLCMUCD(tmp_path, size=(6, 8))[0]
    assert sample["image"].shape == (2, 3, 6, 8)
    assert sample["mask"].shape == (1, 6, 8)
    assert set(sample["mask"].unique().tolist()) <= {0, 1}
    save(base / "t1" / "a_1.png", picture(0))
    with pytest.raises(DataError, match="the mask is 12 x 32 pixels"):
        VLCMUCD(tmp_path)[0]


def test_keys(tmp_path: Path) -> None:
    root = changesim(tmp_path, (0,))
    with pytest.raises(DataError, match=r"keys of street sets: .*, found valid"):
        ChangeSim(root, keys={"valid"})
    for mask in root.rglob("change_segmentation/*.png"):
        mask.write_bytes(b"")
    assert set(ChangeSim(root, keys={"image"})[0]) == {"image", "name"}
    marked = ChangeSim(root, keys={"image"}, transforms=lambda s: s | {"seen": True})
    assert marked[0]["seen"]


def test_plot(tmp_path: Path) -> None:
    data = ChangeSim(changesim(tmp_path, (0,)))
    assert [axis.get_title() for axis in data.plot(data[0]).axes] == ["t1", "t2", "mask"]
    assert write_sheet([data[0], data[1]], tmp_path / "sheet.png").is_file()


@pytest.mark.realdata
def test_real_street_samples(realdata: Path) -> None:
    street = realdata / "street"
    cmu = VLCMUCD(street / "vl-cmu-cd", "all", keys={"image", "mask", "label"})
    assert len(cmu) == 6
    assert len(groups(cmu)) == 3
    for index in range(len(cmu)):
        sample = cmu[index]
        assert sample["image"].shape == (2, 3, 512, 512)
        assert 0 < sample["mask"].float().mean() < 0.5
        assert sample["label"] == 1
    for name in ("pcd-gsv", "pcd-tsunami"):
        masks = sorted((street / name / "mask").iterdir())
        assert detect_polarity(masks) == "white"
        data = PCD(street, "all", subsets=(name,), crops=False)
        assert len(data) == 2
        assert set(data[0]["mask"].unique().tolist()) == {0, 1}


def side_by_side(base: Path, count: int, mask: str = "mask") -> Path:
    for n in range(count):
        save(base / "t0" / f"{n}.png", picture(n))
        save(base / "t1" / f"{n}.png", picture(n + 50))
        save(base / mask / f"{n}.png", np.full((12, 16), 255 * (n % 2), np.uint8))
    return base


def test_conditions_of_changesim(tmp_path: Path) -> None:
    root = changesim(tmp_path)
    found = street_conditions(root)
    assert found is not None
    assert found.split == "test"
    assert found.conditions == {"normal": (0, 1, 2), "dusty": (3, 4, 5), "dark": (6, 7, 8)}
    assert found.names[3] == "Warehouse_6/Seq_0_dust/0"
    sample = found[4]
    assert sample["name"] == found.names[4]
    assert sample["valid"].all()
    assert sample["valid"].shape == sample["mask"].shape == (1, 12, 16)
    train = street_conditions(root, "train", (24, 32))
    assert train is not None
    assert {k: len(v) for k, v in train.conditions.items()} == {"normal": 12, "dusty": 6, "dark": 6}
    assert train[0]["image"].shape == (2, 3, 24, 32)
    with pytest.raises(DataError, match=r"a split among train, test .* found 'val'"):
        street_conditions(root, "val")


def test_conditions_of_other_layouts(tmp_path: Path) -> None:
    for subset in ("TSUNAMI", "GSV"):
        for n in range(5):
            for date in ("t0", "t1"):
                save(tmp_path / "pcd" / subset / date / f"{n}.jpg", picture(n, 224, 1024))
            save(tmp_path / "pcd" / subset / "mask" / f"{n}.png", np.zeros((224, 1024), np.uint8))
    pcd = street_conditions(tmp_path / "pcd")
    assert pcd is not None
    assert {k: len(v) for k, v in pcd.conditions.items()} == {"TSUNAMI": 60, "GSV": 60}

    side_by_side(tmp_path / "cmu" / "test", 2, "gt")
    cmu = street_conditions(tmp_path / "cmu")
    assert cmu is not None
    assert cmu.conditions == {"cmu": (0, 1)}

    for name, count in (("near", 2), ("far", 1)):
        side_by_side(tmp_path / "places" / name, count)
    side_by_side(tmp_path / "places" / "unlabelled", 1, "elsewhere")
    places = street_conditions(tmp_path / "places")
    assert places is not None
    assert places.conditions == {"far": (0,), "near": (1, 2)}
    plain = street_conditions(tmp_path / "places" / "near")
    assert plain is not None
    assert plain[1]["mask"].all()
    assert street_conditions(side_by_side(tmp_path / "other", 1, "label")) is None
    with pytest.raises(DataError, match="expected no split"):
        street_conditions(tmp_path / "places", "test")
    assert street_conditions(tmp_path) is None
    assert street_conditions(tmp_path / "none") is None


def test_some_of_the_pairs(tmp_path: Path) -> None:
    root = side_by_side(tmp_path / "cmu" / "train", 20).parent
    every = VLCMUCD(root).names
    tenth = VLCMUCD(root, only={"percent": 10}).names
    assert len(tenth) == 2
    assert VLCMUCD(root, only={"percent": 20}).names[:2] == tenth
    assert VLCMUCD(root, only={"percent": 10, "seed": 1}).names != tenth
    assert VLCMUCD(root, only={"percent": 100}).names == every
    chosen = VLCMUCD(root, only={"names": ["3", "1"]})
    assert chosen.names == ("3", "1")
    assert torch.equal(chosen[1]["image"], VLCMUCD(root)[1]["image"])
    split = labeled_split(every, 30)
    split.write(tmp_path / "split.json")
    file = str(tmp_path / "split.json")
    part = VLCMUCD(root, only={"split_file": file, "part": "labeled"})
    assert part.names == split["labeled"]
    for wrong, message in (
        ({"names": ["77"]}, "1 of 1 chosen pairs do not exist, first '77'"),
        ({"split_file": file}, "by split_file and part"),
        ({"percent": 5, "names": ["1"]}, "give one of them"),
        ({}, "give one of them"),
    ):
        with pytest.raises(DataError, match=message):
            VLCMUCD(root, only=wrong)


def test_listed_pairs_of_both_splits_and_all_conditions(tmp_path: Path) -> None:
    root = changesim(tmp_path)
    names = {"labeled": ("Warehouse_0/Seq_1/2", "Warehouse_6/Seq_0_dust/0")}
    Split(names, "by hand").write(tmp_path / "split.json")
    found = street_conditions(root, "labeled", split_file=tmp_path / "split.json")
    assert found is not None
    assert found.names == names["labeled"]
    assert found.conditions == {"normal": (0,), "dusty": (1,)}
    Split({"labeled": ("Warehouse_0/Seq_1/9",)}, "").write(tmp_path / "split.json")
    with pytest.raises(DataError, match="1 of 1 chosen pairs do not exist"):
        street_conditions(root, "labeled", split_file=tmp_path / "split.json")
