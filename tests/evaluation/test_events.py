"""``rscd evaluate --segmenter``: levels against a separate computation, stores, what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import label

from rscd.cli import main
from rscd.data.splits import Split
from rscd.evaluation.rows import read_rows

SIZE, NAMES = 48, ("a", "b", "c")
WORDS = ["--foreground", "house,building", "--background", "road,grass"]
GAMMAS = (0.3, 0.5, 0.65)


def scores(rng: np.random.Generator) -> NDArray[Any]:
    """(4,H,W) blurred noise in [0,1], in the steps of the store."""
    noise = [cv2.GaussianBlur(rng.random((SIZE, SIZE)), (0, 0), 3) for _ in range(4)]
    low, high = np.min(noise), np.max(noise)
    return (np.rint((np.array(noise) - low) / (high - low) * 200) / 200).astype(np.float32)


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """Pairs, masks and, as APE writes them for DiffMatch, scores and objects of each date."""
    rng = np.random.default_rng(4)
    found = {}
    for name in NAMES:
        for folder in ("A", "B", "label"):
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
            image = rng.integers(0, 255, (SIZE, SIZE, 3), np.uint8)
            if folder == "label":
                blur = cv2.GaussianBlur(rng.random((SIZE, SIZE)), (0, 0), 4)
                image = np.where(blur > np.quantile(blur, 0.8), 255, 0).astype(np.uint8)
                truth = image == 255
            cv2.imwrite(str(tmp_path / "set" / folder / f"{name}.png"), image)
        dates = []
        for date in ("t1", "t2"):
            prob = scores(rng)
            parts, count = label(prob[0] > 0.6)
            (tmp_path / "ape" / date).mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / "ape" / date / f"{name}.npy", prob)
            objects = [coco(parts == number) for number in range(1, count + 1)]
            (tmp_path / "ape" / date / f"{name}.json").write_text(json.dumps(objects))
            dates.append((prob, [parts == number for number in range(1, count + 1)]))
        found[name] = (truth, *dates)
    return tmp_path, found


def coco(mask: NDArray[Any]) -> dict[str, Any]:
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.r_[False, flat]))
    counts = np.diff(np.r_[0, edges, flat.size]).tolist()
    return {
        "category_id": 0,
        "score": 0.9,
        "segmentation": {"size": [SIZE, SIZE], "counts": counts},
    }


def evaluate(root: Path, *more: Any, code: int = 0) -> None:
    argv = ["evaluate", str(root / "set"), "--segmenter", "precomputed", "-q", *WORDS]
    argv += ["--segmenter-option", f"folder={root / 'ape'}", *map(str, more)]
    try:
        found: object = main(argv)
    except SystemExit as stop:
        found = stop.code
    assert found == code


def published(
    truth: NDArray[Any],
    first: tuple[NDArray[Any], list[NDArray[Any]]],
    second: tuple[NDArray[Any], list[NDArray[Any]]],
    gamma: float,
) -> dict[tuple[str, float | None], tuple[NDArray[Any], NDArray[Any]]]:
    """DiffMatch, section 2, written out pixel by pixel: level -> prediction, reliable."""
    semantic, best = [], []
    for prob, _ in (first, second):
        front, back = prob[:2].max(axis=0), prob[2:].max(axis=0)
        semantic.append(front >= back)
        best.append(np.maximum(front, back) >= np.float32(gamma))
    flips, reliable = semantic[0] != semantic[1], best[0] & best[1]
    events = np.zeros_like(flips)
    for own, other in ((first, second), (second, first)):
        for mask in own[1]:
            if not any((mask & one).any() for one in other[1]):
                events |= mask
    return {
        ("pixel", gamma): (flips & reliable, reliable),
        ("instance", None): (events, np.ones_like(flips)),
        ("mixed", gamma): (flips & events & reliable, reliable),
    }


def test_levels_and_gammas_against_a_separate_computation(
    data: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    root, pairs = data
    rows = tmp_path / "rows.csv"
    evaluate(root, "--gamma", ",".join(map(str, GAMMAS)), "--rows", rows, "--row", "APE")
    expected: dict[tuple[str, str, str], list[Any]] = {}
    for truth, t1, t2 in pairs.values():
        for gamma in GAMMAS:
            for (level, own), (guess, known) in published(truth, t1, t2, gamma).items():
                for condition, where in (("all", np.ones_like(known)), ("reliable", known)):
                    text = "" if own is None else f"{own:g}"
                    parts = expected.setdefault((condition, level, text), [])
                    parts.append((guess[where], truth[where]))
    found = {(r["condition"], r["at"], r["threshold"]): r for r in read_rows(rows)}
    assert len(found) == 2 * 2 * len(GAMMAS) + 1
    assert {row["row"] for row in found.values()} == {"APE"}
    for key, row in found.items():
        guess, truth = (np.concatenate(side) for side in zip(*expected[key], strict=True))
        hit, either = (guess & truth).sum(), (guess | truth).sum()
        assert float(row["iou_change"]) == pytest.approx(hit / either, abs=1e-6), key
        assert float(row["f1_change"]) == pytest.approx(2 * hit / (hit + either), abs=1e-6)
        assert 0 < hit < either, "a row that means something"
    pixels = int(found["all", "pixel", "0.65"]["pixels"])
    assert pixels == len(NAMES) * SIZE**2
    assert 0 < int(found["reliable", "mixed", "0.65"]["pixels"]) < pixels


def test_a_store_is_shared_with_the_labels(
    data: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What ``rscd pseudolabel`` segmented is not segmented again, nor for another gamma."""
    root, _ = data
    store = tmp_path / "store"
    words = ["--segmenter-option", f"folder={root / 'ape'}", *WORDS, "-q"]
    argv = ["pseudolabel", str(root / "set"), "--segmenter", "precomputed", "-o", str(store)]
    assert main([*argv, *words, "--level", "pixel", "--gamma", "0.5"]) == 0
    changed = sum(
        np.count_nonzero(cv2.imread(str(store / "vl_change" / f"{name}.png"), 0) == 1)
        for name in NAMES
    )
    shutil.rmtree(store / "vl_change")
    before = {path: path.stat().st_mtime_ns for path in (store / "prob").iterdir()}
    capsys.readouterr()
    evaluate(root, "--store", store, "--gamma", "0.5", "--json")
    told = json.loads(capsys.readouterr().out)
    assert {path: path.stat().st_mtime_ns for path in (store / "prob").iterdir()} == before
    pixel = told["levels"][0]
    assert (pixel["level"], pixel["gamma"]) == ("pixel", 0.5)
    counts = pixel["reliable"]["confusion"]
    assert counts["tp"] + counts["fp"] == changed > 0
    evaluate(root, "--store", store, "--foreground", "house", code=1)
    assert "another folder" in capsys.readouterr().err


