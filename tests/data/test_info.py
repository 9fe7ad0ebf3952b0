"""The report finds every kind of fault that is planted, and none in a sound folder."""

import json
from pathlib import Path

import numpy as np
import pytest
from rasterio import Affine
from rasterio.crs import CRS

from rscd.base.errors import DataError
from rscd.data.images import write_picture
from rscd.data.info import FolderReport, info
from rscd.data.labels import format_label_list

SIDE = 16


def image(seed: int, side: int = SIDE, bands: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (bands, side, side), dtype=np.uint8)


def mask(rows: int = 4, value: int = 255) -> np.ndarray:
    array = np.zeros((1, SIDE, SIDE), np.uint8)
    array[0, :rows] = value
    return array


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_picture(path, array)


def sound(root: Path, splits: tuple[str, ...] = ("train", "test"), n: int = 3) -> Path:
    for k, split in enumerate(splits):
        for i in range(n):
            save(root / split / "A" / f"p{i}.png", image(100 * k + 2 * i))
            save(root / split / "B" / f"p{i}.png", image(100 * k + 2 * i + 1))
            save(root / split / "label" / f"p{i}.png", mask(4 * (i > 0)))
    return root


def kinds(report: FolderReport) -> list[str]:
    return [problem.kind for problem in report.problems]


def test_sound_folder(tmp_path: Path) -> None:
    report = info(sound(tmp_path))
    assert report.ok
    train, test = report.parts
    assert (train.name, train.pairs, train.masks, train.empty_masks) == ("train", 3, 3, 1)
    assert test.sizes == {"16 x 16, 3 x uint8": 3}
    assert train.label_values == {"0": 16 * 40, "255": 16 * 8}
    assert train.change_share == pytest.approx(8 / 48)
    assert report.leaks_checked == ("names", "parents", "content")
    text = report.text()
    assert "train: 3 pairs in A and B, 3 masks in label" in text
    assert "label values 0, 255; 16.67 % changed, 1 of 3 masks empty" in text
    assert text.endswith("no problems")
    content = json.loads(report.json())
    assert content["ok"] is True
    assert content["parts"][0]["pairs"] == 3


def test_planted_faults_are_found(tmp_path: Path) -> None:
    root = sound(tmp_path, n=8) / "train"
    broken = root / "A" / "p0.png"
    broken.write_bytes(broken.read_bytes()[:-20])
    (root / "label" / "p1.png").write_bytes(b"no picture")
    save(root / "B" / "p2.png", image(1, SIDE + 1))
    save(root / "B" / "p3.png", image(1, bands=1))
    save(root / "label" / "p4.png", mask(value=7))
    (root / "A" / "p5.png").unlink()
    (root / "label" / "p6.png").unlink()
    save(root / "B" / "p7.png", image(14))
    save(tmp_path / "test" / "A" / "p0.png", image(2))
    report = info(tmp_path)
    assert not report.ok
    found = {(problem.kind, Path(problem.where).name) for problem in report.problems}
    assert found == {
        ("unreadable", "p0.png"),
        ("unreadable", "p1.png"),
        ("size", "p2"),
        ("bands", "p3"),
        ("label values", "p4.png"),
        ("partner", "p5.png"),
        ("partner", "p6.png"),
        ("identical", "p7"),
        ("leak", "p0"),
    }
    text = report.text()
    assert "partner: " in text
    assert "has no t1" in text
    assert "has no mask" in text
    assert "t1 is 16 x 16, t2 17 x 17" in text
    assert "0, 7: reading needs mask_values=" in text
    assert "train/p1 and test/p0: content, train and test" in text
    assert str(root / "A" / "p0.png") in text
    assert json.loads(report.json())["ok"] is False
    assert "leak" not in kinds(info(tmp_path, leaks=False))


def test_all_empty_masks(tmp_path: Path) -> None:
    for i in range(2):
        for seed, folder in enumerate(("A", "B")):
            save(tmp_path / folder / f"{i}.png", image(10 * i + seed))
        save(tmp_path / "label" / f"{i}.png", mask(0))
    report = info(tmp_path)
    assert kinds(report) == ["empty"]
    assert report.leaks_checked == ()


def test_many_problems_are_summed_up(tmp_path: Path) -> None:
    root = sound(tmp_path, ("train",), 9)
    for i in range(9):
        save(root / "train" / "B" / f"p{i}.png", image(2 * i))
    assert "identical: and 4 more" in info(root).text()


