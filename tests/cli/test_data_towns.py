"""``rscd data towns``: pairs of somebody else are not replaced."""

from pathlib import Path

import pytest

from rscd.cli import main


def test_a_folder_with_pairs_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = tmp_path / "set" / "list" / "train.txt"
    split.parent.mkdir(parents=True)
    split.write_text("mine.png\n")
    words = ["data", "towns", "-o", str(tmp_path / "set"), "--train", "2", "--val", "0"]
    words += ["--test", "0", "--size", "64", "-q"]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "expected a folder without pairs, found list in " in error
    assert error.count("\n") == 1
    assert split.read_text() == "mine.png\n"
    assert main([*words, "--overwrite"]) == 0
    assert len(split.read_text().splitlines()) == 2
