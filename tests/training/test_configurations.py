"""Configurations by name."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rscd.base.errors import UsageError
from rscd.training.configurations import about, configurations, find, folder

ROOT = Path(__file__).parents[2]


def test_every_file_has_a_name_and_says_what_it_is() -> None:
    found = configurations()
    assert set(found.values()) == set((ROOT / "configs").glob("*.yaml"))
    for name, path in found.items():
        assert find(name) == path
        assert 10 < len(about(path)) < 150, name
        assert "\n" not in about(path)


def test_a_file_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find("kdmsi") == folder() / "kdmsi.yaml"
    Path("kdmsi").write_text("stages: {}")
    assert find("kdmsi") == Path("kdmsi")


@pytest.mark.parametrize("given", ["missing.yaml", "some/where", "configs/kdmsi_town.yml"])
def test_paths_are_left_to_their_reader(given: str) -> None:
    assert find(given) == Path(given)


def test_a_wrong_name_is_answered_with_what_is_close() -> None:
    with pytest.raises(UsageError, match=r"found 'kdmsi_twon'; close to it: kdmsi_town, .*"):
        find("kdmsi_twon")
    with pytest.raises(UsageError, match="rscd config list names all"):
        find("zzz")


def test_the_wheel_brings_them(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, tree)
    for name in ("LICENSES", "configs"):
        shutil.copytree(ROOT / name, tree / name)
    (tree / "rscd").mkdir()
    shutil.copy(ROOT / "rscd/__init__.py", tree / "rscd")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(tmp_path)]
    subprocess.run([*command, str(tree)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("rscd/configs/")}
    assert names == {f"rscd/configs/{name}.yaml" for name in configurations()}
