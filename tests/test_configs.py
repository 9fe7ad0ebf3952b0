"""Every kind of shipped configuration is trained for one step, on tiny stand-in data."""

import copy
import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from torch.utils.data import Dataset

from rscd.cli import build_parser
from rscd.methods.registry import METHODS
from rscd.training.chain import arguments, is_chain, read_chain
from rscd.training.run import train

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
SMALLER = {"simsac": "scene-compact"}


class Noise(Dataset[dict[str, Any]]):
    """Stands in for scenes of more bands than towns have."""

    def __init__(self, bands: int, patch_size: int) -> None:
        self.shape = (bands, patch_size, patch_size)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, Any]:
        random = torch.Generator().manual_seed(index)
        image = torch.rand(2, *self.shape, generator=random) * 10_000
        return {"image": image, "mask": torch.randint(2, (1, *self.shape[1:]), generator=random)}


class Standing(Noise):
    """Stands in for pairs made from images of one date."""

    def __init__(self, patch_size: int) -> None:
        super().__init__(3, patch_size)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = super().__getitem__(index)
        return sample | {"standing": sample["mask"].expand(2, -1, -1).clone()}


def trainings() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every training of every file by name, chains stage by stage."""
    for path in CONFIGS:
        if not is_chain(path):
            yield path.stem, yaml.safe_load(path.read_text())
            continue
        for stage in read_chain(path):
            if stage.command == "train":
                yield f"{path.stem}-{stage.name}", copy.deepcopy(dict(stage.settings))
    head = ["--set.variant", "unimatch", "--set.network", "siamese-deeplab"]
    other = read_chain(CONFIGS[0].with_name("diffmatch.yaml"), head)[0]
    yield "diffmatch-deeplab", copy.deepcopy(dict(other.settings))


def by_path(class_path: str) -> Callable[..., Any]:
    module, _, name = class_path.rpartition(".")
    return getattr(import_module(module), name)


def datasets_of(config: dict[str, Any]) -> Iterator[Any]:
    """All datasets of all streams, joined ones one by one."""
    for stream in config["data"]["streams"].values():
        yield from stream.get("datasets", [stream])


def without_weights(method_args: dict[str, Any]) -> None:
    """Nothing is downloaded in a test."""
    if "weights" in method_args["network_args"]:
        method_args["network_args"]["weights"] = None


def smaller(method_args: dict[str, Any]) -> None:
    """A network that is quick to train in place of one of seconds per step."""
    method_args["network"] = SMALLER.get(method_args["network"], method_args["network"])
    args = method_args["network_args"]
    if method_args["network"] in ("siamese-mlp", "siamese-deeplab", "cam"):
        args |= {"encoder": "tu-test_resnet"}
        args.pop("depth", None)
    if method_args["network"] == "cam":
        args["output_stride"] = 16
    if method_args["network"] == "siamese-deeplab":
        args["batch_norm"] = "normal"


def on_stand_ins(config: dict[str, Any]) -> dict[str, Any]:
    """The same training on tiny synthetic data."""
    config = copy.deepcopy(config)
    config["trainer"]["default_root_dir"] = "run"
    for key in ("check_val_every_n_epoch", "precision"):  # bfloat16 is slow without hardware for it
        config["trainer"].pop(key, None)
    without_weights(config["model"]["method_args"])
    network = config["model"]["method_args"]["network_args"]
    bands = network.get("n_bands", 3)
    smaller(config["model"]["method_args"])
    if config["model"]["method"] == "diffmatch" or "weak" in config["model"]["method_args"]:
        config["model"]["method_args"].setdefault("weak", {})["patch_size"] = 64
    if "low_size" in network:
        network["low_size"] = 64
    for stream in datasets_of(config):
        if stream["class_path"].startswith(("rscd.data.street", "rscd.synthetic.street")):
            settings = stream["init_args"].get("settings", {}) | {"size": 64}
            stream["class_path"] = "rscd.synthetic.street_pairs.SyntheticStreet"
            stream["init_args"] = {"count": 2, "settings": settings}
            continue
        if bands > 4:
            stream["class_path"] = f"{__name__}.Noise"
            stream["init_args"] = {"bands": bands, "patch_size": 64}
            continue
        stream.pop("batch_size", None)
        if stream["class_path"] == "rscd.synthetic.single_date.SingleDatePairs":
            stream["class_path"] = f"{__name__}.Standing"
            stream["init_args"] = {"patch_size": 64}
            continue
        stream["class_path"] = "rscd.synthetic.town_pairs.TownPairs"
        stream["init_args"] = {"length": 2, "patch_size": 64, "bands": bands, "fresh": False}
        stream.pop("patch_size", None)
        if config["model"]["method"] == "diffmatch":  # whose streams hold guidance as well
            stream["class_path"] = "rscd.labels.guided_towns.GuidedTowns"
            stream["init_args"] = {"towns": stream["init_args"]}
    config["data"] |= {"batch_size": 2, "num_workers": 0}
    return config


def of_reviews(config: dict[str, Any]) -> bool:
    """Whether a training learns from a reviewed layer, as `tests/training/test_review.py` does."""
    return any("review" in s for d in datasets_of(config) for s in d["init_args"].get("scenes", []))


def different_trainings() -> Iterator[Any]:
    """One of those that differ in nothing but their data and how long they run."""
    known = []
    for name, config in trainings():
        if of_reviews(config):
            continue
        small = on_stand_ins(config)
        kind = {key: value for key, value in small.items() if key != "trainer"}
        if kind not in known:
            known.append(kind)
            yield pytest.param(small, id=name)


@pytest.mark.parametrize("config", [pytest.param(c, id=name) for name, c in trainings()])
def test_trainer_and_streams_know_their_arguments(config: dict[str, Any]) -> None:
    assert set(config["trainer"]) <= set(inspect.signature(Trainer.__init__).parameters)
    for stream in datasets_of(config):
        known = inspect.signature(by_path(stream["class_path"])).parameters
        assert set(stream["init_args"]) <= set(known), stream


@pytest.mark.parametrize("config", [pytest.param(c, id=name) for name, c in trainings()])
def test_the_method_can_be_built(config: dict[str, Any]) -> None:
    """In full size, but without memory for the weights."""
    model = config["model"]
    without_weights(model["method_args"])
    with torch.device("meta"):
        method = METHODS[model["method"]](**model["method_args"])
    assert method.network_name == model["method_args"]["network"]


@pytest.mark.slow
@pytest.mark.parametrize("config", list(different_trainings()))
@pytest.mark.filterwarnings(
    "ignore:.*`isinstance.treespec, LeafSpec.` is deprecated",
    "ignore:The number of training batches",
    "ignore:.*does not have many workers",
    # how lightning 2.6 calls jsonargparse 4.50
    "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning",
)
def test_one_step(config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(yaml.safe_dump(config))
    limits = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
    limits += ["--trainer.num_sanity_val_steps=0"]
    trainer = train(["-c", "run.yaml", "--trainer.accelerator=cpu", *limits])
    # one batch, or all of two: where typing remembers float before int, a limit of 1 is all of them
    assert trainer.global_step == trainer.num_training_batches <= 2
    assert {"best.ckpt", "last.ckpt", "config.yaml", "metrics.csv"} <= {
        file.name for file in Path("run").iterdir()
    }


@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if is_chain(path)], ids=lambda path: path.stem
)
def test_commands_of_chains_parse(path: Path, tmp_path: Path) -> None:
    for stage in read_chain(path, ["--folder", str(tmp_path)]):
        stage.folder.mkdir()
        args, rest = build_parser().parse_known_args(arguments(stage))
        assert not rest or args.takes_rest


@pytest.mark.parametrize("data", ["levir", "whu"])
@pytest.mark.parametrize("share", [10, 20, 40])
def test_diffmatch_takes_another_share_of_the_masks(data: str, share: int) -> None:
    path = CONFIGS[0].with_name("diffmatch.yaml")
    train_stage, test = read_chain(path, ["--set.share", str(share), "--set.data", data])
    root, streams = f"data/{data}256", train_stage.settings["data"]["streams"]
    for name in ("labeled", "unlabeled"):
        given = {"root": root, "split_file": f"{root}/split_{share}.json", "split": name}
        assert given.items() <= streams[name]["init_args"].items()
    assert str(test.folder) == f"runs/diffmatch_{data}/diffmatch_{share}/test"
    assert test.settings["rows"] == f"runs/diffmatch_{data}/rows.csv"
