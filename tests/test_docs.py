"""What the pages say exists: commands parse, options are known, named files and links are there."""

import argparse
import json
import re
import shlex
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from rscd.cli import build_parser
from rscd.models.networks import NETWORKS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BENCHMARKS = ROOT / "benchmarks"


def _text(page: Path) -> str:
    if page.suffix != ".ipynb":
        return page.read_text(encoding="utf-8")
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


PAGES = {
    page.relative_to(ROOT).as_posix(): _text(page)
    for page in [
        README,
        BENCHMARKS / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "notebooks").glob("*.ipynb")),
    ]
}


def _lines_of_code(text: str) -> list[str]:
    """Lines of fenced and indented blocks, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", text)
    fenced = re.findall(r"```\n(.*?)```", joined, re.DOTALL)
    indented = re.findall(r"^    (?! )(.*)$", joined, re.MULTILINE)
    return "\n".join([*fenced, *indented]).splitlines()


def _commands(program: str) -> list[tuple[str, str]]:
    return [
        (page, part.strip())
        for page, text in PAGES.items()
        for line in _lines_of_code(text)
        for part in line.split("&&")
        if part.strip().removeprefix("OMP_NUM_THREADS=1 ").startswith(program)
    ]


@pytest.mark.parametrize(("page", "line"), _commands("rscd "))
def test_commands_parse(page: str, line: str) -> None:
    command = shlex.split(line, comments=True)[1:]
    args, rest = build_parser().parse_known_args(command)
    assert not rest or args.takes_rest
    for name in command:
        if name.startswith("configs/"):
            assert (ROOT / name).is_file()


def _parsers(parser: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, one in action.choices.items():
                yield from list(_parsers(one, f"{before}{name} ")) or [(f"{before}{name}", one)]


@pytest.mark.parametrize("page", PAGES)
def test_options_in_running_text_are_known(page: str) -> None:
    parsers = dict(_parsers(build_parser()))
    text = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    for span in re.findall(r"`(rscd [a-z][^`]*)`", text):
        words = span.split()
        name = next((n for n in (" ".join(words[1:3]), words[1]) if n in parsers), None)
        assert name or any(known.startswith(f"{words[1]} ") for known in parsers), span
        if name not in (None, "train"):
            options = re.findall(r"(?<![\w-])--[a-z][\w-]*", span)
            assert set(options) <= parsers[name]._option_string_actions.keys(), span


@pytest.mark.parametrize(
    ("page", "line"),
    [
        *_commands("python benchmarks/"),
        # in tables and in running text
        *(
            (page, " ".join(found.split()))
            for page, text in PAGES.items()
            for found in re.findall(r"`((?:OMP_NUM_THREADS=1 )?python benchmarks/[^`]*)`", text)
        ),
    ],
)
def test_benchmarks_know_their_options(page: str, line: str) -> None:
    script, *given = shlex.split(line[line.index("benchmarks/") :], comments=True)
    source = (ROOT / script).read_text(encoding="utf-8")
    assert all(f'"{word}"' in source for word in given if word.startswith("--"))


@pytest.mark.parametrize("page", PAGES)
def test_linked_files_are_there(page: str) -> None:
    here = (ROOT / page).parent
    links = re.findall(r"\]\(([^)]+)\)", PAGES[page])
    for link in [link for link in links if "://" not in link]:
        path, _, anchor = link.partition("#")
        target = here / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            plain = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in plain, link


@pytest.mark.parametrize("page", PAGES)
def test_files_named_are_there(page: str) -> None:
    named = re.findall(r"`((?:rscd|configs|benchmarks|tests)/[\w/]+\.(?:py|yaml))", PAGES[page])
    assert not [name for name in named if not (ROOT / name).is_file()]


@pytest.mark.parametrize("page", PAGES)
def test_python_names_are_there(page: str) -> None:
    for dotted in re.findall(r"`rscd\.([A-Za-z_.]+)", PAGES[page]):
        found: Any = import_module("rscd")
        for name in dotted.rstrip(".").split("."):
            if not hasattr(found, name):
                import_module(f"{found.__name__}.{name}")
            found = getattr(found, name)


def test_make_targets_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", PAGES["README.md"], re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_every_benchmark_is_listed() -> None:
    text = PAGES["benchmarks/README.md"]
    assert not [path.name for path in BENCHMARKS.glob("*.py") if f"`{path.name}`" not in text]


def test_networks_measured_are_there() -> None:
    rows = PAGES["docs/results.md"].partition("## Networks")[2].partition("\n## ")[0]
    names = re.findall(r"^\| ([\w-]+)(?: \([\w-]+\))?(?: / ([\w-]+))? \| [\d.]", rows, re.MULTILINE)
    found = {name for pair in names for name in pair if name}
    assert found
    assert found <= NETWORKS.keys()


MASKS = {
    "KD-MSI": "masks of KD-MSI",
    "CAM": "masks of the CAM baseline",
    "supervised": "true masks",
}
STAGES = {
    "synthetic alone": "synthetic pairs only",
    "and more of these": "60 steps more of these (`L_sup`)",
    "and other pairs, teacher of L_unsup": (
        "60 steps with six other unlabelled pairs, teacher of `L_unsup`"
    ),
    "and other pairs": "60 steps more with six other unlabelled pairs",
    "and these pairs, unseen masks": "60 steps more with these very pairs, masks unseen",
}
LADDERS: dict[str, Callable[[dict[str, Any]], tuple[str, str]]] = {
    "kdmsi": lambda line: (
        line.get("maps") or MASKS[line["detector"]],
        f"{line['iou']:.3f}",
    ),
    "diffmatch": lambda line: (
        f"{line['run']['percent']} %, {line['run']['row']}"
        + ", from abroad" * line["run"]["abroad"],
        f"{100 * line['test']['f1_change']:.1f}",
    ),
    "diffmatch_longer": lambda line: (
        f"{line['run']['percent']} %, {line['run']['row']}"
        + f", nuisance {line['settings']['nuisance']}" * (line["settings"]["nuisance"] != 0.6),
        f"{100 * line['test']['f1_change']:.1f}",
    ),
    "real_pairs": lambda line: (
        f"{line['row']['start_steps']} steps, {line['row']['variant']}"
        + ", changed windows" * bool(line["row"]["changed"])
        + ", 17 labelled pairs" * (line["pairs"][0] == 17)
        + ", encoder of buildings" * line["row"]["weights"].endswith("buildings.safetensors")
        + "".join(f", {key} {value}" for key, value in line["row"]["recipe"].items()),
        f"{100 * line['test']['f1_change']:.1f}",
    ),
    "scene": lambda line: (line["row"], f"{line['student_normal']:.1f}"),
    "street": lambda line: (STAGES[line["stage"]], f"{line['close']:.1f}"),
}
"""What a line of a file in ``docs/ladders`` says: row of the table, and its value."""


@pytest.mark.parametrize("name", LADDERS)
def test_tables_say_what_the_ladders_measured(name: str) -> None:
    measured: dict[str, list[str]] = {}
    for text in (ROOT / "docs/ladders" / f"{name}.jsonl").read_text("utf-8").splitlines():
        row, value = LADDERS[name](json.loads(text))
        measured.setdefault(row, []).append(value)
    lines = PAGES["docs/results.md"].splitlines()
    for row, values in measured.items():
        told = [line for line in lines if line.startswith(f"| {row} |")]
        assert [line for line in told if f"| {', '.join(values)} |" in line], (row, values)
