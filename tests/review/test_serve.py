"""The server answers only those who know its token, and only with pictures of the scene."""

import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from rscd.base.errors import OutputError
from rscd.cli import main
from rscd.review.layer import read_change_layer
from rscd.review.serve import _Server, page_server
from rscd.review.view import open_view


@pytest.fixture
def site(make_scene: Callable[..., Path]) -> Iterator[str]:
    """Address of the page of a scene of two levels."""
    layer = read_change_layer(make_scene(shape_hw=(300, 400)))
    with page_server(layer, open_view(layer), 0) as (address, serve):
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield address


def asked(address: str) -> tuple[str, bytes]:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return answer.headers["Content-Type"], answer.read()


def test_page_tiles_and_thumbnails(site: str) -> None:
    assert site.startswith("http://127.0.0.1:")
    kind, page = asked(site)
    assert kind == "text/html; charset=utf-8"
    assert b"img-src 'self' data:;" in page
    for name, side in (("tiles/t1/0/1/1", 256), ("tiles/t2/-1/0/0", 256), ("thumbs/t2/3", 128)):
        kind, content = asked(f"{site}{name}.jpg")
        assert kind == "image/jpeg"
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert picture.shape == (side, side, 3)
        assert picture.std() > 5


NOWHERE = (
    *("tiles/t1/0/2/0.jpg", "tiles/t1/1/0/0.jpg", "tiles/t1/-9/0/0.jpg", "tiles/t3/0/0/0.jpg"),
    *("tiles/t1/0/x/0.jpg", "tiles/t1/0/0.jpg", "thumbs/t1/7.jpg", "thumbs/t1/../../t1.tif"),
    *("t1.tif", "../", "%2e%2e/%2e%2e/etc/passwd", "tiles/t1/0/0/0.jpg/", "data"),
)


def test_there_is_nothing_else_and_nothing_without_the_token(site: str) -> None:
    root, token = site.rstrip("/").rsplit("/", 1)
    assert len(token) >= 22
    wrong = ("", "/", "/x/", f"/{token[:-1]}/", "/tiles/t1/0/0/0.jpg")
    for address in (*(site + path for path in NOWHERE), *(root + path for path in wrong)):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            asked(address)


def test_the_command_says_the_address_and_ends_when_interrupted(
    make_scene: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(self: _Server) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rscd.review.serve.ThreadingHTTPServer.serve_forever", interrupted)
    assert main(["report", str(make_scene()), "--serve", "--port", "0", "-q"]) == 0
    assert capsys.readouterr().out.startswith("http://127.0.0.1:")


def test_a_taken_port_is_one_line(make_scene: Callable[..., Path]) -> None:
    layer = read_change_layer(make_scene())
    view = open_view(layer)
    with page_server(layer, view, 0) as (address, _):
        port = int(address.split(":")[2].split("/")[0])
        with (
            pytest.raises(OutputError, match=f"port {port} .* to be free.*--port 0"),
            page_server(layer, view, port),
        ):
            pass
