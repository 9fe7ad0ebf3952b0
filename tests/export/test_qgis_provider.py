"""The plugin for QGIS: command lines and processes without QGIS, and its algorithms inside QGIS.

As in test_qgis.py, RSCD_QGIS_PYTHON names an interpreter that has PyQGIS.
"""

import ast
import configparser
import importlib
import importlib.util
import json
import os
import shlex
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import geopandas
import numpy as np
import psutil
import pytest
import rasterio
from shapely.geometry import box

from rscd.base.version import version
from rscd.cli import build_parser

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "qgis" / "rscd_provider"

Started = Callable[..., Any]
"""One process of QGIS: attempts, projects and tables of the batch dialog -> what it says."""


def part(name: str) -> ModuleType:
    """A module of the plugin that needs no QGIS."""
    if "rscd_provider" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "rscd_provider", PLUGIN / "__init__.py", submodule_search_locations=[str(PLUGIN)]
        )
        assert spec is not None
        sys.modules["rscd_provider"] = importlib.util.module_from_spec(spec)
        assert spec.loader is not None
        spec.loader.exec_module(sys.modules["rscd_provider"])
    return importlib.import_module(f"rscd_provider.{name}")


command, process = part("command"), part("run")


def parsed(line: list[str]) -> dict[str, Any]:
    args, rest = build_parser().parse_known_args(line)
    assert not rest
    return {name: value for name, value in vars(args).items() if name != "parser"}


# --- command lines


def test_rscd_reads_what_was_set_for_predict() -> None:
    line = command.predict(
        "/data/a b.tif", "/data/-2.tif", ["/out/change.gpkg", "/out/change.tif"],
        model="-odd.ckpt", threshold=0.25, min_area=1234567.5, min_score=0.0, register="shift",
        prob="/out/p.tif", project="/out/p.qgz", aoi="/data/-area.gpkg", bands="3,2,1", align="t2",
        t1_date="2019-07-14", t2_date="2023-05-01", src_nodata=-9999.0, pictures=True, misreg=True,
        extra="--simplify 1 --co 'COMPRESS=ZSTD'",
    )  # fmt: skip
    args = parsed(line)
    expected = {
        "t1": "/data/a b.tif", "t2": "/data/-2.tif", "model": "-odd.ckpt", "min_area": 1234567.5,
        "min_score": 0.0, "register": "shift", "overwrite": True, "bands": "3,2,1", "align": "t2",
        "t1_date": "2019-07-14", "t2_date": "2023-05-01", "src_nodata": -9999.0, "pictures": True,
        "simplify": 1.0, "co": ["COMPRESS=ZSTD"],
    }  # fmt: skip
    assert {name: args[name] for name in expected} == expected
    assert [str(one) for one in args["output"]] == ["/out/change.gpkg", "/out/change.tif"]
    files = [str(args[name]) for name in ("prob", "project", "aoi")]
    assert files == ["/out/p.tif", "/out/p.qgz", "/data/-area.gpkg"]
    assert float(args["threshold"]) == 0.25


def test_flags_stand_alone_or_not_at_all() -> None:
    estimated, of_two, without = (
        parsed(command.predict("a.tif", "b.tif", ["c.gpkg"], misreg=misreg, pictures=False))
        for misreg in (True, 2.0, False)
    )
    assert without == parsed(["predict", "a.tif", "b.tif", "-o", "c.gpkg", "--overwrite"])
    assert of_two["misreg"] == 2
    typed = parsed(["predict", "a.tif", "b.tif", "-o", "c.gpkg", "--overwrite", "--misreg"])
    assert estimated == typed


def test_further_options_are_read_as_in_a_terminal() -> None:
    assert command.typed(r"--tta '1, 2' --report C:\new\r.html -v") == [
        "--tta", "1, 2", "--report", r"C:\new\r.html", "-v",
    ]  # fmt: skip
    assert command.typed("# 1") == ["#", "1"]
    assert command.typed("") == []
    with pytest.raises(ValueError, match=r"a quotation mark that does not close: --co 'A=1$"):
        command.typed("--co 'A=1")
    with pytest.raises(ValueError, match=r"writes a file, found --dry-run; type it in a terminal"):
        command.typed("--simplify 1 --dry-run")


