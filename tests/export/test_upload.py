"""Outputs at addresses: fsspec's file system in memory, and a server on this machine."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from rscd.base.errors import OutputError, UsageError
from rscd.export.targets import Targets, check_outputs
from rscd.export.upload import clear_room, exists, make_room, room_for, sibling, upload
from tests.conftest import Web


@pytest.fixture
def memory() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    yield files
    for name in files.ls("/", detail=False):
        files.rm(name, recursive=True)


def test_a_file_arrives_whole(memory: Any, web: Web, tmp_path: Path) -> None:
    for content in (b"abc" * 1000, b""):
        (tmp_path / "a.bin").write_bytes(content)
        for url in ("memory://box/a.bin", web.at("a.bin"), f"file://{tmp_path}/there.bin"):
            upload(tmp_path / "a.bin", url)
            assert exists(url)
        assert memory.cat("/box/a.bin") == content
        assert (web.folder / "a.bin").read_bytes() == content
        assert (tmp_path / "there.bin").read_bytes() == content
    assert not exists("memory://box/b.bin")
    assert not exists(web.at("b.bin"))


def test_what_does_not_arrive_is_said(
    memory: Any, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.bin").write_bytes(b"abc")
    with pytest.raises(
        OutputError, match=r"expected to write http.*a\.bin, found: HTTP 403; check"
    ):
        upload(tmp_path / "a.bin", web.at("a.bin?sig=SECRET", "deny"))
    with pytest.raises(UsageError, match=r"here or at an address such as s3://"):
        exists("nonsense://a/b.bin")
    with pytest.raises(OutputError, match=r"write http://127.0.0.1:1/a.bin, found: Connection"):
        exists("http://127.0.0.1:1/a.bin")
    with pytest.raises(UsageError, match=r"package for outputs at gs://, found none.*gcsfs"):
        exists("gs://a/b.bin")
    monkeypatch.setattr(type(memory), "info", lambda *_, **__: {"size": 2})
    with pytest.raises(OutputError, match="2 of 3 bytes there"):
        upload(tmp_path / "a.bin", "memory://a.bin")


def test_signed_addresses_are_for_one_file() -> None:
    assert sibling("https://h/a/b.gpkg", "b.qml") == "https://h/a/b.qml"
    assert sibling("s3://bucket/b.gpkg", "b.qml") == "s3://bucket/b.qml"
    assert sibling("https://h/a/b.gpkg?sig=1", "b.qml") is None


def test_rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    room = room_for(["s3://a/b", "s3://a/c"])
    assert room == room_for(["s3://a/c", "s3://a/b"]) != room_for(["s3://a/b"])
    make_room(room)
    make_room(room)
    assert room.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "getuid", lambda: 10**6)
    with pytest.raises(OutputError, match="found another owner; set TMPDIR"):
        make_room(room)
    clear_room(room)
    clear_room(room)
    assert not room.exists()


def test_targets_at_addresses_wait_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names = ["memory://x/c.gpkg", f"{tmp_path}/c.tif", "memory://y/c.gpkg"]
    targets = Targets.of(names)
    assert targets.names == names
    assert targets.outputs[1] == tmp_path / "c.tif"
    assert len({path.parent for path in targets.outputs}) == 3
    assert not list(tmp_path.iterdir())
    assert Targets.of([f"file://{tmp_path}/d.tif"]).outputs == (tmp_path / "d.tif",)
    with pytest.raises(OutputError, match=r"a file of this machine .*, found s3://a/b.png; write"):
        check_outputs([Path("s3://a/b.png")], [], overwrite=True)