def test_a_split_file_and_a_damaged_pair(
    data: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = data
    file = root / "split.json"
    Split({"labeled": ("a",), "unlabeled": ("b", "c")}, "by hand").write(file)
    evaluate(root, "--split-file", file, "--split", "labeled", "--json")
    assert json.loads(capsys.readouterr().out)["pairs"] == 1
    (root / "set" / "A" / "b.png").write_bytes(b"no picture")
    evaluate(root, "--json", code=1)
    told, error = capsys.readouterr()
    assert json.loads(told)["pairs"] == 2
    assert "b" in json.loads(told)["failed"]
    assert "found 1 that failed: b" in error


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-m", "cva"], "expected --model only with -m, found --segmenter"),
        (["--tta", "1"], "expected --tta only with -m"),
        (["--predicted-value", "1"], "only with a prediction and a truth"),
        (["--gamma", "0.5,0.5"], "expected each gamma once"),
        (["--gamma", "0.5,2"], "from 0 to 1, found '2'"),
    ],
)
def test_what_is_refused(
    data: tuple[Path, dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    evaluate(data[0], *more, code=2)
    assert message in capsys.readouterr().err


def test_levels_are_of_segmenters_alone(
    data: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(data[0] / "set"), "-m", "cva", "--gamma", "0.5"]) == 2
    assert "expected --gamma only with --segmenter" in capsys.readouterr().err