@pytest.mark.skipif(os.name == "nt", reason="a terminal of another system")
def test_the_line_in_the_log_is_read_by_a_terminal_as_it_was_run() -> None:
    words = ["rscd", "predict", "/a&b$(id).tif", "it's.tif", "--aoi=x.gpkg|layername=on it", ""]
    assert shlex.split(command.shown(words)) == words


def test_what_was_not_set_is_left_to_rscd() -> None:
    given = parsed(command.predict("a.tif", "b.tif", ["c.gpkg"], aoi=None))
    assert given == parsed(["predict", "a.tif", "b.tif", "-o", "c.gpkg", "--overwrite"])
    given = parsed(command.events("a.gpkg", "b.gpkg", "c.gpkg"))
    assert given == parsed(["events", "a.gpkg", "b.gpkg", "-o", "c.gpkg", "--overwrite"])
    assert command.doctor("a.tif", "b.tif") == ["doctor", "a.tif", "b.tif"]


def test_rscd_reads_what_was_set_for_events_and_doctor() -> None:
    args = parsed(
        command.events(
            "a.gpkg", "b.gpkg", "c.gpkg", layer_t1="y 1", layer_t2="y2", kinds=["kept", "vanished"],
            class_field="use", delta=1e-5, min_area=3,
        )
    )  # fmt: skip
    expected = {
        "layer_t1": "y 1", "layer_t2": "y2", "kinds": "kept,vanished", "class_field": "use",
        "delta": 1e-5, "min_area": 3.0,
    }  # fmt: skip
    assert {name: args[name] for name in expected} == expected
    assert parsed(command.doctor("a.tif", "b.tif", model="cva"))["model"] == "cva"


def test_files_that_begin_with_a_hyphen_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-1.tif").touch()
    line = command.doctor("-1.tif", "https://host/b.tif")
    assert line == ["doctor", str(tmp_path / "-1.tif"), "https://host/b.tif"]


@pytest.mark.skipif(os.name == "nt", reason="links and commands of POSIX")
def test_the_program_is_the_python_given_or_rscd_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "python"
    link.symlink_to(sys.executable)
    assert command.program(str(link)) == [str(link), "-m", "rscd"]  # of a virtual environment
    script = tmp_path / "rscd"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    assert command.program(str(script)) == [str(script)]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command.program("") == [str(script)]
    script.unlink()
    with pytest.raises(FileNotFoundError, match="expected the command rscd on PATH, found none"):
        command.program("")
    with pytest.raises(FileNotFoundError, match=r"found no file at .*nowhere; set Settings"):
        command.program(str(tmp_path / "nowhere"))


def test_nothing_leads_to_the_python_of_qgis() -> None:
    of_qgis = {"PYTHONHOME": "/qgis", "PYTHONPATH": "/qgis/python", "PROJ_LIB": "/qgis/proj"}
    env = command.environment({**of_qgis, "PATH": "/bin"}, bars=False)
    assert not set(env) & set(of_qgis)
    assert env["PATH"] == "/bin"
    assert "FORCE_COLOR" not in env


# --- processes


def run(
    code: str,
    *,
    env: dict[str, str] | None = None,
    cancelled: Callable[..., Any] = lambda: False,
    on_line: Callable[..., Any] = lambda line: None,
) -> tuple[Any, list[Any]]:
    bars: list[Any] = []
    line = [sys.executable, "-c", code]
    env = command.environment({**os.environ, **(env or {})}, bars=True)
    ended = process.run(line, env, on_bar=bars.append, on_line=on_line, cancelled=cancelled)
    return ended, bars


BARS = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from rscd.cli.progress import progress_bar
print("a line — before", file=sys.stderr)
with progress_bar(quiet=False) as report:
    for stage, total in (("statistics", 12), ("change", 3)):
        for done in range(total + 1):
            report(stage, done, total)
