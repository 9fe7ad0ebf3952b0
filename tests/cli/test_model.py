"""``rscd model``: what is printed, and what is not exported."""

from pathlib import Path

import pytest

from rscd.cli import main
from rscd.segmenters.segmenter import find_backend


def test_a_card_begins_with_what_a_model_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "show", "buildings"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[:4]] == ["name", "summary", "use", "limits"]
    assert lines[4].startswith("  - ")
    assert any(line.startswith("  levir-cd test: ") and "f1 0." in line for line in lines)
    assert not any(mark in line for line in lines for mark in "[]{}")


def test_the_list_says_what_is_for_segmenters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("buildings ")
    segmenters = [line for line in lines if line.startswith("ceg:")]
    assert {"for --segmenter" in line for line in segmenters} == {True}
    for line in segmenters:  # by the name that is shown, too
        assert find_backend(line.split()[0]) == find_backend(line.split()[0].removeprefix("ceg:"))


@pytest.mark.parametrize("name", ["irmad", "dcva:resnet18"])
def test_a_detector_has_nothing_to_export(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["model", "export", name, "-o", str(tmp_path / "a.safetensors")]) == 2
    error = capsys.readouterr().err
    assert "which is not one network to export; see rscd model list" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_export_replaces_nothing_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "buildings.safetensors"
    target.write_bytes(b"mine")
    words = ["model", "export", "buildings", "-o", str(target)]
    assert main(words) == 1
    assert "already there; add --overwrite" in capsys.readouterr().err
    assert target.read_bytes() == b"mine"
    target.unlink()
    card = target.with_suffix(".json")  # written beside it
    card.write_text("mine")
    assert main(words) == 1
    assert "already there; add --overwrite" in capsys.readouterr().err
    assert not target.exists()
    assert card.read_text() == "mine"
    assert main([*words, "--overwrite"]) == 0
    assert target.stat().st_size > 3_000_000
    assert main(["model", "export", str(target), "-o", str(target), "--overwrite"]) == 1
    assert target.stat().st_size > 3_000_000
