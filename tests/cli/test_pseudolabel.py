"""Pseudo masks from a checkpoint, through the command."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import rscd.labels.from_checkpoint as from_checkpoint
from rscd.cli import main
from rscd.data.folder import PairFolder
from rscd.data.images import write_picture
from rscd.inference.network import load_network, save_weights
from rscd.methods.parts.multiscale import Views, msi
from rscd.models.networks import build_network

CAM = {"encoder": "tu-resnet18", "output_stride": 16, "combination": "cat"}
SIZE = 64


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = build_network("cam", CAM)
    path = tmp_path_factory.mktemp("weights") / "kd.safetensors"
    card = {"halo": 64, "multiple": 16, "patch_size": SIZE, "threshold": 0.5}
    save_weights(path, network, "cam", CAM, card)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four training pairs, two of them with change, and two for validation."""
    rng = np.random.default_rng(0)
    for part, names in (("train", "abcd"), ("val", "ef")):
        for i, name in enumerate(names):
            masks = np.zeros((SIZE, SIZE), np.uint8)
            masks[:, : 32 * (i % 2 == 0)] = 255
            images = rng.integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
            for kind, pixels in (("A", images[0]), ("B", images[1]), ("label", masks)):
                (tmp_path / "set" / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(tmp_path / "set" / kind / f"{name}.png")
        lists = tmp_path / "set" / "list"
        lists.mkdir(exist_ok=True)
        (lists / f"{part}.txt").write_text("".join(f"{name}.png\n" for name in names))
        lines = (f"{name}.png,0,0,{int(i % 2 == 0)}\n" for i, name in enumerate(names))
        (lists / f"{part}_label.txt").write_text("".join(lines))
    return tmp_path / "set"


def label(
    folder: Path, weights: Path, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[dict[str, Any], str]:
    command = ["pseudolabel", str(folder), "--checkpoint", str(weights), "--split", "train"]
    code = main([*command, "--device", "cpu", "--scales", "fast", "--json", "-q", *options])
    out = capsys.readouterr()
    return (json.loads(out.out), "") if code == 0 else ({}, out.err)


def masks_of(folder: Path, name: str = "pseudo") -> dict[str, NDArray[Any]]:
    return {path.stem: np.asarray(Image.open(path)) for path in (folder / name).glob("*.png")}


@pytest.mark.slow
def test_masks_are_those_of_the_functions_and_gated(
    folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result, _ = label(folder, weights, capsys, "--threshold", "0.45")
    masks = masks_of(folder)
    network = load_network(weights, "cpu", 1)
    data = PairFolder(folder, "train", keys={"image", "label"})
    assert set(masks) == set(data.names) == set("abcd")
    for index, name in enumerate(data.names):
        sample = data[index]
        with torch.inference_mode():
            views = Views((0.5, 1.0))
            maps = msi(lambda x: network.outputs(x)["cam"], sample["image"][None], views)
        wanted = (maps[0, 0].numpy() > np.float32(0.45)) & bool(sample["label"])
        np.testing.assert_array_equal(masks[name], wanted)
    assert result["predicted"] == 2
    assert result["written"] == 4
    noted = json.loads((folder / "pseudo" / "run.json").read_text())
    assert noted["found"] == {"threshold": 0.45, "rule": "fixed", "criterion": None, "score": None}
    assert noted["recipe"]["checkpoint"] == network.sha256


@pytest.mark.parametrize("rule", ["val", "otsu", "train_oracle"])
@pytest.mark.parametrize("maps", ["msi", "cam"])
def test_rules_for_thresholds(
    folder: Path, weights: Path, capsys: pytest.CaptureFixture[str], rule: str, maps: str
) -> None:
    result, _ = label(folder, weights, capsys, "--threshold", rule, "--maps", maps)
    assert result["rule"] == rule
    assert 0 <= result["threshold"] < 1
    criterion = {"val": "iou_change", "train_oracle": "miou", "otsu": None}[rule]
    assert result["criterion"] == criterion


def test_training_masks_are_not_opened(
    folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abcd":
        (folder / "label" / f"{name}.png").unlink()
    for rule in ("val", "otsu"):
        result, _ = label(folder, weights, capsys, "--threshold", rule, "--name", rule)
        assert result["written"] == 4
    _, error = label(folder, weights, capsys, "--threshold", "train_oracle", "--name", "x")
    assert "has no mask file" in error


def test_a_stopped_run_goes_on(
    folder: Path, weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--threshold", "val", "--no-gate")
    result, _ = label(folder, weights, capsys, *options, "--name", "whole")
    whole = masks_of(folder, "whole")
    written: list[Path] = []

    def stop_after_two(path: Path, pixels: NDArray[Any], *where: Any, **options: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write_picture(path, pixels, *where, **options)

    with monkeypatch.context() as patch:
        patch.setattr(from_checkpoint, "write_picture", stop_after_two)
        label(folder, weights, capsys, *options)
    assert len(written) == 2
    stamps = {path: path.stat().st_mtime_ns for path in written}
    again, _ = label(folder, weights, capsys, *options)
    assert again["written"] == result["written"] - 2
    assert again["threshold"] == result["threshold"]
    assert stamps == {path: path.stat().st_mtime_ns for path in written}
    assert all(np.array_equal(mask, whole[name]) for name, mask in masks_of(folder).items())
    done, _ = label(folder, weights, capsys, *options)
    assert done["written"] == done["predicted"] == 0


def replaced(path: Path) -> None:
    """Another picture of the same name."""
    pixels = 255 - np.asarray(Image.open(path))
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize("rule", ["0.45", "val"])
def test_a_pair_whose_image_was_replaced_gets_another_mask(
    folder: Path, weights: Path, capsys: pytest.CaptureFixture[str], rule: str
) -> None:
    options = ("--threshold", rule, "--no-gate", "--name")
    label(folder, weights, capsys, *options, "old")
    for name in "abcd":  # to be told from masks that are made
        Image.fromarray(np.full((SIZE, SIZE), 7, np.uint8)).save(folder / "old" / f"{name}.png")
    replaced(folder / "B" / "b.png")
    again, _ = label(folder, weights, capsys, *options, "old")
    assert again["written"] == 1
    fresh, _ = label(folder, weights, capsys, *options, "new")
    assert again["threshold"] == fresh["threshold"]
    masks = masks_of(folder, "old")
    assert np.array_equal(masks["b"], masks_of(folder, "new")["b"])
    assert all((masks[name] == 7).all() for name in "acd")
    done, _ = label(folder, weights, capsys, *options, "old")
    assert done["written"] == 0


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        ("val", "A/e.png"),
        ("val", "label/e.png"),
        ("otsu", "A/a.png"),
        ("train_oracle", "label/a.png"),
    ],
)
def test_a_threshold_chosen_from_what_was_replaced_is_not_gone_on_with(
    folder: Path, weights: Path, capsys: pytest.CaptureFixture[str], rule: str, what: str
) -> None:
    label(folder, weights, capsys, "--threshold", rule)
    assert label(folder, weights, capsys, "--threshold", rule)[0]["written"] == 0
    replaced(folder / what)
    _, error = label(folder, weights, capsys, "--threshold", rule)
    assert "give --overwrite, or another --name" in error
    result, _ = label(folder, weights, capsys, "--threshold", rule, "--overwrite")
    assert result["written"] == 4


def test_masks_of_another_recipe_are_not_mixed(
    folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label(folder, weights, capsys, "--threshold", "0.5")
    _, error = label(folder, weights, capsys, "--threshold", "0.6")
    assert "give --overwrite, or another --name" in error
    result, _ = label(folder, weights, capsys, "--threshold", "0.6", "--overwrite")
    assert result["written"] == 4


def test_what_cannot_be_meant_is_refused(
    folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, message in (
        (("--threshold", "best"), "expected --threshold val, train_oracle, otsu"),
        (("--name", "../x"), "expected the name of a folder"),
        (("--scales", "huge"), "expected scales"),
    ):
        assert message in label(folder, weights, capsys, *options)[1]
    (folder / "list" / "train_label.txt").unlink()
    assert "give labels=" in label(folder, weights, capsys)[1]