print("69 polygons; 1/2 windows", file=sys.stderr)
print("answer")
"""


@pytest.mark.skipif(os.name == "nt", reason="drawing bars takes a console there")
def test_bars_of_rscd_are_read_and_lines_are_not_taken_for_bars() -> None:
    ended, bars = run(BARS)
    assert ended == process.Ended(0, ("a line — before", "69 polygons; 1/2 windows"), "answer\n")
    assert {bar.stage for bar in bars} == {"statistics", "change"}
    assert bars[0].done == 0  # while it works, not only at the end
    assert process.Bar("statistics", 12, 12) in bars
    assert bars[-1] == process.Bar("change", 3, 3)
    assert bars[-1].percent == 100


def test_pieces_come_whole_however_they_are_cut() -> None:
    text = "eins — zwei\r\x1b[2Kdrei\nvier"

    class Slow:
        rest = text.encode()

        def read1(self, _: int) -> bytes:
            one, self.rest = self.rest[:1], self.rest[1:]
            return one

    assert list(process.pieces(Slow())) == ["eins — zwei", "\x1b[2Kdrei", "vier"]


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("print('rscd: A', 'later', sep='\\n', file=sys.stderr); sys.exit(1)", "rscd: A"),
        ("raise ValueError('odd')", "rscd ended with exit code 1: ValueError: odd"),
        ("sys.exit(7)", "rscd ended with exit code 7: nothing was said"),
        ("import runpy; sys.exit('python: No module named rscd')",
         "python: No module named rscd; install rscd in that Python, or choose another"),
    ],
)  # fmt: skip
def test_a_fault_is_one_line(code: str, fault: str) -> None:
    ended, _ = run(f"import sys; {code}")
    assert ended.code
    assert ended.fault == fault


def alive(pid: int) -> bool:
    """Whether a process that may be nobody's child still runs: zombies do not."""
    try:
        return psutil.Process(pid).status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    except psutil.NoSuchProcess:
        return False


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("stubborn", [False, True])
def test_cancel_ends_the_process_and_its_children(
    monkeypatch: pytest.MonkeyPatch, stubborn: bool
) -> None:
    monkeypatch.setattr(process, "GRACE_S", 0.3 if stubborn else 30)
    how = "SIG_IGN" if stubborn else "SIG_DFL"
    code = (
        f"import os, signal, subprocess, sys, time; signal.signal(signal.SIGINT, signal.{how})\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "print(os.getpid(), child.pid, file=sys.stderr); time.sleep(60)"
    )
    lines: list[str] = []
    started = time.monotonic()
    with pytest.raises(process.Cancelled):
        run(code, cancelled=lambda: bool(lines), on_line=lines.append)
    assert time.monotonic() - started < 25
    parent, child = map(int, lines[0].split())
    assert not alive(parent)
    while alive(child) and time.monotonic() - started < 25:
        time.sleep(0.02)
    assert not alive(child)


# --- the plugin


