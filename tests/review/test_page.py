"""The page is one file of bounded size in which nothing from files is markup."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from rscd.cli import main
from rscd.review.page import SCRIPTS

HOSTILE = "</script><script>hacked=1</script><!--"


def report(*arguments: Any) -> int:
    return main(["report", "-q", *map(str, arguments)])


def embedded(html: str, name: str) -> dict[str, Any]:
    (text,) = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', html)
    return json.loads(text)


def test_the_page_has_all_of_the_layer(
    make_scene: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = make_scene(
        columns={"note": HOSTILE, "class": HOSTILE, "status": "unsure", "review_order": 5}
    )
    out = tmp_path / "report.html"
    assert main(["report", "-q", str(layer), "-o", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["bytes"] == out.stat().st_size
    assert (said["polygons"], said["thumbnails"], said["finest_zoom"]) == (6, 6, 0)
    html = out.read_text(encoding="utf-8")
    assert html.count("<script") == 3 == html.count("</script")
    assert "hacked=1</script>" not in html
    data, pictures = (embedded(html, name) for name in ("data", "pictures"))
    assert [one["id"] for one in data["features"]] == list(range(1, 7))
    assert data["features"][0]["note"] == HOSTILE
    assert data["features"][0]["status"] == "unsure"
    assert data["features"][0]["turn"] == 5
    assert data["features"][0]["outline"] == [[[[40, 40], [40, 20], [20, 20], [20, 40], [40, 40]]]]
    assert set(pictures["thumbs"]) == set("123456")
    assert not re.search(r'(src|href)="(?!data:|#)', html.rpartition("<script>")[0])
    assert not re.search(r"url\(", html.partition("<body>")[0])


def test_only_the_script_of_the_page_may_run(
    make_scene: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "report.html"
    assert report(make_scene(), "-o", out) == 0
    html = out.read_text(encoding="utf-8")
    script = html.rpartition("<script>")[2].rpartition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "BSD 2-Clause License" in html


def test_the_same_layer_gives_the_same_page(
    make_scene: Callable[..., Path], tmp_path: Path
) -> None:
    layer = make_scene()
    for name in ("a.html", "b.html"):
        assert report(layer, "-o", tmp_path / name) == 0
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.slow
def test_the_size_is_bounded(
    make_scene: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = make_scene(shape_hw=(700, 900))

    def made(most: str | int) -> tuple[int, int, int]:
        out = tmp_path / "report.html"
        assert report(layer, "-o", out, "--overwrite", "--max-size", most) == 0
        pictures = embedded(out.read_text(encoding="utf-8"), "pictures")
        return out.stat().st_size, pictures["levels"][1], len(pictures["thumbs"])

    whole, *found = made("50MB")
    assert found == [0, 6]
    for most, finest in ((whole + 2000, 0), (whole - 1, -1)):
        size, *found = made(most)
        assert found == [finest, 6]
        assert size <= most
    assert report(layer, "-o", tmp_path / "no.html", "--max-size", "100kB") == 2
    assert "none for the map; raise --max-size" in capsys.readouterr().err
    assert not (tmp_path / "no.html").exists()


def test_what_does_not_go_is_one_line(
    make_scene: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer, out = make_scene(), tmp_path / "report.html"
    out.write_text("mine")
    for words, code, arguments in (
        ("expected a new file", 1, [layer, "-o", out]),
        ("ending in .html", 2, [layer, "-o", tmp_path / "report.txt"]),
        ("neither; give one", 2, [layer]),
        ("--port only with --serve", 2, [layer, "-o", tmp_path / "b.html", "--port", "80"]),
        ("found both; drop one", 2, [layer, "-o", tmp_path / "b.html", "--serve"]),
        ("no such file", 1, [tmp_path / "none.gpkg", "-o", tmp_path / "b.html"]),
    ):
        assert report(*arguments) == code
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1
    assert out.read_text() == "mine"
    assert report(layer, "-o", out, "--overwrite") == 0


def test_an_empty_layer_is_refused(
    make_layer: Callable[..., Path],
    make_scene: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_scene()
    rasters = ["--t1", tmp_path / "t1.tif", "--t2", tmp_path / "t2.tif"]
    assert report(make_layer("none.gpkg", 0), *rasters, "-o", tmp_path / "report.html") == 1
    assert "expected polygons to review" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_parse(name: str) -> None:
    script = files("rscd.review").joinpath("assets", f"{name}.js")
    subprocess.run(["node", "--check", str(script)], check=True, capture_output=True)


def test_assets_are_package_data() -> None:
    root = Path(__file__).parents[2]
    assert '"review/assets/*"' in (root / "pyproject.toml").read_text()
    assert files("rscd.review").joinpath("assets", "leaflet-LICENSE.txt").is_file()
    assert "Leaflet" in (root / "NOTICE").read_text()