def test_lists(tmp_path: Path) -> None:
    for i in range(4):
        for seed, folder in enumerate(("A", "B")):
            save(tmp_path / folder / f"p{i}.png", image(10 * i + seed))
        save(tmp_path / "label" / f"p{i}.png", mask(4 * (i > 0)))
    lists = tmp_path / "list"
    lists.mkdir()
    (lists / "train.txt").write_text("p0.png\np1.png\n")
    (lists / "test.txt").write_text("p2.png\n")
    (lists / "train_label.txt").write_text("p0.png,0,0,0\np1.png,0,0,1\n")
    report = info(tmp_path)
    assert report.ok
    assert report.lists == {"test.txt": 1, "train.txt": 2, "train_label.txt": 2}

    (lists / "train_label.txt").write_text("p0.png,0,0,1\np1.png,0,0,1\n")
    (lists / "test.txt").write_text("p1.png\n")
    (lists / "val.txt").write_text("p9.png\n")
    (lists / "extra.txt").write_text("p3\np3\n")
    (lists / "val_label.txt").write_text("p9.png\n")
    report = info(tmp_path)
    assert sorted(kinds(report)) == ["label", "label", "leak", "list", "list"]
    text = report.text()
    assert "p0 is 1, its mask says 0" in text
    assert "listed pair 'p9' is not in the folder" in text
    assert "names p3 twice" in text
    assert "pair 'p1' of part 'test' is also in 'train'" in text
    (lists / "train_label.txt").write_text("train/p0.png,0,0,1\np1.png,0,0,1\n")
    assert "train/p0 is 1, its mask says 0" in info(tmp_path).text()


def test_labels_of_several_splits_in_one_list(tmp_path: Path) -> None:
    root = sound(tmp_path, ("train", "test"), 2)
    right = {f"{part}/p{i}": i for part in ("train", "test") for i in range(2)}
    (root / "list").mkdir()
    (root / "list" / "all_label.txt").write_text(format_label_list(right))
    assert info(root).ok
    right["test/p1"] = 0
    (root / "list" / "all_label.txt").write_text(format_label_list(right))
    report = info(root)
    assert kinds(report) == ["label"]
    assert report.problems[0].detail == "test/p1 is 0, its mask says 1"


def test_georeferenced_neighbours(tmp_path: Path) -> None:
    for k, split in enumerate(("train", "test")):
        for seed, folder in enumerate(("A", "B")):
            path = tmp_path / split / folder / "x.tif"
            path.parent.mkdir(parents=True)
            grid = Affine(1, 0, k * SIDE, 0, -1, 0)
            write_picture(path, image(10 * k + seed), CRS.from_epsg(32633), grid)
    report = info(tmp_path)
    assert [part.georeferenced for part in report.parts] == [1, 1]
    assert kinds(report) == ["leak"]
    assert "touching" in report.problems[0].detail


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image pairs; searched for A/ B/ label/"):
        info(tmp_path)


@pytest.mark.realdata
def test_real_shares_agree_with_their_index(realdata: Path) -> None:
    rows = [row.split(",") for row in (realdata / "index.csv").read_text().splitlines()[1:]]
    listed = [float(row[5]) for row in rows if row[:2] == ["levir-cd", "test"]]
    test = next(part for part in info(realdata / "levir-cd").parts if part.name == "test")
    assert test.change_share == pytest.approx(np.mean(listed), abs=1e-4)
    leaks = [problem for problem in info(realdata / "idabd").problems if problem.kind == "leak"]
    assert any("touching" in leak.detail for leak in leaks)  # the four tiles are neighbours


def test_a_folder_whose_files_give_255_two_meanings(tmp_path: Path) -> None:
    root = sound(tmp_path, splits=("train",))
    both = mask(4, 1)
    both[0, 8:] = 255
    save(root / "train" / "label" / "p0.png", both)
    report = info(root)
    assert kinds(report) == ["label values", "label values"]  # of each file of 0 and 255
    assert "expected one meaning of 255" in report.problems[0].detail
    for name in ("p1", "p2"):
        save(root / "train" / "label" / f"{name}.png", mask(4, 1))
    report = info(root)
    assert report.ok
    assert report.parts[0].change_share == pytest.approx(12 * SIDE / (40 * SIDE))
