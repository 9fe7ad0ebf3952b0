"""Serve the files of a folder over HTTP with ranges, and count; see the fixture ``web``.

``/MODE/FILE``: how the server behaves is part of the address.

    ok         as it should
    plain      without ranges: the whole file, whatever is asked for
    403, 500   that status
    cut        what lies beyond the first 16 kB of a file breaks off in the middle, always
    cut2       the same, for the first two such requests
    busy2      status 503, for the first two requests
    deny       takes no uploads

``/log`` tells what was asked for since it was last asked: method, path, range, status, bytes of the
body, authorization.
"""

import http.server
import json
import re
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(sys.argv[1])
HEAD_BYTES = 1 << 14
log: list[tuple[Any, ...]] = []
asked: dict[str, int] = {}
lock = threading.Lock()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/log":
            with lock:
                body = json.dumps(log).encode()
                log.clear()
            self.answer(200, body, logged=False)
            return
        mode, number, file = self.parts()
        if mode.isdigit():
            self.answer(int(mode))
        elif mode == "busy" and self.among_first(number):
            self.answer(503)
        elif not file.is_file():
            self.answer(404)
        else:
            self.serve(mode, number, file)

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        mode, _, file = self.parts()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if mode == "deny":
            self.answer(403)
        else:
            file.write_bytes(body)
            self.answer(201)

    def parts(self) -> tuple[str, int, Path]:
        _, mode, name = unquote(urlsplit(self.path).path).split("/", 2)
        known = re.fullmatch(r"(\d+|[a-z]+)(\d*)", mode)
        assert known is not None, mode
        kind, number = known.groups()
        return kind, int(number or 10**6), ROOT / name

    def serve(self, mode: str, number: int, file: Path) -> None:
        stat = file.stat()
        size = stat.st_size
        about = {"ETag": f'"{stat.st_mtime_ns:x}-{size:x}"'}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if mode == "plain" or wanted is None:
            self.answer(200, file.read_bytes(), about)
            return
        start = int(wanted[1])
        stop = min(int(wanted[2] or size) + 1, size)
        if start >= size:
            self.answer(416)
            return
        about["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        cut = mode == "cut" and stop > HEAD_BYTES and self.among_first(number)
        self.answer(206, file.read_bytes()[start:stop], about, cut=cut)

    def among_first(self, number: int) -> bool:
        with lock:
            asked[self.path] = asked.get(self.path, 0) + 1
            return asked[self.path] <= number

    def answer(
        self,
        status: int,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        cut: bool = False,
        logged: bool = True,
    ) -> None:
        sent = b"" if self.command == "HEAD" else body[: len(body) // 2] if cut else body
        if logged:
            line = (self.command, self.path, self.headers["Range"], status, len(sent))
            with lock:
                log.append((*line, self.headers["Authorization"]))
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(sent)
        self.close_connection |= cut

    def log_message(self, *args: Any) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args: Any) -> None:
        """Clients that go away are no news."""


if __name__ == "__main__":
    with Server(("127.0.0.1", 0), Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