@pytest.fixture(scope="module")
def unzipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which QGIS finds the plugin, as unpacked from the zip."""
    folder = tmp_path_factory.mktemp("plugin")
    script: list[str | Path] = [
        sys.executable,
        ROOT / "qgis" / "package.py",
        folder / "new" / "plugin.zip",
    ]
    subprocess.run(script, check=True)
    with zipfile.ZipFile(folder / "new" / "plugin.zip") as archive:
        archive.extractall(folder / "plugins")
    return folder / "plugins"


def test_the_zip_has_the_plugin_alone(unzipped: Path) -> None:
    assert [one.name for one in unzipped.iterdir()] == ["rscd_provider"]
    names = {one.name for one in (unzipped / "rscd_provider").iterdir()}
    written = {one.name for one in PLUGIN.iterdir() if one.is_file()}
    assert names == written | {"LICENSE"}


def test_metadata_is_that_of_the_package(unzipped: Path) -> None:
    found = configparser.ConfigParser()
    found.read(unzipped / "rscd_provider" / "metadata.txt", encoding="utf-8")
    facts = found["general"]
    assert facts["version"] == version()
    assert facts["qgisMinimumVersion"] == "3.22"
    assert facts["qgisMaximumVersion"] == "4.99"  # else QGIS 4 takes 3.99
    assert facts["hasProcessingProvider"] == "yes"  # else qgis_process does not load it
    assert all(facts[name] for name in ("name", "description", "author", "about"))
    least = ".".join(map(str, sys.modules["rscd_provider"].LEAST_PYTHON))
    assert f"QGIS itself needs Python {least} or later" in facts["about"]


def test_an_older_python_of_qgis_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 8, 20, "final", 0))
    with pytest.raises(
        RuntimeError, match=r"a QGIS with Python 3\.9 or later, found 3\.8; install"
    ):
        sys.modules["rscd_provider"].classFactory(None)


def test_the_first_module_is_read_by_an_older_python() -> None:
    ast.parse((PLUGIN / "__init__.py").read_text(encoding="utf-8"), feature_version=(3, 7))


@pytest.mark.parametrize("path", sorted(PLUGIN.glob("*.py")), ids=lambda path: path.name)
def test_qgis_4_finds_the_names_that_qgis_3_has(path: Path) -> None:
    """PyQt6 has members of an enumeration under its own name alone, and QGIS 4 no PyQt5."""
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names]
            assert not [name for name in names if name.startswith(("PyQt", "PySide"))]
    inner = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            member = node.value.id.startswith("Qgs") and node.attr[0].isupper()
            assert not member or id(node) in inner, f"{node.value.id}.{node.attr} names no enum"


SCRIPT = """
import json, os, sys
job = json.loads(sys.argv[1])
sys.path[:0] = ["/usr/share/qgis/python/plugins", job["plugins"]]
from qgis.core import (QgsApplication, QgsProcessingContext, QgsProcessingFeedback, QgsProject,
    QgsVectorLayer)
QgsApplication.setPrefixPath("/usr", True)
application = QgsApplication([], bool(job["batch"]))
application.initQgis()
import processing
from processing.core.Processing import Processing
from processing.core.ProcessingConfig import ProcessingConfig
Processing.initialize()
import rscd_provider
plugin = rscd_provider.classFactory(None)
plugin.initProcessing()
registry = QgsApplication.processingRegistry()
help = {one.id(): one.shortHelpString() for one in plugin.provider.algorithms()}

class Feedback(QgsProcessingFeedback):
    def __init__(self):
        super().__init__(False)
        self.lines, self.steps, self.percents = [], [], []
    def pushInfo(self, text):
        self.lines.append(text)
        self.percents.append(self.progress())
    def setProgressText(self, text):
        self.steps.append(text)

def fact(layer):
    renderer = layer.renderer()
    return {"renderer": renderer.type(), "source": layer.source(),
        "attribute": getattr(renderer, "classAttribute", lambda: None)()}

def attempt(name, values, cancel=False):
    feedback = Feedback()
    QgsProject.instance().clear()
    if cancel:
        feedback.cancel()
    try:
        results = processing.runAndLoadResults(name, values, feedback=feedback)
    except Exception as error:
        return {"error": str(error), "lines": feedback.lines}
    layers = QgsProject.instance().mapLayers().values()
    return {"results": {k: v for k, v in results.items() if isinstance(v, (str, int))},
        "layers": {layer.name(): fact(layer) for layer in layers},
        "lines": feedback.lines, "steps": feedback.steps, "percents": feedback.percents}

def of_project(path):
    project = QgsProject()
    project.read(path)
    return {"layers": sorted(one.name() for one in project.mapLayers().values()),
        "valid": all(one.isValid() for one in project.mapLayers().values())}

