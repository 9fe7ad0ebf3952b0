"""Each model that ships says what it is for, on the command line and on a page."""

import json

import pytest

from rscd.cli import main
from rscd.inference.about import ABOUT
from rscd.inference.models import model_names
from rscd.inference.shipped import SHIPPED, shipped_card


def test_every_model_is_described() -> None:
    assert set(ABOUT) == set(model_names())
    for name, about in ABOUT.items():
        told = [about.use, about.source, *about.limits]
        if name == SHIPPED:  # the card in its file says the rest
            card = shipped_card()
            told += [card["data"], card["licence"], *card["measured"]]
        else:
            told += [about.data, about.licence, *about.measured.values()]
        assert all(text.strip() for text in told)
        assert len(about.limits) > 1


@pytest.mark.parametrize("name", ["buildings", "irmad"])
def test_the_command_line_says_so(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "show", name, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["use"] == ABOUT[name].use
    assert shown["limits"] == list(ABOUT[name].limits)
