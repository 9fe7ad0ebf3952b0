"""``rscd config``, and names of configurations for ``rscd train``."""

import json
from pathlib import Path

import pytest

from rscd.cli import main
from rscd.training.configurations import configurations


def test_list_show_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "list", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == list(configurations())

    text = configurations()["supervised_town"].read_text()
    assert main(["config", "show", "supervised_town"]) == 0
    assert capsys.readouterr().out == text

    target = tmp_path / "new" / "mine.yaml"
    assert main(["config", "copy", "supervised_town", "-o", str(target)]) == 0
    assert target.read_text() == text
    target.write_text("changed")
    assert main(["config", "copy", "supervised_town", "-o", str(target)]) == 1
    assert "give --overwrite" in capsys.readouterr().err
    assert target.read_text() == "changed"
    assert main(["config", "copy", "supervised_town", "-o", str(target), "--overwrite"]) == 0
    assert target.read_text() == text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["config", "show", "supervised"], "close to it: supervised_"),
        (["config", "show", "missing.yaml"], "found missing.yaml: "),
        (["config", "copy", "kdmsi", "-o", "a.txt"], "expected -o ending in .yaml, found a.txt"),
        (["train", "-c", "supervised_twon"], "close to it: supervised_town"),
        (["train", "supervised_town"], "found 'supervised_town' without; rscd train -c supervised"),
        (["train", "-c", "supervised_town", "--model.lrr", "3"], "lrr 3; see rscd train --help"),
        (["train", "--config=supervised_twon"], "close to it: supervised_town"),
    ],
)
def test_what_is_wrong_is_said(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) != 0
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_name_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-c", "kdmsi_town", "--stages", "nothing"]) != 0  # a chain is found
    assert "found nothing" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["train", "-c", "supervised_town", "--print_config"])
    assert ended.value.code == 0
    assert "supervised" in capsys.readouterr().out
