"""``rscd doctor`` on the pairs of the shared cases: small scripts, each of which makes odd inputs.

A script is run as it is, but its calls of ``rscd predict`` look at the pair with the doctor first.
"""

import contextlib
import io
import json
import os
import runpy
import sys
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rscd.cli import main
from rscd.geo.source import close_handles
from tests.conftest import shared_folder

SHARED = ("-m", "-b", "--bands", "--align", "--aoi", "--bbox", "--src-nodata", "--gsd")
"""Options of predict that the doctor has too, each with one value."""


@dataclass(frozen=True)
class Look:
    """What the doctor said of one pair, and what predict came to."""

    words: list[str]
    code: int
    found: Any
    err: str
    predict: int

    @property
    def kinds(self) -> set[str]:
        """Of the findings."""
        return {one["kind"] for one in self.found["findings"]}


@dataclass
class Watched:
    """In place of the module of which the scripts take everything."""

    looked: list[Look] = field(default_factory=list)

    def rscd(self, *args: str | bytes, env: dict[str, str] | None = None) -> tuple[int, str]:
        """As the command, in this process; what concerns no pair of rasters is left out."""
        words = [os.fsdecode(word) for word in args]
        if words[0] not in {"predict", "sample"}:
            return 1, "left out"
        with pytest.MonkeyPatch.context() as patched:
            for name, value in (env or {}).items():
                patched.setenv(name, value)
            report = None
            if words[0] == "predict":
                given = [
                    word
                    for option, value in pairwise(words)
                    if option in SHARED
                    for word in (option, value)
                ]
                report = _run(["doctor", *words[1:3], *given, "--json", "-q"])
                words += [] if "-m" in words else ["-m", "cva"]  # quicker than a network
            code, out, err = _run(words)
            if report is not None:
                self.looked.append(Look(words, report[0], json.loads(report[1]), report[2], code))
        return code, (out + err).strip()


def _run(words: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    close_handles()
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> list[Look]:
    """What the doctor and predict said of the pairs of one script."""
    cases = shared_folder("RSCD_CASES", "cases", "the small inputs that fail")
    [script] = cases.glob(f"{request.param}_*.py")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    watched = Watched()
    shared = ModuleType("_c")
    shared.__dict__.update(runpy.run_path(str(cases / "_c.py")), rscd=watched.rscd)
    monkeypatch.setitem(sys.modules, "_c", shared)
    # whether the case is mended is not asked here, and reports that were left out are not there
    with contextlib.suppress(SystemExit, OSError):
        runpy.run_path(str(script))
    return watched.looked


PAIRS = {"c03": 2, "c06": 6, "c07": 4, "c14": 5, "c16": 11, "c18": 3, "c23": 2}
"""How many each script compares."""

NAMED = {"c18": [{"unreadable"}, {"unreadable"}, set()]}
"""Findings of those scripts whose pairs have some: names that no library opens."""


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize(("name", "looked"), [(name, name) for name in PAIRS], indirect=["looked"])
def test_the_doctor_says_what_a_reader_expects(name: str, looked: list[Look]) -> None:
    assert len(looked) == PAIRS[name]
    assert [one.kinds for one in looked] == NAMED.get(name, [set()] * len(looked))
    for one in looked:
        assert one.code == one.found["exit_code"] == (1 if one.kinds else 0)
        assert one.err.count("\n") == (1 if one.code else 0)
        assert "Traceback" not in one.err + json.dumps(one.found)
        if one.code == 1:
            assert one.predict == 1
        elif one.predict:  # formats that lack the CRS, a name of an output
            assert one.predict == 2 or "\udcfc" in one.words[one.words.index("-o") + 1]
    also = {"c03": _near_infrared_tagged_alpha, "c14": _blue_first}.get(name)
    if also is not None:
        also([one.found for one in looked])


def _near_infrared_tagged_alpha(reports: list[Any]) -> None:
    chosen, usual = reports
    for date in ("t1", "t2"):
        assert chosen["dates"][date]["bands"] == [1, 2, 3, 4]
        assert usual["dates"][date]["bands"] == [1, 2, 3]
        assert usual["dates"][date]["alpha"] == 4
    assert chosen["between"]["valid"] == 1
    assert usual["between"]["valid"] < 1


def _blue_first(reports: list[Any]) -> None:
    said = [[line.partition(":")[0] for line in one["says"] if "3,2,1" in line] for one in reports]
    assert said == [[], ["t1", "t2"], [], ["t2"], []]
    assert reports[3]["dates"]["t2"]["colours"] == ["blue", "green", "red"]
