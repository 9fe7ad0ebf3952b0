"""``rscd doctor``: what is printed, and exit codes."""

import importlib.util
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rscd.cli import build_parser, main
from rscd.geo.source import close_handles

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "doctor.py"
SPEC = importlib.util.spec_from_file_location("benchmark_doctor_cli", BENCHMARK)
assert SPEC is not None
assert SPEC.loader is not None
injected = sys.modules[SPEC.name] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(injected)


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    return injected.good_pair(3, 320)


@pytest.fixture
def doctor(
    pair: tuple[Any, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Any]:
    """The exit code, stdout and stderr for a pair with a fault."""
    monkeypatch.chdir(tmp_path)

    def run(kind: str | None, *more: str) -> tuple[int, str, str]:
        scenes = injected.FAULTS[kind](*pair) if kind else pair
        for number, scene in enumerate(scenes, 1):
            scene.write(Path(f"t{number}.tif"))
        code = main(["doctor", "t1.tif", "t2.tif", "-m", "cva", *more])
        close_handles()
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_a_good_pair(doctor: Callable[..., Any]) -> None:
    code, out, err = doctor(None)
    assert code == 0
    assert "nothing is wrong that could be seen" in out
    assert "320 x 320 px of 0.5 m, EPSG:32633" in out
    assert out.splitlines()[-2] == "to compare them:"
    head, grid = (next(x for x in out.splitlines() if x.startswith(s)) for s in (" ", "grid "))
    assert grid.rindex("320 x 320") == head.index("t2")  # columns stand below their names
    assert err == ""


def test_a_doubtful_pair(doctor: Callable[..., Any]) -> None:
    code, out, err = doctor("large-shift")
    assert code == 3
    assert "doubt  large-shift: t2 seems to be shifted" in out
    assert "mend: --register shift" in out
    assert out.splitlines()[-2] == "with what helps:"
    assert err == "rscd: expected a pair to be trusted, found large-shift; see above\n"
    words = shlex.split(out.splitlines()[-1])
    args = build_parser().parse_args(words[1:])
    assert (args.register, args.model) == ("shift", "cva")


def test_what_nothing_helps(doctor: Callable[..., Any]) -> None:
    code, out, _ = doctor("identical")
    assert code == 3
    assert out.splitlines()[-2] == "to compare them anyway:"


def test_a_pair_that_stops_predict(doctor: Callable[..., Any]) -> None:
    code, out, err = doctor("missing-crs")
    assert code == 1
    assert "stops  missing-crs: expected a CRS in both files" in out
    assert err.count("\n") == 1
    assert "rscd predict would" not in out
    assert main(["predict", "t1.tif", "t2.tif", "-m", "cva", "-o", "a.tif"]) == 1


@pytest.mark.parametrize(("kind", "code"), [(None, 0), ("shift", 0), ("haze", 3), ("palette", 1)])
def test_json(doctor: Callable[..., Any], kind: str | None, code: int) -> None:
    found, out, _ = doctor(kind, "--json", "-q")
    data = json.loads(out)
    assert found == data["exit_code"] == code
    assert [one["kind"] for one in data["findings"]] == ([kind] if kind else [])
    assert sorted(p.name for p in Path.cwd().iterdir()) == ["t1.tif", "t2.tif"]


def test_a_fault_of_both_dates_is_named_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(tmp_path / "t1.tif"), str(tmp_path / "t2.tif")]) == 1
    said = capsys.readouterr()
    assert said.out.count("stops  unreadable") == 2
    assert "a pair that can be compared, found unreadable; see above" in said.err


def test_wrong_usage(doctor: Callable[..., Any]) -> None:
    code, _, err = doctor(None, "--gsd", "3")
    assert code == 2
    assert "--gsd" in err