def batch(name, rows):
    "The dialog of the toolbox, from a table that was saved to a click on Run."
    from qgis.PyQt.QtWidgets import QTextEdit
    from processing.core.ProcessingResults import resultsList
    from processing.gui import BatchPanel
    from processing.gui.BatchAlgorithmDialog import BatchAlgorithmDialog
    QgsProject.instance().clear()
    dialog = BatchAlgorithmDialog(registry.createAlgorithmById(name))
    BatchPanel.QFileDialog.getOpenFileName = staticmethod(lambda *_: (rows, ""))
    dialog.mainWidget().load()
    dialog.mainWidget().checkLoadLayersOnCompletion.setChecked(True)
    dialog.show()
    dialog.runButton().click()
    application.processEvents()
    dialog.grab().save(rows + ".png")
    pages = [one.filename for one in resultsList.getResults()]
    layers = QgsProject.instance().mapLayers().values()
    log = dialog.findChild(QTextEdit, "txtLog").toPlainText()
    return {"rows": dialog.mainWidget().batchRowCount(), "log": log, "summary": pages,
        "layers": [fact(layer) for layer in layers]}

answers = {"help": help, "attempts": {}, "projects": {}, "batch": {}}
for name, python, algorithm, values, cancel in job["attempts"]:
    ProcessingConfig.settings["RSCD_PYTHON"].value = python
    answers["attempts"][name] = attempt(algorithm, values, cancel)
for path in job["projects"]:
    answers["projects"][path] = of_project(path)
for name, python, rows in job["batch"]:
    ProcessingConfig.settings["RSCD_PYTHON"].value = python
    answers["batch"][name] = batch(name, rows)
