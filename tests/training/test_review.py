"""From a reviewed layer to trained weights, with each of the three configurations."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from rscd.base.errors import UsageError
from rscd.cli import main
from rscd.export.vector import write_vector
from rscd.geo.origin import read_provenance
from rscd.geo.vectors import read_layer
from rscd.inference.shipped import shipped_path
from rscd.inference.weights import read_tensors
from rscd.training.review import with_reviews
from rscd.training.run import train

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL: dict[str, Any] = {
    "from_review": {"model.method_args.weak.patch_size": 64, "data.streams.train.patch_size": 64},
    "from_review_kdmsi": {"data.streams.train.patch_size": 64},
    "from_review_diffmatch": {
        "model.method_args.weak.patch_size": 64,
        "data.streams.labeled.patch_size": 64,
        "data.streams.unlabeled.patch_size": 64,
        "model.method_args.network_args.encoder": "tu-test_resnet",
    },
}


@pytest.fixture(scope="module")
def reviewed(tmp_path_factory: pytest.TempPathFactory, write_tif: Callable[..., Path]) -> Path:
    """A layer that a detector made, of which some is decided."""
    folder = tmp_path_factory.mktemp("place")
    random = np.random.default_rng(0)
    t1 = random.integers(90, 110, (3, 160, 160)).astype(np.uint8)
    t2 = t1.copy()
    for index in range(16):
        t2[:, 8 + 40 * (index // 4) :, 8 + 40 * (index % 4) :][:, :12, :12] += 80
    dates = [str(write_tif(folder / f"{name}.tif", i)) for name, i in (("t1", t1), ("t2", t2))]
    layer = folder / "change.gpkg"
    assert main(["predict", *dates, "-m", "cva", "-o", str(layer), "--workers", "1", "-q"]) == 0
    ids = read_layer(layer, "polygons")["id"].tolist()
    words = ("accepted", "rejected", "unsure")
    assert main(["review", "apply", str(layer), "-q"]) == 0
    table = read_layer(layer, "polygons")
    table["status"] = [words[i % 3] if i < 10 else "unreviewed" for i in range(len(ids))]
    write_vector(table, folder / "reviewed.gpkg", provenance=read_provenance(layer))
    return folder / "reviewed.gpkg"


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.filterwarnings(
    "ignore:.*`isinstance.treespec, LeafSpec.` is deprecated",
    "ignore:The number of training batches",
    "ignore:.*does not have many workers",
    "ignore:Total length of `list` across ranks is zero",
    "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning",
)
def test_a_configuration_learns_from_a_review(name: str, reviewed: Path, tmp_path: Path) -> None:
    words = ["-c", str(CONFIGS / f"{name}.yaml"), "--review", str(reviewed)]
    small: dict[str, Any] = {
        "trainer.max_steps": 2,
        "data.batch_size": 2,
        "trainer.default_root_dir": tmp_path,
    }
    small |= {"trainer.accelerator": "cpu", "trainer.logger": "false"} | SMALL[name]
    trainer = train([*words, *(f"--{key}={value}" for key, value in small.items())])
    assert trainer.global_step == 2
    assert trainer.callback_metrics["train/loss"] > 0
    assert {"best.ckpt", "last.ckpt", "config.yaml"} <= {p.name for p in tmp_path.iterdir()}
    kept = yaml.safe_load((tmp_path / "config.yaml").read_text())
    for stream in kept["data"]["streams"].values():
        assert [scene["review"] for scene in stream["init_args"]["scenes"]] == [str(reviewed)]
    assert "review" not in kept
    learnt = read_tensors(tmp_path / "best.ckpt")
    numbers = [tensor for tensor in learnt.values() if tensor.is_floating_point()]
    assert all(torch.isfinite(tensor).all() for tensor in numbers)
    if name == "from_review":  # began with the network that ships
        before = read_tensors(shipped_path())
        gaps = [(learnt[key] - before[key]).abs().max() for key in before if "weight" in key]
        assert 0 < max(gaps) < 0.05


def written(tmp_path: Path, streams: dict[str, Any]) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"data": {"streams": streams}}))
    return str(path)


def test_layers_take_the_place_of_reviewed_scenes(tmp_path: Path) -> None:
    streams: dict[str, Any] = {
        "train": {"init_args": {"scenes": [{"review": "change.gpkg"}]}},
        "val": {"init_args": {"scenes": [{"t1": "a", "t2": "b", "labels": "c"}]}},
        "more": {"init_args": {"root": "d"}},
    }
    path = written(tmp_path, streams)
    words = with_reviews(["-c", path, "--review", "x.gpkg", "--model.lr", "1", "--review=y.gpkg"])
    scenes = json.dumps([{"review": "x.gpkg"}, {"review": "y.gpkg"}])
    assert words == [
        *("-c", path, "--model.lr", "1"),
        f"--data.streams.train.init_args.scenes={scenes}",
    ]
    assert with_reviews(["-c", path]) == ["-c", path]
    streams["train"]["init_args"]["scenes"] = {"review": "change.gpkg"}  # one, not in a list
    again = with_reviews(["-c", written(tmp_path, streams), "--review=x.gpkg", "--review=y.gpkg"])
    assert again[-1] == words[-1]


def test_only_the_reviewed_scenes_to_train_on_are_replaced(tmp_path: Path) -> None:
    own = {"t1": "a", "t2": "b", "labels": "c", "dates": ["2020-01-01", "2021-01-01"]}
    streams: dict[str, Any] = {
        "train": {"init_args": {"scenes": [{"review": "change.gpkg"}, own]}},
        "val": {"init_args": {"scenes": [{"review": "other.gpkg"}]}},
    }
    path = written(tmp_path, streams)
    (word,) = with_reviews(["-c", path, "--review", "x.gpkg"])[2:]
    key, _, text = word.partition("=")
    assert key == "--data.streams.train.init_args.scenes"
    assert json.loads(text) == [own, {"review": "x.gpkg"}]
    streams["train"]["init_args"]["scenes"][0] = {"review": "change.gpkg", "area": "west.gpkg"}
    path = written(tmp_path, streams)
    with pytest.raises(UsageError, match=r"without further fields .* found area in the stream tr"):
        with_reviews(["-c", path, "--review", "x.gpkg"])


def test_a_configuration_without_reviewed_scenes_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, {"train": {"init_args": {"root": "d"}}})
    for words in (["-c", path], ["-c", str(tmp_path / "none.yaml")], []):
        with pytest.raises(UsageError, match="begin with -c from_review"):
            with_reviews([*words, "--review", "x.gpkg"])
    with pytest.raises(UsageError, match="after --review, found none"):
        with_reviews(["-c", path, "--review"])


def test_a_layer_that_is_none_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "-c", str(CONFIGS / "from_review.yaml"), "--review", "nowhere.gpkg"]
    words += [f"--trainer.default_root_dir={tmp_path}"]
    assert main(words) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "expected a reviewed change layer, found no file at nowhere.gpkg; name one" in error
    assert not list(tmp_path.glob("*.ckpt"))
