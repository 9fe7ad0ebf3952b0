"""The border to libraries: what stands in a file decides what is said of it."""

import contextlib
import errno
import gzip
import http.server
import json
import os
import re
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.errors import RasterioIOError

from rscd.base.border import border, found_in, reason, shown
from rscd.base.errors import DataError, ModelError, SceneError
from rscd.data.images import read_picture
from rscd.geo.scene import ScenePair
from rscd.geo.source import inspect
from rscd.geo.vectors import read_layer
from rscd.inference.weights import read_card

ITEM = {
    "type": "Feature",
    "stac_version": "1.0.0",
    "geometry": None,
    "assets": {
        "thumbnail": {"href": "https://a.b/t.jpg", "roles": ["thumbnail"]},
        "B04": {"href": "https://a.b/B04.tif", "type": "image/tiff", "roles": ["data"]},
    },
}

CONTENTS = {
    "empty": (b"", "found an empty file at {path}; copy or download it again"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "found a pointer of Git LFS at {path}; fetch it with git lfs pull",
    ),
    "page": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "found a web page at {path}"),
    "denied": (
        b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        "found an error message from a server at {path}",
    ),
    "text": (b"hello\n", "found text at {path}; check the file"),
    "item": (json.dumps(ITEM).encode(), "STAC Item, .* asset: https://a.b/B04.tif"),
    "items": (
        json.dumps({"type": "FeatureCollection", "features": [ITEM]}).encode(),
        "STAC ItemCollection, .* asset: https://a.b/B04.tif",
    ),
    "relative": (
        json.dumps(ITEM | {"assets": {"a": {"href": "./a.tif"}}}).encode(),
        "asset: {folder}/a.tif",
    ),
    "collection": (
        json.dumps({"type": "Collection", "stac_version": "1.0.0"}).encode(),
        "STAC Collection, which is not read here",
    ),
    "features": (
        json.dumps({"type": "FeatureCollection", "features": []}).encode(),
        r"found vector data \(GeoJSON\)",
    ),
    "table": (b"PAR1" + bytes(20), "found a Parquet table at"),
    "noise": (b"\x01\x80\x02\xff" * 9, "found damage or an unknown format in {path}"),
    "tiff": (b"II*\0" + bytes(9), "found damage or an unknown format in {path}"),
}


def packed(path: Path, name: str) -> Path:
    inside = path.with_name("scene.tif")
    inside.write_bytes(b"II*\0")
    if name == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "x")
            archive.write(inside, "deep/scene.tif")
    elif name == "tar":
        with tarfile.open(path, "w:gz") as archive:
            archive.add(inside, "deep/scene.tif")
    else:
        path.write_bytes(gzip.compress(b"II*\0"))
    return path


def refusal(path: object) -> str:
    with pytest.raises(SceneError) as caught:
        inspect("t1", str(path), None, None)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", CONTENTS)
def test_what_a_file_holds_is_named(tmp_path: Path, name: str) -> None:
    content, said = CONTENTS[name]
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    wanted = said.replace("{path}", str(path)).replace("{folder}", str(tmp_path))
    with pytest.raises(DataError) as caught:
        read_picture(path)
    for told in (refusal(path), str(caught.value)):
        assert re.search(wanted, told), told


@pytest.mark.parametrize(
    ("name", "prefix"), [("zip", "/vsizip/"), ("tar", "/vsitar/"), ("gz", "/vsigzip/")]
)
def test_archives_are_named_with_the_path_that_reads_them(
    tmp_path: Path, name: str, prefix: str
) -> None:
    path = packed(tmp_path / "scene.dat", name)
    told = refusal(path)
    inside = "" if name == "gz" else "/deep/scene.tif"
    assert told.endswith(f"{prefix}{path}{inside}")


