"""What the README says exists: commands parse, options are known, linked files are there."""

import re
import shlex
from pathlib import Path

import pytest

from rscd.cli import build_parser

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [
    shlex.split(part, comments=True)[1:]
    for block in BLOCKS
    for line in block.splitlines()
    for part in line.split("&&")
    if part.strip().startswith("rscd ")
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_parse(command):
    args, rest = build_parser().parse_known_args(command)
    assert not rest or args.takes_rest
    for name in command:
        if name.startswith("configs/"):
            assert (ROOT / name).is_file()


def test_linked_files_are_there():
    links = re.findall(r"\]\(([^)#][^)]*)\)", TEXT)
    assert links
    inside = [link for link in links if "://" not in link]
    assert not [link for link in inside if not (ROOT / link.partition("#")[0]).exists()]
    for link in inside:
        path, _, anchor = link.partition("#")
        if anchor:
            titles = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(), re.MULTILINE)
            assert anchor in {title.lower().replace(" ", "-") for title in titles}, link


def test_make_targets_are_there():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", TEXT, re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_modules_named_are_there():
    for dotted in re.findall(r"`rscd\.([a-z_.]+)", TEXT):
        parts = dotted.rstrip(".").split(".")
        found = [ROOT.joinpath("rscd", *parts[:n]) for n in range(1, len(parts) + 1)]
        assert any(p.with_suffix(".py").is_file() or p.is_dir() for p in found), dotted
