"""Secrets of links stand in nothing that rscd writes or says."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rscd.base.errors import DataError, OutputError, RscdError, SceneError
from rscd.base.redact import mark, redacted, redacted_data
from rscd.cli import main

WORD = st.text("abcXYZ0189-_.~$!*", min_size=6, max_size=12).filter(lambda word: "://" not in word)
FORMS = (
    "{url}",
    "/vsicurl/{url}",
    "/vsizip/vsicurl/{url}",
    "/vsicurl?max_retry=3&url={quoted}",
    "/vsicurl?url={quoted}&pc_url_signing=yes",
    "found: HTTP error 403 for {url}; check it",
    'NETCDF:"{url}":band',
    "<SourceFilename>{url}</SourceFilename>",
    "{quoted}",
)


@given(WORD, WORD, WORD, st.sampled_from(FORMS), st.sampled_from(["https", "s3", "ftp", "abfs"]))
def test_no_form_of_a_link_keeps_a_secret(
    user: str, password: str, token: str, form: str, scheme: str
) -> None:
    user, password, token = f"u{user}u", f"p{password}p", f"t{token}t"
    url = f"{scheme}://{user}:{password}@host/a/b.tif?sv=2022&sig={token}&x=1#{token}"
    text = form.format(url=url, quoted=quote(url, safe=""))
    found = redacted(text)
    assert not [secret for secret in (user, password, token) if secret in found], found
    assert "host/a/b.tif" in found
    assert redacted(found) == found


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http://host/a.tif?se=2030&sig=X", "http://host/a.tif"),
        ("http://joe:pw@host:80/b.tif", "http://host:80/b.tif"),
        ("https://joe:p@ss@host/b.tif", "https://host/b.tif"),
        ("/vsiaz/box/a.tif?sv=1&sig=X", "/vsiaz/box/a.tif"),
        ("PG:host=h user=joe password='a b' dbname=d", "PG:host=h user=*** password=*** dbname=d"),
        ("/data/what?/a&b=c;d!e@f.tif", "/data/what?/a&b=c;d!e@f.tif"),
        ("C:\\pictures\\a.tif", "C:\\pictures\\a.tif"),
    ],
)
def test_examples(given: str, expected: str) -> None:
    assert redacted(given) == expected


@given(st.text(st.characters(exclude_characters=":%", exclude_categories=["Cs"])))
def test_local_paths_stay(path: str) -> None:
    assert redacted(f"/data/{path}") == f"/data/{path}" or "/vsi" in path


def test_links_that_look_alike_are_told_apart() -> None:
    first, second = (f"http://h/a.tif?id={number}" for number in (1, 2))
    assert redacted(first) == redacted(second)
    assert mark(first) != mark(second)
    assert mark("/data/a.tif?") == ""


def test_data_of_any_depth() -> None:
    link = "http://joe:pw@h/a.tif?sig=S"
    found = redacted_data({"a": [{"b": (link, 1, None)}], link: link})
    assert found == {"a": [{"b": ("http://h/a.tif", 1, None)}], "http://h/a.tif": "http://h/a.tif"}


@pytest.mark.parametrize("kind", [RscdError, SceneError, DataError, OutputError])
def test_errors_hold_none(kind: Callable[..., Any]) -> None:
    error = kind("found damage in http://joe:pw@h/a.tif?sig=S; copy it")
    assert str(error) == "found damage in http://h/a.tif; copy it"


SERVER = """
import http.server, pathlib, re, sys, urllib.parse
class Signed(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_HEAD(self): self.do_GET(body=False)
    def do_GET(self, body=True):
        file = pathlib.Path(sys.argv[1], urllib.parse.urlsplit(self.path).path.lstrip("/"))
        data, status = (file.read_bytes(), 200) if file.is_file() else (b"", 404)
        part = re.match(r"bytes=(\\d+)-(\\d+)", self.headers.get("Range") or "")
        size = len(data)
        if part and size:
            data, status = data[int(part[1]) : int(part[2]) + 1], 206
        self.send_response(status)
        if status == 206:
            end = int(part[1]) + len(data) - 1
            self.send_header("Content-Range", f"bytes {part[1]}-{end}/{size}")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if body:
            self.wfile.write(data)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Signed)
print(server.server_address[1], flush=True)
server.serve_forever()
"""
"""Serves files whatever stands behind their names. It needs a process of its own: GDAL may wait for
it while it keeps other threads of this one from running."""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    folder = tmp_path / "served"
    folder.mkdir()
    command = [sys.executable, "-c", SERVER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield folder, f"127.0.0.1:{server.stdout.readline().strip()}"
        server.kill()


def test_no_output_and_no_message_holds_one(
    host: tuple[Path, str],
    tmp_path: Path,
    write_tif: Callable[..., Path],
    town_pair: tuple[NDArray[Any], NDArray[Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, name = host
    for date, image in zip(("t1", "t2"), town_pair, strict=True):
        write_tif(folder / f"{date}.tif", image)
    out = tmp_path / "out"
    out.mkdir()
    vrt = tmp_path / "t2.vrt"
    link = f"http://joe:PASSW0RD@{name}/t2.tif?sig=T0PSECRET"
    vrt.write_text(
        '<VRTDataset rasterXSize="64" rasterYSize="48"><SRS>EPSG:32633</SRS>'
        "<GeoTransform>500000, 10, 0, 5000000, 0, -10</GeoTransform>"
        + "".join(
            f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource>'
            f'<SourceFilename relativeToVRT="0">/vsicurl/{link}</SourceFilename>'
            f"<SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
            for band in (1, 2, 3)
        )
        + "</VRTDataset>"
    )
    outputs = [f"c.{suffix}" for suffix in ("tif", "gpkg", "geojson", "parquet", "fgb")]
    wanted = [word for output in outputs for word in ("-o", str(out / output))]
    for t2 in (link, str(vrt)):
        first = f"http://{name}/t1.tif?se=2030&sig=T0PSECRET"
        arguments = ["predict", first, t2, "-m", "cva", *wanted, "--prob", str(out / "p.tif")]
        assert main([*arguments, "--overwrite", "-v"]) == 0, capsys.readouterr().err
        said = capsys.readouterr()
        texts = {path.name: path.read_bytes() for path in out.iterdir()}
        texts |= {"stdout": said.out.encode(), "stderr": said.err.encode()}
        for file, text in texts.items():
            for secret in (b"T0PSECRET", b"PASSW0RD", b"joe"):
                assert secret not in text, (file, secret)
        told = json.loads((out / "c.geojson.json").read_text())
        assert told["t1"]["path"] == f"http://{name}/t1.tif"


def test_failures_and_logs_hold_none(
    host: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, name = host
    missing = f"http://joe:PASSW0RD@{name}/none.tif?sig=T0PSECRET"
    assert main(["predict", missing, missing, "-o", "never.tif"]) == 1
    assert main(["events", missing, f"{missing}2", "-o", "never.gpkg"]) == 1
    logging.getLogger("rscd").warning("reading %s", missing)
    said = capsys.readouterr().err
    assert f"http://{name}/none.tif" in said
    assert not [word for word in ("T0PSECRET", "PASSW0RD", "joe") if word in said], said
    assert not Path("never.tif").exists()


@pytest.fixture
def town_pair() -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(0)
    first = rng.integers(20, 200, (3, 48, 64)).astype(np.uint8)
    second = first.copy()
    second[:, 10:20, 20:40] = 255 - second[:, 10:20, 20:40]
    return first, second
