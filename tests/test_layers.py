"""Who may import whom."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rscd"

ROOMS = (
    "base",
    "geo",
    "models",
    "metrics",
    "methods",
    "inference",
    "data",
    "synthetic",
    "segmenters",
    "events",
    "labels",
    "export",
    "pipeline",
    "review",
    "training",
    "evaluation",
    "cli",
)
"""Lowest first: a room imports from rooms before it, never from one behind."""

STRANGERS: dict[str, set[str]] = {
    "models": {"geo"},
    "metrics": {"models"},
    "methods": {"metrics"},
    "data": {"models", "metrics", "methods", "inference"},
    "synthetic": {"models", "metrics", "methods", "inference"},
    "segmenters": {"models", "metrics", "methods", "synthetic"},
    "events": {"models", "metrics", "methods", "inference", "data", "synthetic"},
    "labels": {"models", "metrics", "methods", "inference"},
    "export": set(ROOMS[2:11]),
    "pipeline": {"models", "metrics", "methods", "synthetic"},
    "review": set(ROOMS[2:11]),
}
"""Rooms below that a room does not use all the same."""

DOORSTEP = {"__init__", "__main__"}
"""What stands outside the rooms: the public names and ``python -m rscd``."""

ONLY_IN: dict[str, tuple[str, ...]] = {
    "torchgeo": ("data/", "models/torchgeo_nets.py", "training/streams.py"),
    "dask": ("inference/dask.py",),
    "distributed": ("inference/dask.py",),
    "lightning": ("training/", "cli/"),
}
"""Libraries that a single place knows of."""

TORCH_FREE = ("geo", "export", "review")
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
def test_no_import_runs_back_up(path: Path) -> None:
    part = part_of(path)
    inner = {name.split(".")[1] for name in imports(path) if name.startswith("rscd.")}
    if part in DOORSTEP:
        return
    allowed = set(ROOMS[: ROOMS.index(part) + 1]) - STRANGERS.get(part, set())
    assert inner <= allowed, f"rscd/{name_of(path)} may not import {sorted(inner - allowed)}"


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_libraries_stay_where_they_belong(path: Path) -> None:
    used = {name.split(".")[0] for name in imports(path)}
    for library, places in ONLY_IN.items():
        if library in used:
            assert name_of(path).startswith(places), f"{library} in rscd/{name_of(path)}"
    if part_of(path) in TORCH_FREE:
        assert not used & {"torch", "torchvision", "kornia"}


def test_every_room_has_its_place() -> None:
    assert {part_of(path) for path in files()} == {*ROOMS, *DOORSTEP}


def test_no_room_holds_a_sixth_of_the_lines() -> None:
    lines = Counter[str]()
    for path in files():
        lines[part_of(path)] += len(path.read_text(encoding="utf-8").splitlines())
    room, most = lines.most_common(1)[0]
    assert most < lines.total() / 6, f"rscd/{room} holds {most} of {lines.total()} lines"


def test_no_circle_among_modules() -> None:
    """Imports inside functions count: none of them hides a circle."""
    known = {"rscd." + name_of(p).removesuffix(".py").replace("/", "."): p for p in files()}
    known = {name.removesuffix(".__init__"): path for name, path in known.items()}
    graph = {
        name: {full if full in known else full.rpartition(".")[0] for full in imports(path)}
        & known.keys() - {name}
        for name, path in known.items()
    }
    tuple(TopologicalSorter(graph).static_order())


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
        test_no_import_runs_back_up(bad)


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
    modules = [
        *modules_of("geo"),
        *modules_of("export"),
        *modules_of("review"),
        "rscd.pipeline.maps",
        "rscd.inference.tiled",
    ]
    loaded = loaded_after(f"import {', '.join(modules)}", ("torch", "torchgeo", "lightning"))
    assert loaded == []


AT_START = {
    "rscd.inference.network": {"torchvision", "timm", "segmentation_models_pytorch", "lightning"},
    "rscd.inference.onnx_network": {"torch", "onnx", "scipy"},
    "rscd.inference.models": {"torch", "onnxruntime"},
    "rscd.pipeline.maps": {"torch", "torchmetrics", "pystac", "requests", "fsspec", "cv2"},
    "rscd.pipeline.prediction": {"torch", "torchmetrics", "matplotlib", "folium", "pystac"},
    "rscd.pipeline.batch": {"torch", "torchmetrics", "requests", "fsspec", "cloudpickle"},
    "rscd.evaluation.maps": {"torch", "torchmetrics", "matplotlib", "pystac", "rscd.pipeline"},
    "rscd.events.footprints": {"torch", "torchmetrics", "matplotlib", "pystac"},
}
"""What a command needs first, and what must not be imported with it."""


def at_start(path: Path) -> Iterator[str]:
    """Full dotted names of what a file imports when it is imported itself."""

    def statements(block: list[ast.stmt]) -> Iterator[ast.stmt]:
        for node in block:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                continue
            yield node
            for name in ("body", "orelse", "handlers", "finalbody"):
                if not isinstance(node, ast.FunctionDef | ast.Lambda):
                    yield from statements(getattr(node, name, []))

    for node in statements(ast.parse(path.read_text(encoding="utf-8")).body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("first", AT_START)
def test_what_is_slow_to_import_is_not_needed_at_the_start(first: str) -> None:
    known = {"rscd." + name_of(p).removesuffix(".py").replace("/", "."): p for p in files()}
    found, left = dict[str, str](), [first]
    while left:
        module = left.pop()
        for name in at_start(known.get(module) or known[f"{module}.__init__"]):
            if name not in found:
                found[name] = module
                left += [name] if name in known or f"{name}.__init__" in known else []
    wrong = {name: found[name] for name in sorted(found.keys() & AT_START[first])}
    assert not wrong
    assert found.keys() & {"numpy", "torch"}  # the walk gets somewhere


def test_the_command_line_starts_light() -> None:
    heavy = ("torch", "rasterio", "numpy", "geopandas", "pandas", "shapely", "pyproj", "rich")
    assert loaded_after("import rscd.cli; rscd.cli.build_parser()", heavy) == []
    assert loaded_after("import rscd", heavy) == []
