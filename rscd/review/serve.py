"""The review page with tiles from the rasters, served to this machine alone.

The address has a random token: other programs and pages of this machine do not know it.
"""

import secrets
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from rscd.base.errors import OutputError, RscdError
from rscd.geo.source import close_handles
from rscd.review.layer import ChangeLayer
from rscd.review.page import Pictures, page_data, page_html
from rscd.review.tiles import THUMB_SIDES, encoded, levels_of, thumbnail, tile_picture
from rscd.review.view import View

HOST = "127.0.0.1"
PORT = 8765
"""The same each time: a browser keeps decisions by address and port."""
IDLE_S = 30
"""Seconds after which a connection without a request is closed."""
CACHED = 512
"""Pictures that are kept, about 20 kB each."""


@contextmanager
def page_server(
    layer: ChangeLayer, view: View, port: int = PORT
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Serve the page of a layer for as long as the context lasts.

    Args:
        layer: to review.
        view: the scene under it; its rasters are read when a tile is asked for.
        port: 0: any that is free.

    Yields:
        The address of the page, and a function that answers requests until it is interrupted.

    Raises:
        OutputError: the port is taken.
    """
    token = secrets.token_urlsafe(16)
    # one thread reads: handles of rasters belong to the thread that opened them
    with ThreadPoolExecutor(1) as reader:
        site = _Site(layer, view, token, reader)
        try:
            server = _Server((HOST, port), site)
        except OSError as error:
            raise OutputError(
                f"expected port {port} of {HOST} to be free, found: {error.strerror}; end the "
                "other server, or give --port 0"
            ) from error
        try:
            with server:
                yield f"http://{HOST}:{server.server_port}/{token}/", server.serve_forever
        finally:
            reader.submit(close_handles)


class _Site:
    """Answers by path."""

    def __init__(
        self, layer: ChangeLayer, view: View, token: str, reader: ThreadPoolExecutor
    ) -> None:
        shapes = view.to_display(layer.table.geometry.to_numpy(), layer.table.crs)
        self.outlines = {str(i): shape for i, shape in zip(layer.table["id"], shapes, strict=True)}
        levels = levels_of(view.shape_hw)
        whole = levels_of(view.shape_hw, -64)
        levels = type(levels)(whole.coarsest, levels.finest)  # all of them: none is stored
        data = page_data(layer, view, shapes)
        self.page = page_html(data, Pictures(levels, {}, {}, served=True)).encode()
        self.view, self.token, self.reader = view, token, reader
        self.levels = levels
        self.picture = lru_cache(CACHED)(self._picture)

    def answer(self, path: str) -> tuple[str, bytes] | None:
        """Content type and content; None where there is nothing."""
        parts = path.partition("?")[0].split("/")[1:]
        if not parts or not secrets.compare_digest(parts[0].encode(), self.token.encode()):
            return None
        if parts[1:] == [""]:
            return "text/html; charset=utf-8", self.page
        if not parts[-1].endswith(".jpg"):
            return None
        found = self.picture(*parts[1:-1], parts[-1].removesuffix(".jpg"))
        return None if found is None else ("image/jpeg", found)

    def _picture(self, *name: str) -> bytes | None:
        made: Future[bytes | None] = self.reader.submit(self._made, name)
        return made.result()

    def _made(self, name: tuple[str, ...]) -> bytes | None:
        picture: Any = None
        match name:
            case ("tiles", ("t1" | "t2") as date, *place) if len(place) == 3:
                numbers = [_whole(text) for text in place]
                zoom, x, y = (-1 if n is None else n for n in numbers)
                inside = self.levels.coarsest <= zoom <= self.levels.finest
                if None not in numbers and inside:
                    picture = tile_picture(self.view, int(date == "t2"), zoom, x, y)
            case ("thumbs", ("t1" | "t2") as date, number) if number in self.outlines:
                pair = thumbnail(self.view, self.outlines[number], THUMB_SIDES[0])
                picture = pair[date == "t2"]
        return None if picture is None else encoded(picture, ".jpg")


def _whole(text: str) -> int | None:
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 8 else None


class _Server(ThreadingHTTPServer):
    """Serves a site; requests that are still answered do not hold up the end."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], site: _Site) -> None:
        self.site = site
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without asking a name server for the name of this machine."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S

    def do_GET(self) -> None:
        """Answer a request."""
        assert isinstance(self.server, _Server)
        try:
            found = self.server.site.answer(self.path)
        except RscdError as error:
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, explain=str(error))
            return
        if found is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        kind, content = found
        self.send_response(HTTPStatus.OK)
        headers = {"Content-Type": kind, "Content-Length": str(len(content))}
        headers |= {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        headers |= {"Referrer-Policy": "no-referrer"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Say nothing: the address of a request has the token."""
