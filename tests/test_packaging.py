"""What is said twice outside the code is the same: versions, requirements, licences."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
CONDA = {"opencv-python-headless": "opencv"}
"""Packages that have another name there."""


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    content: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    """The recipe with its own names filled in."""
    text = (ROOT / "recipe" / "recipe.yaml").read_text(encoding="utf-8")
    context = yaml.safe_load(text)["context"]
    content: dict[str, Any] = yaml.safe_load(
        re.sub(r"\$\{\{ (\w+) \}\}", lambda found: str(context.get(found[1], found[0])), text)
    )
    return content


def requirements(lines: list[str], names: dict[str, str]) -> dict[str, set[str]]:
    """Bounds by package."""
    found = [Requirement(re.sub(r"^([\w-]+) (?=[<>=])", r"\1", line)) for line in lines]
    return {names.get(one.name, one.name): set(map(str, one.specifier)) for one in found}


def test_the_recipe_asks_for_what_the_package_asks_for(
    project: dict[str, Any], recipe: dict[str, Any]
) -> None:
    python = f"python{project['project']['requires-python']}"
    ours = requirements([python, *project["project"]["dependencies"]], CONDA)
    assert requirements(recipe["requirements"]["run"], {}) == ours
    build = requirements(project["build-system"]["requires"], {})
    host = recipe["requirements"]["host"]
    assert requirements([line for line in host if line.startswith("setuptools")], {}) == build
    scripts = [f"{name} = {target}" for name, target in project["project"]["scripts"].items()]
    assert recipe["build"]["python"]["entry_points"] == scripts


def test_the_recipe_names_licences_that_are_there(recipe: dict[str, Any]) -> None:
    assert not [name for name in recipe["about"]["license_file"] if not (ROOT / name).is_file()]
    assert recipe["build"]["noarch"] == "python"


def test_one_version(project: dict[str, Any], recipe: dict[str, Any]) -> None:
    version = project["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    plugin = (ROOT / "qgis" / "rscd_provider" / "metadata.txt").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert str(citation["version"]) == version
    assert recipe["package"]["version"] == version
    assert re.findall(r"^version=(.*)$", plugin, re.MULTILINE) == [version]
    assert f"\n## [{version}]" in changes


def test_workflows_ask_for_pythons_that_are_allowed(project: dict[str, Any]) -> None:
    allowed = Requirement(f"python{project['project']['requires-python']}").specifier
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for python in re.findall(r'"(3\.\d+)"', path.read_text(encoding="utf-8")):
            assert f"{python}.0" in allowed, path.name
