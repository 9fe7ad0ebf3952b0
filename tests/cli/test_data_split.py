"""``rscd data split``: labelled shares as files, and ``rscd evaluate --split-file`` on them."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rscd.cli import main
from rscd.data.folder import PairFolder
from rscd.data.splits import read_split

N = 40


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    rng = np.random.default_rng(0)
    names = [f"train_{i // 16}_{i % 16 + 1}" for i in range(N)]
    for name in [*names, "val_1_1"]:
        t1 = rng.integers(0, 90, (16, 16, 3), np.uint8)
        label = np.zeros((16, 16), np.uint8)
        label[:8] = 255
        t2 = t1 + (label[..., None] // 2)
        for folder, array in (("A", t1), ("B", t2), ("label", label)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / folder / f"{name}.png")
    (root / "list").mkdir()
    (root / "list" / "train.txt").write_text("".join(f"{name}.png\n" for name in names))
    (root / "list" / "val.txt").write_text("val_1_1.png\n")
    return root


def run(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        code: Any = main(["data", "split", *map(str, words)])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def names_of(root: Path) -> list[str]:
    return (root / "list" / "train.txt").read_text().replace(".png", "").split()


def test_shares_are_nested_seeded_and_read_by_training(
    capsys: pytest.CaptureFixture[str], pairs: Path
) -> None:
    code, out, _ = run(capsys, pairs)
    assert code == 0
    assert out.splitlines()[0].startswith(f"{pairs}/split_5.json: 2 labeled, 38 unlabeled; random")
    order = sorted(names_of(pairs))
    random.Random(0).shuffle(order)
    for percent, n in ((5, 2), (10, 4), (20, 8), (40, 16)):
        file = pairs / f"split_{percent}.json"
        parts = {
            part: PairFolder(pairs, part, split_file=file).names
            for part in ("labeled", "unlabeled")
        }
        assert parts == {"labeled": tuple(order[:n]), "unlabeled": tuple(order[n:])}
    before = (pairs / "split_5.json").read_bytes()
    assert run(capsys, pairs)[0] == 0, "the same again"
    assert (pairs / "split_5.json").read_bytes() == before


def test_first_names_and_another_folder(
    capsys: pytest.CaptureFixture[str], pairs: Path, tmp_path: Path
) -> None:
    words = (pairs, "--how", "first", "--percent", "30", "-o", tmp_path / "new", "--json")
    code, out, _ = run(capsys, *words)
    assert code == 0
    [(file, told)] = json.loads(out).items()
    assert told["labeled"] == 12
    assert read_split(file)["labeled"] == tuple(sorted(names_of(pairs))[:12])


def test_another_split_is_not_replaced_unasked(
    capsys: pytest.CaptureFixture[str], pairs: Path
) -> None:
    assert run(capsys, pairs, "--percent", "10")[0] == 0
    before = (pairs / "split_10.json").read_bytes()
    code, out, err = run(capsys, pairs, "--percent", "5,10", "--seed", "1")
    assert (code, out) == (1, "")
    assert "split_10.json, found one; give --overwrite" in err
    assert (pairs / "split_10.json").read_bytes() == before
    assert not (pairs / "split_5.json").exists(), "all or none"
    assert run(capsys, pairs, "--percent", "10", "--seed", "1", "--overwrite")[0] == 0
    assert (pairs / "split_10.json").read_bytes() != before


def published(root: Path, names: list[str], n: int) -> Path:
    here = root / "5%"
    here.mkdir(parents=True)
    for part, some in (("labeled", names[:n]), ("unlabeled", names[n:])):
        (here / f"{part}.txt").write_text("".join(f"{name}.png\n" for name in some))
    return root


def test_published_lists_are_checked_against_the_set(
    capsys: pytest.CaptureFixture[str], pairs: Path, tmp_path: Path
) -> None:
    names = names_of(pairs)[::-1]
    lists = published(tmp_path / "lists", names, 2)
    assert run(capsys, pairs, "--lists", lists, "--percent", "5")[0] == 0
    assert read_split(pairs / "split_5.json")["labeled"] == tuple(names[:2])
    foldered = published(tmp_path / "foldered", [f"train/A/{name}" for name in names], 2)
    assert run(capsys, pairs, "--lists", foldered, "--percent", "5", "--overwrite")[0] == 0
    chosen = PairFolder(pairs, "labeled", split_file=pairs / "split_5.json", keys={"image"})
    assert chosen.names == tuple(names[:2])
    other = published(tmp_path / "other", [*names[:-1], "train_9_1"], 2)
    code, _, err = run(capsys, pairs, "--lists", other, "--percent", "5", "--overwrite")
    assert code == 1
    assert "expected lists of the 40 pairs of train" in err
    code, _, err = run(capsys, pairs, "--lists", lists)
    assert code == 1
    assert f"{lists / '10%'}, found no such lists; name the shares" in err
    assert "leave --lists out" in err


@pytest.mark.parametrize("wrong", ["0", "100", "5,x", ""])
def test_wrong_percentages(capsys: pytest.CaptureFixture[str], pairs: Path, wrong: str) -> None:
    code, _, err = run(capsys, pairs, "--percent", wrong)
    assert code == 2
    assert "expected whole percentages from 1 to 99" in err


def test_evaluation_of_a_part_of_a_split(capsys: pytest.CaptureFixture[str], pairs: Path) -> None:
    assert run(capsys, pairs, "--percent", "10")[0] == 0
    file = str(pairs / "split_10.json")
    line = ["evaluate", str(pairs), "--split-file", file, "-m", "cva", "--json", "-q"]
    assert main([*line, "--split", "labeled"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["split"], found["pairs"]) == ("labeled", 4)
    assert main(line) == 1
    assert "expected split to name a part of" in capsys.readouterr().err


def street(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 2)):
        for n in range(count):
            for folder in ("t0", "t1", "mask"):
                (root / split / folder).mkdir(parents=True, exist_ok=True)
                array = rng.integers(0, 255, (16, 16, 3), np.uint8)
                array = 255 * (array[..., 0] > 128).astype(np.uint8) if folder == "mask" else array
                Image.fromarray(array).save(root / split / folder / f"{split}{n}.png")
    return root


def test_street_sets_are_split_and_evaluated_alike(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    root = street(tmp_path / "cmu")
    assert run(capsys, root, "--percent", "20")[0] == 0
    split = read_split(root / "split_20.json")
    assert split.counts == {"labeled": 2, "unlabeled": 8}
    file = str(root / "split_20.json")
    line = ["evaluate", str(root), "--split-file", file, "-m", "cva", "--json", "-q"]
    assert main([*line, "--split", "labeled"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == 2
    assert main(line) == 1
    assert "expected a part of" in capsys.readouterr().err
    name = split["labeled"][0]
    for folder in ("t0", "t1", "mask"):
        (root / "test" / folder / "test0.png").rename(root / "test" / folder / f"{name}.png")
    assert main([*line, "--split", "labeled"]) == 1
    assert f"found '{name}' 2 times in the splits" in capsys.readouterr().err
    line[1] = str(root / "train")
    assert main([*line, "--split", "labeled"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == 2
