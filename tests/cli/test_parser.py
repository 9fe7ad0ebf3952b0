"""Help that fits a screen, and options that would do nothing."""

import argparse
import re
from collections.abc import Iterator

import pytest

from rscd.base.errors import UsageError
from rscd.cli import build_parser, main
from rscd.cli.options import NAMED_SCALES, in_words
from rscd.cli.parser import Parser

SCREEN = 50
"""Lines."""
SCALES = re.compile(r"(\w+) \(([\d.,]+)\)").findall


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and all of its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from parsers(one)


COMMANDS = {parser.prog: parser for parser in parsers(build_parser())}


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit, match="0"):
        main(words)
    return capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_screen_and_names_every_option(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parser = COMMANDS[name]
    text = parser.format_help()
    lines = text.splitlines()
    assert len(lines) <= SCREEN
    assert max(map(len, lines)) <= 100
    for action in parser._actions:
        if action.help != argparse.SUPPRESS and action.option_strings:
            assert action.option_strings[-1] in text


@pytest.mark.parametrize(
    "name", [name for name, one in COMMANDS.items() if "--help-all" in one._option_string_actions]
)
def test_help_all_explains_every_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = " ".join(printed(capsys, *name.split()[1:], "--help-all").split())
    for action in COMMANDS[name]._actions:
        if action.help and action.help != argparse.SUPPRESS:
            assert " ".join(action.help.replace("%%", "%").split()) in text


def test_help_of_training_is_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    short = capsys.readouterr().out
    assert "--ckpt_path" in short
    assert len(short.splitlines()) <= SCREEN
    everything = printed(capsys, "train", "--help-all")
    own = ("--help-all", "--quiet", "--verbose")
    named = [word.rstrip(",;") for word in short.split() if word.startswith("--")]
    assert len(named) > 10
    assert all(name in everything for name in named if name not in own)


def two_uses() -> Parser:
    parser = Parser(prog="x", usage="x")
    parser.add_argument("--both")
    parser.group("one", use="one").add_argument("-f", "--first", type=float, default=2.0)
    rare = parser.group("other", use="another", rare=True)
    rare.add_argument("--flag", action=argparse.BooleanOptionalAction)
    rare.add_argument("--many", action="append", default=[])
    return parser


@pytest.mark.parametrize(
    ("given", "use", "refused"),
    [
        ("--both 1 --first 0", "one", None),
        ("--first 2", "another", None),
        ("-f 0", "another", "expected --first only with one, found another; drop it"),
        ("--no-flag", "one", "expected --flag only with another, found one; drop it"),
        ("--many 0", "one", "expected --many only with another, found one; drop it"),
        ("--no-flag --many 1", "another", None),
    ],
)
def test_options_that_would_do_nothing(given: str, use: str, refused: str | None) -> None:
    parser = two_uses()
    args = parser.parse_args(given.split())
    if refused is None:
        parser.refuse_idle(args, use)
        return
    with pytest.raises(UsageError) as error:
        parser.refuse_idle(args, use)
    assert str(error.value) == refused


def test_rare_options_are_named_and_explained_elsewhere() -> None:
    parser = two_uses()
    assert "  other: --no-flag, --many" in parser.format_help()
    assert "--many MANY" not in parser.format_help()
    assert "--many MANY" in parser.format_help_all()


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "\n    predict " in said.err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("predic a b", r"expected one of predict, .*, found 'predic'; close to it: predict; see "),
        ("review aply x", r"found 'aply'; close to it: apply; see rscd review --help"),
        (
            "predict a b -o c --minarea 3",
            r"arguments: --minarea 3; close to it: --min-area, ",
        ),
        ("predict a b -o c --minarea=3", r"--minarea=3; close to it: --min-area, "),
        (
            "review next x --rnadom",
            r"arguments: --rnadom; see rscd review next --help",
        ),
        ("predict a b -o c --align t3", r"--align: expected one of t1, t2, none, found 't3'; see"),
        ("predict a", r"required: T2, -o/--output; see rscd predict --help"),
    ],
)
def test_what_was_mistyped_is_said_with_what_is_close(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(line.split())
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(said, error), error


def test_commands_of_several_actions_show_examples_that_can_be_parsed() -> None:
    declared = [one for one in COMMANDS.values() if isinstance(one, Parser) and one.prog != "rscd"]
    several = [one for one in declared if one.actions()]
    assert len(several) == 4
    for parser in (one for command in several for one in (command, *command.actions())):
        assert parser.epilog is not None
        lines = [line.split() for line in parser.epilog.splitlines() if line.startswith("  rscd ")]
        assert lines, parser.prog
        for words in lines:
            build_parser().parse_args(words[1:])
            assert " ".join(words).startswith(parser.prog)


def test_named_scales_are_those_that_there_are() -> None:
    from rscd.methods.parts.multiscale import PRESETS

    named = {name: tuple(map(float, texts.split(","))) for name, texts in SCALES(NAMED_SCALES)}
    assert named == PRESETS


@pytest.mark.parametrize(
    ("value", "name", "words"),
    [
        (7_081_033_728, "memory_bytes", "7.1 GB"),
        ({"t1": 2_247_545, "t2": None}, "read_bytes", "t1 2.2 MB, t2 -"),
        ((1024, 512), "size", "1024 x 512"),
        ([True, 0.12345678], "", "yes, 0.123457"),
        ({}, "", "-"),
    ],
)
def test_results_in_words(value: object, name: str, words: str) -> None:
    assert in_words(value, name) == words
