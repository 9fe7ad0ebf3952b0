"""Every shipped configuration is built and trained for one step, on tiny stand-in data."""

import inspect
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from rscd.training import train

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


def by_path(class_path):
    module, _, name = class_path.rpartition(".")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings(
    "ignore:.*`isinstance.treespec, LeafSpec.` is deprecated",
    "ignore:The number of training batches",
    "ignore:.*does not have many workers",
    # how lightning 2.6 calls jsonargparse 4.50
    "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning",
)
def test_one_step(path, tmp_path, monkeypatch):
    config = yaml.safe_load(path.read_text())
    network = config["model"]["method_args"]["network_args"]
    bands = network.get("n_bands", 3)
    if "weights" in network:
        network["weights"] = None  # nothing is downloaded in a test
    for stream in config["data"]["streams"].values():
        known = inspect.signature(by_path(stream["class_path"])).parameters
        assert set(stream["init_args"]) <= set(known), stream
        stream["class_path"] = "rscd.data.town_dataset.TownPairs"
        stream["init_args"] = {"length": 2, "patch_size": 64, "bands": bands, "fresh": False}
        stream.pop("patch_size", None)
    config["data"] |= {"batch_size": 2, "num_workers": 0}
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(yaml.safe_dump(config))
    limits = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
    trainer = train(["-c", "run.yaml", "--trainer.accelerator=cpu", *limits])
    assert trainer.global_step == 1
    folder = Path(config["trainer"]["default_root_dir"])
    assert {"best.ckpt", "last.ckpt", "config.yaml", "metrics.csv"} <= {
        file.name for file in folder.iterdir()
    }