plugin.unload()
answers["left"] = registry.providerById("rscd") is not None
print("ANSWERS" + json.dumps(answers), flush=True)
os._exit(0)  # PyQGIS is known to crash while it takes itself down
"""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, write_tif: Callable[..., Path]) -> Path:
    """Two rasters with one changed square, two layers of footprints."""
    folder = tmp_path_factory.mktemp("scene")
    t1 = np.random.default_rng(0).integers(60, 90, (3, 64, 64)).astype(np.uint8)
    t2 = t1.copy()
    t2[:, 20:40, 10:30] += 120
    write_tif(folder / "t1.tif", t1)
    write_tif(folder / "t2.tif", t2)
    for name, corners in (("a", [0, 100]), ("b", [0, 200])):
        shapes = [box(500_000 + x, 4_999_900, 500_050 + x, 4_999_950) for x in corners]
        geopandas.GeoDataFrame(
            {"use": ["house"] * 2}, geometry=shapes, crs="EPSG:32633"
        ).to_file(folder / f"{name}.gpkg", layer=f"layer {name}")  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def python(scene: Path) -> str:
    """What the plugin is told to run: rscd may not be installed in the interpreter of the tests."""
    path = scene / "python"
    path.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture(scope="module")
def idle(scene: Path) -> str:
    """A command rscd that ends well and writes nothing."""
    path = scene / "idle"
    path.write_text("#!/bin/sh\necho 'what rscd printed'\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a QGIS without a screen and with a new profile."""
    return {
        "QT_QPA_PLATFORM": "offscreen", "HOME": str(tmp_path_factory.mktemp("home")),
        "PATH": "/nowhere", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip


@pytest.fixture(scope="module")
def started(pyqgis: str, unzipped: Path, environment: dict[str, str]) -> Started:
    """``started(attempts, projects, batch)``: what one process of QGIS says of them."""

    def start(attempts: Any, projects: Sequence[Any] = (), batch: Sequence[Any] = ()) -> Any:
        job = {"plugins": str(unzipped), "attempts": attempts}
        job |= {"projects": list(projects), "batch": list(batch)}
        done = subprocess.run(
            [pyqgis, "-X", "faulthandler", "-c", SCRIPT, json.dumps(job)],
            check=False, capture_output=True, text=True, env=environment, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "ResourceWarning" not in done.stderr
        return json.loads(done.stdout.rpartition("ANSWERS")[2])

    return start


@pytest.fixture(scope="module")
def qgis(started: Started, python: str, idle: str, scene: Path) -> dict[str, Any]:
    """What the algorithms said and wrote inside QGIS, in one process of QGIS."""
    nowhere = str(scene / "nowhere")
    pair = {"T1": str(scene / "t1.tif"), "T2": str(scene / "t2.tif"), "MODEL": "cva"}
    layers = {"T1": str(scene / "a.gpkg"), "T2": str(scene / "b.gpkg"), "CLASS": "use"}
    change = {**pair, "MIN_AREA": 5000, "OUTPUT": str(scene / "change.gpkg")}
    return started(
        [
            ("predict", python, "rscd:predict", {**change, "MASK": str(scene / "m.tif")}, False),
            ("events", python, "rscd:events", {**layers, "OUTPUT": "TEMPORARY_OUTPUT"}, False),
            ("doctor", python, "rscd:doctor", {**pair, "REPORT": str(scene / "r.html")}, False),
            ("model", python, "rscd:predict",
             {**pair, "MODEL_FILE": layers["T1"], "OUTPUT": str(scene / "no.gpkg")}, False),
            ("python", nowhere, "rscd:doctor", pair, False),
            ("path", "", "rscd:doctor", pair, False),
            ("quotes", "", "rscd:predict",
             {**pair, "EXTRA": "--co 'A", "OUTPUT": str(scene / "no.gpkg")}, False),
            ("idle", idle, "rscd:predict", {**pair, "OUTPUT": str(scene / "no.gpkg")}, False),
            ("cancel", python, "rscd:predict", {**pair, "OUTPUT": str(scene / "no.gpkg")}, True),
        ]
    )  # fmt: skip


@pytest.mark.slow
def test_algorithms_are_there_with_help_and_go_away(qgis: dict[str, Any]) -> None:
    assert set(qgis["help"]) == {"rscd:predict", "rscd:events", "rscd:doctor"}
    assert all(len(text) > 100 for text in qgis["help"].values())
    assert not qgis["left"]


def test_change_is_written_and_styled(qgis: dict[str, Any], scene: Path) -> None:
    found = qgis["attempts"]["predict"]
    assert found["results"]["OUTPUT"] == str(scene / "change.gpkg")
    styles = {Path(one["source"]).name: one for one in found["layers"].values()}
    assert styles["change.gpkg"]["renderer"] == "graduatedSymbol"
    assert styles["change.gpkg"]["attribute"] == "score"
    assert styles["m.tif"]["renderer"] == "paletted"
    polygons = geopandas.read_file(scene / "change.gpkg", layer="changes")
    assert list(polygons["model"]) == ["cva"]
    assert polygons.area.sum() == pytest.approx(40_000, rel=0.1)
    with rasterio.open(scene / "m.tif") as mask:
        assert mask.read(1)[20:40, 10:30].mean() > 0.9


def test_progress_is_shown_by_stage(qgis: dict[str, Any]) -> None:
    found = qgis["attempts"]["predict"]
    assert found["steps"][:3] == ["statistics", "change", "writing"]
    assert len(found["steps"]) == 4  # the last is QGIS's own: loading
    assert not [line for line in found["lines"] if "ETA" in line]
    [end] = [n for n, line in enumerate(found["lines"]) if line.startswith("1 polygon")]
    assert found["percents"][0] == 0
    assert found["percents"][end] == 100


def test_events_of_footprints(qgis: dict[str, Any]) -> None:
    found = qgis["attempts"]["events"]
    [layer] = found["layers"].values()
    path = found["results"]["OUTPUT"]
    assert path.endswith(".gpkg")
    assert layer["renderer"] == "categorizedSymbol"
    assert layer["attribute"] == "kind"
    assert [line for line in found["lines"] if line.startswith("1 appeared")]


def test_findings_of_the_doctor_are_an_answer(qgis: dict[str, Any], scene: Path) -> None:
    found = qgis["attempts"]["doctor"]["results"]
    assert found["VERDICT"] in {0, 1, 3}
    page = (scene / "r.html").read_text(encoding="utf-8")
    assert "rscd predict would" in page


@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        ("model", "rscd: expected"),
        ("python", "expected a Python with rscd, found no file at"),
        ("path", "expected the command rscd on PATH, found none"),
        ("quotes", "expected options as on a command line, found a quotation mark"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(qgis: dict[str, Any], attempt: str, said: str) -> None:
    error = qgis["attempts"][attempt]["error"]
    assert said in error
    assert "Traceback" not in error
    assert "\n" not in error.strip()


def test_a_run_that_wrote_no_file_is_no_success(qgis: dict[str, Any], scene: Path) -> None:
    found = qgis["attempts"]["idle"]
    assert f"expected {scene / 'no.gpkg'}, found that rscd wrote no file" in found["error"]
    assert "what rscd printed\n" in found["lines"]
    assert not found.get("layers")


def test_cancelled_runs_write_nothing(qgis: dict[str, Any], scene: Path) -> None:
    found = qgis["attempts"]["cancel"]
    assert not found.get("layers")
    assert not (scene / "no.gpkg").exists()


# --- everything that can be set, the batch dialog and qgis_process


@pytest.fixture(scope="module")
def corner(scene: Path) -> str:
    """Two layers in one file, the second named like it; the change is in that alone."""
    path = scene / "areas.gpkg"
    for name, left in (("beside", 500_400), ("areas", 500_200)):
        area = box(left, 4_999_700, left + 200, 4_999_900)
        frame = geopandas.GeoDataFrame({"n": [1]}, geometry=[area], crs="EPSG:32633")
        frame.to_file(path, layer=name)
    return f"{path}|layername=areas"


@pytest.fixture(scope="module")
def advanced(started: Started, python: str, scene: Path, corner: str) -> dict[str, Any]:
    """A run with every parameter, and the batch dialog on three rows, the last of them wrong."""
    pair = {"T1": str(scene / "t1.tif"), "T2": str(scene / "t2.tif"), "MODEL": "cva"}
    dated = {"T1_DATE": "2019-07-14", "T2_DATE": "2023-05-01", "BANDS": "3,1", "AOI": corner}
    every = {
        **pair, **dated, "MIN_AREA": 0, "MIN_SCORE": 0.1, "THRESHOLD": 0.4, "REGISTER": "off",
        "ALIGN": "t2", "SRC_NODATA": 0, "PICTURES": True, "MISREG": True, "MISREG_PX": 1.5,
        "EXTRA": "--simplify 1 --lco 'SPATIAL_INDEX=NO'", "OUTPUT": str(scene / "all.gpkg"),
        "MASK": str(scene / "all.tif"), "PROB": str(scene / "all_p.tif"),
        "PROJECT": str(scene / "all.qgz"),
    }  # fmt: skip
    changes: list[dict[str, Any]] = [dated, {"MIN_AREA": 5000.0}, {"MODEL_FILE": pair["T1"]}]
    rows = [
        {"PARAMETERS": {name: repr(value) for name, value in {**pair, **more}.items()},
         "OUTPUTS": {"OUTPUT": str(scene / f"row{n}.gpkg")}}
        for n, more in enumerate(changes)
    ]  # fmt: skip
    (scene / "rows.json").write_text(json.dumps(rows))
    attempts = [
        ("every", python, "rscd:predict", every, False),
        ("doctor", python, "rscd:doctor",
         {**pair, **dated, "ALIGN": "t2", "REPORT": str(scene / "all.html")}, False),
        ("day", python, "rscd:doctor", {**pair, "T2_DATE": "2018-02-30"}, False),
    ]  # fmt: skip
    batch = [("rscd:predict", python, str(scene / "rows.json"))]
    return started(attempts, [every["PROJECT"]], batch)


@pytest.mark.slow
def test_every_parameter_reaches_rscd(advanced: dict[str, Any], scene: Path) -> None:
    found = advanced["attempts"]["every"]
    assert "error" not in found
    polygons = geopandas.read_file(scene / "all.gpkg", layer="changes")
    assert [str(day)[:10] for day in (polygons["t1"][0], polygons["t2"][0])] == [
        "2019-07-14", "2023-05-01",
    ]  # fmt: skip
    assert {"misreg", "model"} <= set(polygons)
    assert polygons.total_bounds[0] >= 500_200
    with rasterio.open(scene / "all_p.tif") as prob, rasterio.open(scene / "all.tif") as mask:
        assert prob.shape == mask.shape == (20, 20)  # the area alone
    assert polygons["picture"].notna().all()
    assert {Path(one["source"]).name for one in found["layers"].values()} == {
        "all.gpkg", "all.tif", "all_p.tif",
    }  # fmt: skip


@pytest.mark.slow
def test_the_project_opens_with_all_layers(advanced: dict[str, Any], scene: Path) -> None:
    project = advanced["projects"][str(scene / "all.qgz")]
    assert project["valid"]
    assert len(project["layers"]) == 5  # both dates, polygons, mask, probability


@pytest.mark.slow
def test_the_doctor_looks_with_the_same_parameters(advanced: dict[str, Any], scene: Path) -> None:
    page = (scene / "all.html").read_text(encoding="utf-8")
    assert "20 x 20 px" in page
    assert "--bands 3,1 --t1-date 2019-07-14 --t2-date 2023-05-01 --align t2" in page
    assert "T2_DATE" in advanced["attempts"]["day"]["error"]


@pytest.mark.slow
def test_the_batch_dialog_runs_every_row_and_says_which_failed(
    advanced: dict[str, Any], scene: Path
) -> None:
    found = advanced["batch"]["rscd:predict"]
    assert found["rows"] == 3
    dated, larger = (geopandas.read_file(scene / f"row{n}.gpkg", layer="changes") for n in (0, 1))
    assert str(dated["t1"][0])[:10] == "2019-07-14"
    assert dated.total_bounds[0] >= 500_200
    assert larger["t1"].isna().all()
    assert larger.total_bounds[0] < 500_200
    assert not (scene / "row2.gpkg").exists()
    layers = {Path(one["source"]).name: one["renderer"] for one in found["layers"]}
    assert layers == dict.fromkeys(("row0.gpkg", "row1.gpkg"), "graduatedSymbol")
    [summary] = found["summary"]
    assert Path(summary).read_text(encoding="utf-8").count("rscd: expected") == 1
    assert "1 executions failed" in found["log"]


@pytest.mark.slow
def test_qgis_process_runs_it(
    pyqgis: str,
    unzipped: Path,
    environment: dict[str, str],
    python: str,
    scene: Path,
    corner: str,
) -> None:
    # Debian's script beside it adds an option that qgis_process does not know
    names = ("qgis_process.bin", "qgis_process")
    program = next((p for n in names if (p := Path(pyqgis).with_name(n)).is_file()), None)
    if program is None:
        pytest.skip(f"no qgis_process beside {pyqgis}")
    env = {**environment, "PATH": "/usr/bin:/bin", "QGIS_PLUGINPATH": str(unzipped)}
    subprocess.run([program, "plugins", "enable", "rscd_provider"], check=True, env=env)
    [profile] = Path(env["HOME"]).glob(".local/share/QGIS/*/profiles/default/QGIS/QGIS*.ini")
    with profile.open("a", encoding="utf-8") as settings:
        settings.write(f"\n[Processing]\nConfiguration\\RSCD_PYTHON={python}\n")
    values = {
        "T1": scene / "t1.tif", "T2": scene / "t2.tif", "MODEL": "cva", "AOI": corner,
        "T1_DATE": "2019-07-14", "OUTPUT": scene / "process.gpkg", "PROJECT": scene / "process.qgz",
    }  # fmt: skip
    words = [f"{name}={value}" for name, value in values.items()]
    done = subprocess.run(
        [program, "run", "rscd:predict", "--", *words],
        check=False, capture_output=True, text=True, env=env, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    polygons = geopandas.read_file(scene / "process.gpkg", layer="changes")
    assert str(polygons["t1"][0])[:10] == "2019-07-14"
    assert (scene / "process.qgz").is_file()