def test_vectors_and_weights_are_told_alike(tmp_path: Path) -> None:
    for name in ("lfs", "page", "empty"):
        content, said = CONTENTS[name]
        for suffix, read, error in (
            (".gpkg", lambda path: read_layer(path, "polygons in --aoi"), DataError),
            (".parquet", lambda path: read_layer(path, "polygons in --aoi"), DataError),
            (".safetensors", read_card, ModelError),
            (".ckpt", read_card, ModelError),
        ):
            path = tmp_path / f"{name}{suffix}"
            path.write_bytes(content)
            with pytest.raises(error, match=said.partition("{path}")[0]):
                read(path)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(int(self.path.split("/")[1]))
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *args: str) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.parametrize(
    ("code", "said"),
    [(404, "no such file"), (403, "refuses access"), (401, "refuses access"), (500, "try again")],
)
def test_answers_of_a_server(
    server: str, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    told = refusal(f"{server}/{code}/a.tif")
    assert said in told
    assert f"HTTP {code}" in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("The specified key does not exist.", "no such file in the object store: s3://b/a.tif"),
        ("Access Denied", "refuses access: s3://b/a.tif; check the credentials"),
        ("AWS_ACCESS_KEY_ID configuration option not defined", "no credentials for this object"),
        ("GS_OAUTH2 or GS_NO_SIGN_REQUEST=YES configuration options not defined", "no credentials"),
        ("Missing AZURE_STORAGE_ACCOUNT+(...)", "no credentials"),
    ],
)
def test_words_of_object_stores(words: str, said: str) -> None:
    assert said in found_in("s3://b/a.tif", RasterioIOError(words), "copy it again")


def test_a_server_that_is_not_there() -> None:
    assert "found no connection to the server" in refusal("http://127.0.0.1:1/a.tif")


def test_names_that_no_library_takes(tmp_path: Path, write_tif: Callable[..., Path]) -> None:
    good = write_tif(tmp_path / "a.tif", np.ones((1, 8, 8), np.uint8))
    odd = os.fsencode(tmp_path) + b"/s\xfcd.tif"
    Path(os.fsdecode(odd)).write_bytes(good.read_bytes())
    with pytest.raises(SceneError, match=r"name that is not UTF-8: .*s\\xfcd\.tif; rename"):
        ScenePair.open(good, os.fsdecode(odd))
    assert "too long" in refusal(tmp_path / f"{'a' * 300}.tif")
    assert "a\0b.tif" not in refusal(f"{tmp_path}/no.tif")


@pytest.mark.linux
def test_too_many_open_files_are_no_damage(tmp_path: Path, write_tif: Callable[..., Path]) -> None:
    import resource

    path = write_tif(tmp_path / "a.tif", np.ones((1, 8, 8), np.uint8))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 8, hard)
    )
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(Path(os.devnull).open("rb"))  # noqa: SIM115
        told = refusal(path)
    finally:
        for file in held:
            file.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "found too many open files" in told
    assert "ulimit -n" in told


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_damage_of_what_is_read(number: int) -> None:
    with (
        pytest.raises(OSError, match=re.escape(os.strerror(number))) as told,
        border(lambda error: DataError(f"damage: {error}")),
    ):
        raise OSError(number, os.strerror(number))
    assert not isinstance(told.value, DataError)


def test_errors_of_rscd_and_of_memory_pass() -> None:
    for error in (DataError("mine"), MemoryError()):
        with pytest.raises(type(error)) as caught, border(lambda e: SceneError(str(e))):
            raise error
        assert caught.value is error
    told = border(lambda e: SceneError(reason(e)))
    with pytest.raises(SceneError, match="KeyError 'x'") as caught, told:
        raise KeyError("x")
    assert isinstance(caught.value.__cause__, KeyError)


@given(st.binary(max_size=400))
def test_any_bytes_are_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    told = found_in(path, OSError(errno.EIO, "bad"), "copy it again")
    assert told.startswith("found ")
    assert "\n" not in told


@given(st.text(st.characters(codec=None)))
def test_any_name_can_be_printed(name: str) -> None:
    shown(name).encode()
