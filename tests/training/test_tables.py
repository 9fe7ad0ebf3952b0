"""One command per published table: chains on stand-ins, and rows against separate computation."""

import csv
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from rscd.cli import main
from rscd.inference.weights import read_card, read_tensors
from rscd.models.networks import build_network
from rscd.synthetic.town_folder import write_town_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:.*`isinstance.treespec, LeafSpec.` is deprecated",
        "ignore:The number of training batches",
        "ignore:.*does not have many workers",
        "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning",
    ),
]

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = "tu-test_resnet"
TINY = ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--data.num_workers", "0",
        "--trainer.log_every_n_steps", "1"]  # fmt: skip


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tables") / "set"
    return write_town_folder(root, {"train": 6, "val": 2, "test": 3}, patch_size=64, seed=3)


def rows_in(path: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    with path.open() as file:
        return {(r["row"], r["condition"], r["at"]): r for r in csv.DictReader(file)}


def pairs(root: Path, split: str) -> Iterator[Any]:
    """(2,3,H,W) float32 and (H,W) bool of each pair, read by Pillow."""
    for name in (root / "list" / f"{split}.txt").read_text().split():
        t1, t2, mask = (np.asarray(Image.open(root / f / name)) for f in ("A", "B", "label"))
        yield np.stack([t1, t2]).transpose(0, 3, 1, 2).astype(np.float32), mask == 255


def network_of(path: Path, **more: Any) -> Any:
    card = read_card(path)
    network = build_network(card["network"], card["network_args"] | {"weights": None} | more)
    network.load_state_dict(read_tensors(path))
    return network.eval()


def counted(guesses: Any, truths: Any) -> list[int]:
    """TP, FP, FN, TN over all pixels."""
    guess, truth = (np.concatenate([a.ravel() for a in side]) for side in (guesses, truths))
    return [
        int(np.sum(guess & truth)), int(np.sum(guess & ~truth)), int(np.sum(~guess & truth)),
        int(np.sum(~guess & ~truth)),
    ]  # fmt: skip


def check_row(row: Mapping[str, str], guesses: Any, truths: Any) -> None:
    """The published metrics of one row (methods/kdmsi.md, section 6)."""
    tp, fp, fn, tn = counted(guesses, truths)
    union, other = tp + fp + fn, tn + fp + fn
    expected = {
        "iou_change": tp / union,
        "miou": (tp / union + tn / other) / 2,
        "f1_macro": (2 * tp / (tp + union) + 2 * tn / (tn + other)) / 2,
        "oa": (tp + tn) / (tp + fp + fn + tn),
        "fp_union": fp / union,
        "fn_union": fn / union,
    }
    assert {name: float(row[name]) for name in expected} == pytest.approx(expected, abs=2e-6)


@pytest.mark.slow
@torch.inference_mode()
def test_the_tables_of_kdmsi(tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    encoder = "model.method_args.network_args"
    small = [
        word
        for stage in ("kd", "cam", "detector", "cam_detector", "supervised")
        for word in (f"--{stage}.{encoder}.encoder", SMALL, f"--{stage}.data.batch_size", "2")
    ]
    small += [
        word for stage in ("kd", "cam") for word in (f"--{stage}.{encoder}.output_stride", "16")
    ]
    small += [
        word
        for stage in ("detector", "cam_detector", "supervised")
        for word in (f"--{stage}.{encoder}.batch_norm", "normal")
    ]
    line = ["train", "-c", str(CONFIGS / "kdmsi.yaml"), "--set.root", str(tiles),
            "--set.weights", "null", "--masks.device", "cpu", *TINY, *small]  # fmt: skip
    with torch.inference_mode(False):
        assert main(line) == 0
    run = tmp_path / "runs" / "kdmsi_levir"
    rows = rows_in(run / "rows.csv")
    assert [key[0] for key in rows if key[2] == "protocol"] == [
        "KD-MSI", "CAM", "Supervised", "teacher map", "student map", "student + MI map",
        "student + MSI map",
    ]  # fmt: skip
    truths = [mask for _, mask in pairs(tiles, "test")]
    for row, stage in (("KD-MSI", "detector"), ("CAM", "cam_detector"),
                       ("Supervised", "supervised")):  # fmt: skip
        network = network_of(run / stage / "best.ckpt")
        logits = [network(torch.from_numpy(image)[None])["logits"][0] for image, _ in
                  pairs(tiles, "test")]  # fmt: skip
        for rule in ("protocol", "model"):
            found = rows[row, "all", rule]
            level = float(found["threshold"])
            probs = [torch.sigmoid(scores[1] - scores[0]).numpy() for scores in logits]
            check_row(found, [prob >= np.float32(level) for prob in probs], truths)
        assert rows[row, "all", "protocol"]["threshold"] == "0.5"
    recalls = {key: float(row["recall"]) for key, row in rows.items()}
    assert any(0 < value < 1 for value in recalls.values()), f"rows that mean something: {recalls}"

    train = list(pairs(tiles, "train"))
    truths = [mask for _, mask in train]
    teacher = network_of(run / "export" / "teacher.safetensors")
    assert (teacher.combination, network_of(run / "kd" / "best.ckpt").combination) == (
        "abs", "cat",
    )  # fmt: skip
    stored = torch.load(run / "kd" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(v, stored[f"method.teacher.{k}"])
               for k, v in teacher.state_dict().items())  # fmt: skip
    student = network_of(run / "kd" / "best.ckpt")

    def peak(grid: Tensor) -> Tensor:
        raised = F.relu(grid)
        return F.relu(raised - 1e-5) / (raised.max() + 1e-5)

    for row, network, squash in (("teacher map", teacher, peak),
                                 ("student map", student, torch.sigmoid)):  # fmt: skip
        maps = []
        for image, mask in train:
            grid = squash(network(torch.from_numpy(image)[None])["cam"])
            fine = F.interpolate(grid, (64, 64), mode="bilinear")[0, 0].numpy()
            maps.append(fine if mask.any() else 0 * fine)
        scores = {}
        for level in [0.05 * k for k in range(1, 20)]:
            tp, fp, fn, _ = counted([m >= np.float32(level) for m in maps], truths)
            scores[round(level, 2)] = tp / max(tp + fp + fn, 1)
        best = rows[row, "all", "best"]
        assert float(best["iou_change"]) == pytest.approx(max(scores.values()), abs=1e-4)
        assert scores[float(best["threshold"])] == pytest.approx(max(scores.values()), abs=1e-4)
    # the same command does nothing, and leaves the rows alone
    before = (run / "rows.csv").stat().st_mtime_ns
    with torch.inference_mode(False):
        assert main(line) == 0
    assert (run / "rows.csv").stat().st_mtime_ns == before


@pytest.mark.slow
@torch.inference_mode()
def test_rows_of_diffmatch_and_another_domain(
    tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root, other = tmp_path / "one", tmp_path / "other"
    for copy, folder in ((root, tmp_path / "labels"), (other, other)):
        shutil.copytree(tiles, copy)
        for layer in ("vl_change", "vl_t1", "vl_t2"):
            (folder / layer).mkdir(parents=True)
            for file in (copy / "label").iterdir():
                Image.fromarray(np.asarray(Image.open(file)) // 255).save(
                    folder / layer / file.name
                )
    assert main(["data", "split", str(root), "--percent", "40"]) == 0
    shape = "--train.model.method_args.network_args"
    common = ["train", "-c", str(CONFIGS / "diffmatch.yaml"), "--set.root", str(root),
              "--set.share", "40", "--set.weights", "null", *TINY, "--train.data.batch_size", "2",
              f"{shape}.encoder", SMALL, "--train.trainer.max_epochs", "2",
              "--train.model.method_args.weak.patch_size", "64",
              "--train.model.halo", "0"]  # fmt: skip
    away = [
        "--set.unlabeled",
        f"{{root: {other}, split: train}}",
        "--set.name",
        "cross-domain",
        "--set.labels",
        "../labels/",
    ]
    gammas = tmp_path / "g90_50"
    marked = ["pseudolabel", str(root), "--segmenter", "buildings", "--gsd", "1.0",
              "--gamma", "0.9", "--gamma-seg", "0.5", "-o", str(gammas)]  # fmt: skip
    table_8 = ["--set.labels", "../g90_50/", "--set.name", "g90_50"]
    with torch.inference_mode(False):
        assert main([*common, "--set.variant", "supervised"]) == 0
        assert main([*common, "--set.variant", "fixmatch"]) == 0
        assert main([*common, *away]) == 0
        assert main(marked) == 0
        assert main([*common, *table_8]) == 0
    runs = tmp_path / "runs" / "diffmatch_levir"
    rows = rows_in(runs / "rows.csv")
    names = ("supervised_40", "fixmatch_40", "cross-domain", "g90_50")
    assert tuple(dict.fromkeys(key[0] for key in rows)) == names
    truths = [mask for _, mask in pairs(root, "test")]
    for name in names:
        network = network_of(runs / name / "train" / "best.ckpt")
        logits = [
            network(torch.from_numpy(image)[None])["logits"][0] for image, _ in pairs(root, "test")
        ]
        probs = [torch.softmax(scores, 0)[1].numpy() for scores in logits]
        for rule in ("protocol", "model", "best"):
            row = rows[name, "all", rule]
            check_row(row, [prob >= np.float32(row["threshold"]) for prob in probs], truths)
    weights = [(runs / name / "train" / "best.ckpt").read_bytes() for name in names]
    assert len(set(weights)) == len(names)


def far_apart(maps: Any, kind: str) -> NDArray[Any]:
    """(H,W) bool: change of (2,K,H,W) maps by depth, as the papers of DCVA and of CVA say."""
    kept = []
    for level in maps:
        t1, t2 = level.double().flatten(2).numpy()
        move = t2 - t1
        most = max(1, round(len(move) / 10))
        best = {k for part in np.split(move, 4, axis=1) for k in part.var(axis=1).argsort()[-most:]}
        spread = np.sqrt((t1.var(axis=1) + t2.var(axis=1)) / 2)[:, None]
        spread[spread <= np.median(spread) / 100] = np.inf  # says nothing
        move -= np.median(move, axis=1, keepdims=True)
        kept.append(move[sorted(best)] if kind == "dcva" else move / spread)
    length = np.sqrt((np.concatenate(kept) ** 2).sum(axis=0))
    edges = np.sort(length)
    n, sums = np.arange(1, edges.size), edges.cumsum()
    means = sums[:-1] / n - (sums[-1] - sums[:-1]) / n[::-1]
    return (length > edges[np.argmax(n * n[::-1] * means**2)]).reshape(level.shape[-2:])


@torch.inference_mode()
def features_of(encoder: Any, image: NDArray[Any]) -> Iterator[Any]:
    """Maps of three depths on the pixels of a pair, around which there is nothing."""
    known = encoder.pretrained_cfg
    mean, std = (255 * torch.tensor(known[key])[:, None, None] for key in ("mean", "std"))
    around = F.pad((torch.from_numpy(image) - mean) / std, (128,) * 4)
    for level, stride in zip(encoder(around), encoder.feature_info.reduction(), strict=True):
        fine = F.interpolate(level, scale_factor=float(stride), mode="bilinear")
        yield fine[..., 128:-128, 128:-128]


def test_rows_without_training(
    tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    encoder = timm.create_model("test_resnet")
    save_file(encoder.state_dict(), tmp_path / "encoder.safetensors")
    line = ["train", "-c", str(CONFIGS / "ceg.yaml"), "--set.root", str(tiles),
            "--set.segmenter", "spectral", "--set.options", "[]", "--set.gamma", "0.3,0.5",
            "--set.dcva_model", "dcva:test_resnet@encoder.safetensors",
            "--set.features_model", "features:test_resnet@encoder.safetensors",
            "--set.features_row", "ResNet + CVA"]  # fmt: skip
    assert main(line) == 0
    rows = rows_in(tmp_path / "runs" / "ceg_levir" / "rows.csv")
    assert [key[1:] for key in rows if key[0] == "CEG"] == [
        ("all", "pixel"), ("reliable", "pixel"), ("all", "instance"), ("all", "mixed"),
        ("reliable", "mixed"),
    ]  # fmt: skip
    assert {row["pixels"] for row in rows.values() if row["condition"] == "all"} == {
        str(3 * 64 * 64)
    }
    assert rows["PCA-KM", "all", "model"]
    deep = timm.create_model("test_resnet", features_only=True, out_indices=(1, 2, 3)).eval()
    named = {key.replace(".", "_"): value for key, value in encoder.state_dict().items()}
    deep.load_state_dict({key: named[key.replace(".", "_")] for key in deep.state_dict()})
    truths = [mask for _, mask in pairs(tiles, "test")]
    maps = [list(features_of(deep, image)) for image, _ in pairs(tiles, "test")]
    for row, kind, last in (("DCVA", "dcva", 3), ("ResNet + CVA", "features", 1)):
        check_row(rows[row, "all", "model"], [far_apart(m[-last:], kind) for m in maps], truths)
    assert (tmp_path / "runs" / "ceg_levir" / "events" / "claim.json").is_file()


def changesim(root: Path) -> Path:
    """Stand-in: warehouses of 12 training pairs and 2 test pairs of each condition."""
    rng = np.random.default_rng(0)
    for split, frames, suffixes in (("Train", 12, ("",)), ("Test", 2, ("", "_dust", "_dark"))):
        for suffix in suffixes:
            base = root / f"Query_Seq_{split}" / "Warehouse_6" / f"Seq_0{suffix}"
            for n in range(frames):
                t1 = rng.integers(0, 120, (64, 64, 3), np.uint8)
                change = np.zeros((64, 64, 3), np.uint8)
                change[8 * n % 40 :][:16, 20:50] = (81, 38, 0)
                t2 = t1 + 100 * (change.any(axis=2, keepdims=True)).astype(np.uint8)
                for folder, array in (("t0/rgb", t1), ("rgb", t2), ("change_segmentation", change)):
                    (base / folder).mkdir(parents=True, exist_ok=True)
                    Image.fromarray(array).save(base / folder / f"{n}.png")
    return root


def joined(root: Path) -> str:
    """The streams of scene_supervised.yaml at a size for a test."""
    small = {"count": 2, "seed": 1, "settings": {"size": 64}}
    target = {"root": str(root), "split": "train", "size": [64, 64], "only": {"percent": 20}}
    return json.dumps(
        [
            {"class_path": "rscd.synthetic.street_pairs.SyntheticStreet", "init_args": small},
            {"class_path": "rscd.data.street.ChangeSim", "init_args": target},
        ]
    )


@pytest.mark.slow
@torch.inference_mode()
def test_rows_of_fma_by_condition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = changesim(tmp_path / "ChangeSim")
    small = [
        f"--{prefix}data.streams.{stream}.init_args.settings.size=64"
        for prefix in ("", "fma.")
        for stream in ("train", "val")
    ]
    first = ["train", "-c", str(CONFIGS / "scene_synthetic.yaml"), *TINY, *small[:2],
             "--trainer.max_steps", "2", "--data.batch_size", "2",
             "--model.method_args.network_args.low_size", "64",
             "--data.streams.train.init_args.count", "4",
             "--data.streams.val.init_args.count", "4"]  # fmt: skip
    fma = "--fma.model.method_args"
    line = ["train", "-c", str(CONFIGS / "scene.yaml"), *TINY, *small[2:],
            "--set.root", str(root), "--set.size", "64,64", "--set.count", "2",
            "--set.pretrained", "runs/scene_synthetic/last.ckpt", "--set.percent", "20",
            "--fma.data.batch_size", "2", "--fma.trainer.precision", "32",
            f"{fma}.network", "scene-compact", f"{fma}.network_args.low_size", "64",
            "--fma.model.patch_size", "64", "--fma.data.streams.val.init_args.count", "2",
            "--fma.data.streams.target.init_args.size", "[64, 64]"]  # fmt: skip
    own = "--train.model.method_args"
    labelled = ["train", "-c", str(CONFIGS / "scene_supervised.yaml"), *TINY,
                "--set.root", str(root), "--set.size", "64,64", "--set.percent", "20",
                "--set.pretrained", "runs/scene_synthetic/last.ckpt",
                "--train.data.batch_size", "2", "--train.trainer.precision", "32",
                f"{own}.network", "scene-compact", f"{own}.network_args.low_size", "64",
                "--train.model.patch_size", "64", "--train.data.streams.train.datasets",
                joined(root), "--train.data.streams.val.init_args.count", "2",
                "--train.data.streams.val.init_args.settings.size=64"]  # fmt: skip
    with torch.inference_mode(False):
        assert main(first) == 0
        assert main(line) == 0
        assert main(labelled) == 0
        assert main([*line, "--set.percent", "100", "--stages", "fma,student"]) == 0
    runs = tmp_path / "runs" / "scene_ChangeSim"
    rows = rows_in(runs / "rows.csv")
    names = ("fma_20", "fma_20, dates exchanged", "SimSaC, synthetic pairs", "fma_20, teacher",
             "SimSaC, synthetic and 20 % of the target", "fma_100")  # fmt: skip
    assert tuple(dict.fromkeys(key[0] for key in rows)) == names
    last = runs / "fma_20" / "fma" / "last.ckpt"
    student, teacher = network_of(last), network_of(runs / "fma_20" / "export/teacher.safetensors")
    stored = torch.load(last, weights_only=True)["state_dict"]
    for key, value in teacher.decoder.state_dict().items():
        assert torch.equal(value, stored[f"method.teacher.{key}"])
    for key, value in student.encoder.state_dict().items():
        assert torch.equal(value, teacher.encoder.state_dict()[key])
    networks = (student, student, network_of(Path("runs/scene_synthetic/last.ckpt")), teacher,
                network_of(runs / "simsac_20" / "train" / "last.ckpt"),
                network_of(runs / "fma_100" / "fma" / "last.ckpt"))  # fmt: skip
    for name, network in zip(names, networks, strict=True):
        for condition, suffix in (("normal", ""), ("dusty", "_dust"), ("dark", "_dark")):
            base = root / "Query_Seq_Test" / "Warehouse_6" / f"Seq_0{suffix}"
            probs, truths = [], []
            for n in range(2):
                dates = [np.asarray(Image.open(base / f / f"{n}.png")) for f in ("t0/rgb", "rgb")]
                image = np.stack(dates).transpose(0, 3, 1, 2).astype(np.float32)
                image = image[::-1].copy() if "exchanged" in name else image
                found = network(torch.from_numpy(image)[None])["logits"][0, 0]
                probs.append(torch.sigmoid(found).numpy())
                colours = np.asarray(Image.open(base / "change_segmentation" / f"{n}.png"))
                truths.append(colours.any(axis=2))
            for rule in ("protocol", "model"):
                row = rows[name, condition, rule]
                check_row(row, [prob >= np.float32(row["threshold"]) for prob in probs], truths)
    assert len({rows[name, "all", "model"]["oa"] for name in names}) == len(names)
