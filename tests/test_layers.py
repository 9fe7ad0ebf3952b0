"""Who may import whom."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rscd"

FREE = {"types", "errors", "arguments", "border", "files", "redact", "__version__"}
"""Known to every layer."""

LAYERS: dict[str, set[str]] = {
    "geo": set(),
    "data": {"geo"},
    "models": set(),
    "methods": {"models"},
    "metrics": set(),
    "objects": set(),
    "task": {"methods", "metrics", "models"},
    "checkpoints": set(),
    "training": {"checkpoints", "data", "methods", "metrics", "task", "inference"},
    "pseudo": {"geo", "data"},
    "inference": {"geo"},
    "export": {"geo"},
    "provenance": {"geo"},
    "chain": set(),
    "types": set(),
    "arguments": set(),
    "errors": set(),
    "border": set(),
    "files": set(),
    "redact": set(),
}
"""Parts of rscd that a part may import, beside itself and `FREE`."""

EXCEPTIONS: dict[str, set[str]] = {
    "inference/network.py": {"models", "methods"},
    "inference/weights.py": {"models"},
    "inference/multiscale.py": {"models", "methods"},
    "pseudo/buildings.py": {"inference"},
}
"""Single files that may import more."""

EVERYTHING = {"__init__", "__main__", "cli", "evaluation", "pipeline", "pipeline_events"}
"""Parts that put the others together; the package itself names its public parts."""

ONLY_IN: dict[str, tuple[str, ...]] = {
    "torchgeo": ("data/", "models/torchgeo_nets.py"),
    "dask": ("inference/dask.py",),
    "distributed": ("inference/dask.py",),
    "lightning": ("task.py", "training.py", "checkpoints.py", "data/", "cli/"),
}
"""Libraries that a single place knows of."""

TORCH_FREE = ("geo", "export")
"""Layers that never see a tensor."""


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Full dotted names of all that a file imports, also inside functions."""
    package = ["rscd", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            if node.level:
                base = [*package[: len(package) - node.level + 1], *base]
            yield from (".".join([*base, alias.name]) for alias in node.names)


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_layers(path: Path) -> None:
    part = part_of(path)
    if part in EVERYTHING:
        return
    allowed = {part} | FREE | LAYERS.get(part, set()) | EXCEPTIONS.get(name_of(path), set())
    inner = {name.split(".")[1] for name in imports(path) if name.startswith("rscd.")}
    assert inner <= allowed, f"rscd/{name_of(path)} may not import {sorted(inner - allowed)}"


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_libraries_stay_where_they_belong(path: Path) -> None:
    used = {name.split(".")[0] for name in imports(path)}
    for library, places in ONLY_IN.items():
        if library in used:
            assert name_of(path).startswith(places), f"{library} in rscd/{name_of(path)}"
    if part_of(path) in TORCH_FREE:
        assert not used & {"torch", "torchvision", "kornia"}


def test_every_part_has_its_line_in_the_table() -> None:
    parts = {part_of(path) for path in files()}
    assert parts <= LAYERS.keys() | EVERYTHING


def test_the_walk_sees_what_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "geo").mkdir()
    bad = tmp_path / "geo" / "bad.py"
    bad.write_text(
        "from ..export.vector import x\nfrom . import grid\nfrom rscd import data\n"
        "def f():\n    import rscd.models.flow\n"
    )
    assert set(imports(bad)) == {
        "rscd.export.vector.x",
        "rscd.geo.grid",
        "rscd.data",
        "rscd.models.flow",
    }
    with pytest.raises(AssertionError, match=r"\['data', 'export', 'models'\]"):
        test_layers(bad)


def loaded_after(statement: str, names: tuple[str, ...]) -> list[str]:
    """Which of these packages are loaded after a statement in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*(n for n in {names!r} if n in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def modules_of(package: str) -> list[str]:
    return [
        "rscd." + name_of(path).removesuffix(".py").replace("/", ".")
        for path in files()
        if part_of(path) == package and path.stem != "__init__"
    ]


def test_torch_is_not_needed_without_networks() -> None:
    modules = [*modules_of("geo"), *modules_of("export"), "rscd.pipeline", "rscd.inference.tiled"]
    loaded = loaded_after(f"import {', '.join(modules)}", ("torch", "torchgeo", "lightning"))
    assert loaded == []


def test_the_command_line_starts_light() -> None:
    heavy = ("torch", "rasterio", "numpy", "geopandas", "pandas", "shapely", "pyproj", "rich")
    assert loaded_after("import rscd.cli; rscd.cli.build_parser()", heavy) == []
    assert loaded_after("import rscd", heavy) == []
