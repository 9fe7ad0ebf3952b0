"""The way to published weights, against a hub on this machine that answers as the real one does."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

SHA = "0123456789abcdef0123456789abcdef01234567"

FETCH = """
import json, sys
from rscd.base.errors import RscdError
from rscd.segmenters.hub import fetch
said = {}
for name, revision in json.loads(sys.argv[1]):
    try:
        found = fetch(name, revision, alternatives="--segmenter clipseg")
        said[f"{name}@{revision}"] = [found.commit, sorted(p.name for p in found.path.iterdir())]
    except RscdError as error:
        said[f"{name}@{revision}"] = f"{type(error).__name__}: {error}"
print(json.dumps(said))
"""

LOAD = """
import json, numpy as np
from rscd.segmenters.prompts import parse_prompts
from rscd.segmenters.segmenter import View, load_segmenter
segmenter = load_segmenter("clipseg", {"model": "tiny/clipseg"}, device="cpu")
view = View(np.zeros((40, 50, 3), np.uint8))
found = segmenter.predict([view], parse_prompts("house", "tree"))[0]
print(json.dumps([found.prob.shape, segmenter.fingerprint()]))
"""


def hub(folder: Path) -> type[BaseHTTPRequestHandler]:
    """A handler that serves one folder as tiny/clipseg, and gates or lacks the others."""
    names = [path.name for path in folder.iterdir()]

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if "owner/gated" in path:
                code = 403 if "Authorization" in self.headers else 401
                self.answer(code, b"{}", {"X-Error-Code": "GatedRepo"})
            elif "tiny/clipseg" not in path:
                self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            elif "/revision/no-such" in path:
                self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            elif "/revision/" in path:
                files = [{"rfilename": name} for name in [*names, "sam3.pt"]]
                about = {"id": "tiny/clipseg", "sha": SHA, "private": False, "siblings": files}
                self.answer(200, json.dumps(about).encode())
            elif "/tree/" in path:
                self.answer(200, json.dumps([self.entry(name) for name in names]).encode())
            else:
                name = path.rpartition("/")[2]
                assert name in names, f"{name} should not be asked for"
                body = (folder / name).read_bytes()
                self.answer(200, body, {"ETag": f'"{name}"', "X-Repo-Commit": SHA})

        def entry(self, name: str) -> dict[str, Any]:
            size = (folder / name).stat().st_size
            return {"type": "file", "path": name, "size": size, "oid": name}

        def answer(self, code: int, body: bytes, headers: Any = ()) -> None:
            self.send_response(code)
            for key, value in dict(headers).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    return Handler


@pytest.fixture
def address(clipseg_folder: Path) -> Iterator[Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), hub(clipseg_folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def python(code: str, home: Path, endpoint: str, *arguments: str, **more: Any) -> Any:
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=kept | settings | more,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_weights_come_from_the_hub_and_then_from_the_cache(address: str, tmp_path: Path) -> None:
    shape, fingerprint = python(LOAD, tmp_path, address)
    assert shape == [2, 40, 50]
    assert (fingerprint["model"], fingerprint["commit"]) == ("tiny/clipseg", SHA)
    wanted = json.dumps([["tiny/clipseg", None]])
    (offline,) = python(FETCH, tmp_path, "http://127.0.0.1:9", wanted, HF_HUB_OFFLINE="1").values()
    assert offline[0] == SHA
    assert "model.safetensors" in offline[1]


@pytest.mark.slow
def test_what_the_hub_refuses(address: str, tmp_path: Path) -> None:
    wanted = [["owner/gated", None], ["owner/nothing", None], ["tiny/clipseg", "no-such"]]
    said = python(FETCH, tmp_path, address, json.dumps(wanted))
    gated = said["owner/gated@None"]
    assert gated.startswith("ModelError: expected access to the gated model 'owner/gated'")
    assert "no token was found" in gated
    assert "accept the licence" in gated
    assert gated.endswith("--segmenter clipseg")
    assert "found no 'owner/nothing'; check the spelling" in said["owner/nothing@None"]
    assert "found no 'tiny/clipseg' (revision no-such)" in said["tiny/clipseg@no-such"]
    told = python(FETCH, tmp_path, address, json.dumps(wanted[:1]), HF_TOKEN="hf_x")
    assert "the token found has no access" in told["owner/gated@None"]


@pytest.mark.parametrize("more", [{"HF_HUB_OFFLINE": "1"}, {}], ids=["offline", "unreachable"])
def test_no_network_and_no_cache(tmp_path: Path, more: dict[str, Any]) -> None:
    wanted = json.dumps([["tiny/clipseg", None]])
    (said,) = python(FETCH, tmp_path, "http://127.0.0.1:9", wanted, **more).values()
    assert said.startswith("ModelError: expected the weights of 'tiny/clipseg' in the local cache")
    assert "hf download tiny/clipseg" in said
