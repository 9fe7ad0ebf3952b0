"""A plain installation predicts; what needs an extra says which."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rscd.base.border import border
from rscd.base.errors import ModelError, SceneError
from rscd.base.extras import EXTRA_OF, missing_extra

PLAIN = """
import json, sys
from rscd.base.extras import EXTRA_OF


class Lacking:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in EXTRA_OF:
            return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


sys.meta_path[:] = [Lacking(finder) for finder in sys.meta_path]
from rscd.cli import main

sys.stderr = sys.stdout
print(json.dumps([main(words) for words in json.loads(sys.argv[1])]))
"""
"""Commands in a process that has no package of any extra."""


@pytest.mark.slow
def test_a_plain_installation_predicts_and_names_what_it_lacks(tmp_path: Path) -> None:
    pair = ["scene_t1.tif", "scene_t2.tif"]
    commands = {
        "sample -o . --size 96,96 --overwrite -q": 0,
        "predict T -o change.gpkg -o change.tif --preview change.png -q": 0,
        "predict T -m irmad -o irmad.geojson -q": 0,
        "evaluate change.tif truth.geojson": 0,
        "events T --segmenter buildings -o events.gpkg -q": 0,
        "doctor T": 0,
        "model show buildings": 0,
        "predict T -m dcva -o deep.gpkg": 1,
        "predict T --msi 1,2 -o deep.gpkg": 1,
        "predict T -m own.safetensors -o deep.gpkg": 1,
        "predict T --dask local -o dask.gpkg": 1,
        "train -c supervised_town": 1,
        "evaluate . -m buildings": 1,
    }
    words = [[w for word in c.split() for w in (pair if word == "T" else [word])] for c in commands]
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, json.dumps(words)],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    *said, codes = done.stdout.splitlines()
    assert json.loads(codes) == list(commands.values()), done.stdout + done.stderr
    lines = [line for line in said if line.startswith("rscd: ")]
    assert [line.rpartition("; ")[2] for line in lines] == [
        f"it comes with: pip install 'rscd[{extra}]'"
        for extra in ("train", "train", "train", "cluster", "train", "train")
    ]
    assert not {*tmp_path.iterdir()} & {tmp_path / "deep.gpkg", tmp_path / "dask.gpkg"}


def test_every_package_comes_with_its_extra() -> None:
    with Path(__file__).parents[2].joinpath("pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    listed = {
        extra: {line.split(">")[0].split("[")[0].replace("-", "_") for line in lines}
        for extra, lines in project["optional-dependencies"].items()
    }
    for package, extra in EXTRA_OF.items():
        if package != "torchmetrics":  # a dependency of lightning
            assert package in listed[extra]
    base = {line.split(">")[0].split("[")[0].replace("-", "_") for line in project["dependencies"]}
    assert not base & set(EXTRA_OF)


@pytest.mark.parametrize(
    ("name", "extra"), [("kornia.augmentation", "train"), ("dask", "cluster"), ("colour", None)]
)
def test_only_packages_of_extras_are_answered(name: str, extra: str | None) -> None:
    found = missing_extra(ModuleNotFoundError("no", name=name))
    assert (found is None) == (extra is None)
    if found is not None:
        assert str(found).endswith(f"pip install 'rscd[{extra}]'")
    assert missing_extra(ValueError("kornia")) is None


def test_a_border_lets_it_through() -> None:
    with pytest.raises(ModelError, match=r"rscd\[train\]"), border(lambda error: SceneError("no")):
        raise ModuleNotFoundError("no", name="timm")
