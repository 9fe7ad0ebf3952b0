"""Nothing in the package needs Linux: what other systems lack is asked for, or not used."""

import ast
import errno
import importlib.util
import os
import pickle
from functools import cache
from pathlib import Path

import pytest
import torch

import rscd.base.heap
import rscd.cli
from rscd.base.heap import keep_freed_memory
from rscd.export.upload import make_room, room_for
from rscd.geo.origin import find_raster
from rscd.inference.cores import usable_cores
from rscd.pipeline.provenance import describe_file
from rscd.training.streams import collate

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "rscd").rglob("*.py"))

POSIX_MODULES = {"fcntl", "grp", "posix", "pwd", "resource", "termios"}
POSIX_CALLS = {
    *("chown", "fchmod", "fork", "getegid", "geteuid", "getgid", "getloadavg", "getuid", "killpg"),
    *("mkfifo", "nice", "posix_fadvise", "pread", "pwrite", "sched_getaffinity", "setsid"),
    *("statvfs", "sync", "sysconf", "uname", "wait", "waitpid"),
}
"""Of ``os``."""
SIGNALS = {"SIGALRM", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGUSR1", "SIGUSR2", "alarm"}
"""Of ``signal``."""


@cache
def nodes() -> list[tuple[str, ast.AST, str]]:
    """What the checks look at, of every module: its place, and the module's text."""
    kinds = (ast.Import, ast.ImportFrom, ast.Attribute, ast.Call)
    found: list[tuple[str, ast.AST, str]] = []
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        where = path.relative_to(ROOT).as_posix()
        tree = [node for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
        found += [(f"{where}:{node.lineno}", node, text) for node in tree]
    return found


def of(node: ast.AST, module: str) -> str | None:
    """The name in ``module.name``."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.attr if node.value.id == module else None
    return None


def test_no_module_of_posix_is_imported() -> None:
    found = []
    for where, node, _ in nodes():
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        found += [f"{where} {name}" for name in names if name.partition(".")[0] in POSIX_MODULES]
    assert not found


def test_what_other_systems_lack_is_asked_for() -> None:
    found = [
        f"{where} os.{name}"
        for where, node, text in nodes()
        if (name := of(node, "os")) in POSIX_CALLS and f'hasattr(os, "{name}")' not in text
    ]
    found += [where for where, node, _ in nodes() if of(node, "signal") in SIGNALS]
    assert not found


def test_text_is_read_and_written_in_a_named_encoding() -> None:
    """The default is the system's; on Windows that is a code page."""
    found = []
    for where, node, _ in nodes():
        if not isinstance(node, ast.Call) or any(k.arg == "encoding" for k in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else None
        if (name == "read_text" and not node.args) or (name == "write_text" and len(node.args) < 2):
            found.append(where)
        builtin = isinstance(node.func, ast.Name) and node.func.id == "open"
        modes = [a.value for a in node.args[builtin:] if isinstance(a, ast.Constant)]
        modes += [k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)]
        if builtin and not any(isinstance(mode, str) and "b" in mode for mode in modes):
            found.append(where)
    assert not found


def test_cores_where_there_is_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


def test_waiting_outputs_where_files_have_no_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delattr(os, "getuid", raising=False)
    room = room_for(["s3://a/b"])
    make_room(room)
    make_room(room)
    assert room.is_dir()


def test_memory_is_left_alone_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rscd.base.heap, "os", type("Windows", (), {"environ": {}, "name": "nt"}))
    assert not keep_freed_memory()


@pytest.mark.parametrize(
    ("system", "number", "said"),
    [("posix", errno.EPIPE, 0), ("posix", errno.EINVAL, 1), ("nt", errno.EINVAL, 0)],
)
def test_a_reader_that_went_away_is_no_error_to_speak_of(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    system: str,
    number: int,
    said: int,
) -> None:
    def gone(_: object) -> None:
        raise OSError(number, "reader gone")

    with monkeypatch.context() as patch:  # no Path is made while the system has another name
        patch.setattr(os, "name", system)
        spec = rscd.cli.__spec__
        again = importlib.util.module_from_spec(spec)  # a reload would make all functions anew
        assert spec.loader is not None
        spec.loader.exec_module(again)
    monkeypatch.setattr(rscd.cli, "READER_GONE", again.READER_GONE)
    monkeypatch.setattr("rscd.cli.config.run_list", gone)
    assert rscd.cli.main(["config", "list"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == said


def test_a_layer_made_on_windows_finds_its_rasters_beside_it(tmp_path: Path) -> None:
    raster = tmp_path / "2019.tif"
    raster.write_bytes(b"pixels")
    about = describe_file(raster) | {"path": r"D:\survey\2019.tif"}
    found = find_raster(tmp_path / "change.gpkg", "t1", about, "with --t1")
    assert Path(found) == raster


def test_what_worker_processes_are_given_can_be_sent() -> None:
    """Windows and macOS do not fork: what a worker needs is pickled."""
    from rscd.synthetic.street_pairs import SyntheticStreet
    from rscd.synthetic.town_pairs import TownPairs
    from rscd.training.streams import _begin_worker

    for data in (TownPairs(length=2, patch_size=32), SyntheticStreet(count=2)):
        again, join, begin = pickle.loads(pickle.dumps((data, collate, _begin_worker)))
        assert torch.equal(again[1]["image"], data[1]["image"])
        assert (join, begin) == (collate, _begin_worker)
