"""How many small faults, put into the code one by one, the tests notice.

    python benchmarks/mutants.py [--count 40] [--seed 0] [--only rscd/geo]

Places are drawn at random over all of the package but ``rscd/synthetic``, whose numbers are colours
and sizes of painted towns, a module by the number of its places: a comparison, an arithmetic or
boolean operator, a number or ``not`` becomes another one. A mutant is killed if a test fails: first
those of the module's own file of tests, then all that import it, at last those of its folder and of
``rscd predict``, but not those marked ``slow``. Works on a copy of the checkout. Prints one JSON
line per mutant (module, line, change, ``killed`` by which test, or null) and how many were killed.
"""

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = ("rscd", "tests", "pyproject.toml", "configs", "docs", "notebooks", "README.md", "qgis",
          "CHANGELOG.md", "benchmarks", "LICENSE", "mkdocs.yml")  # fmt: skip
COMPARED: dict[type, str] = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip
COUNTED: dict[type, str] = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "*",
    ast.Pow: "*", ast.BitAnd: "|", ast.BitOr: "&",
}  # fmt: skip
TIME_LIMIT_S = 900
LEFT_OUT = "rscd/synthetic/"


@dataclass(frozen=True)
class Mutant:
    """One change of the code."""

    module: str
    line: int
    before: str
    after: str
    span: tuple[int, int]
    """Of the text it replaces, in bytes of the file."""


def mutants_of(path: Path, name: str) -> Iterator[Mutant]:
    """All changes of a module, in the order of its text."""
    data = path.read_bytes()
    starts = [0]
    for row in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(row))

    def mutant(node: ast.expr, after: str) -> Mutant:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        span = (
            starts[node.lineno - 1] + node.col_offset,
            starts[node.end_lineno - 1] + node.end_col_offset,
        )
        return Mutant(name, node.lineno, data[slice(*span)].decode(), after, span)

    for node in _expressions(ast.parse(data)):
        match node:
            case ast.Compare(left, [operator], [right]):
                text = f"{ast.unparse(left)} {COMPARED[type(operator)]} {ast.unparse(right)}"
                yield mutant(node, f"({text})")
            case ast.BinOp(left, operator, right) if type(operator) in COUNTED:
                if not any(isinstance(x, ast.JoinedStr) or _is_text(x) for x in (left, right)):
                    changed = f"({ast.unparse(left)}) {COUNTED[type(operator)]} "
                    yield mutant(node, f"({changed}({ast.unparse(right)}))")
            case ast.BoolOp(operator, values):
                word = " or " if isinstance(operator, ast.And) else " and "
                yield mutant(node, "(" + word.join(f"({ast.unparse(v)})" for v in values) + ")")
            case ast.UnaryOp(ast.Not(), operand):
                yield mutant(node, f"bool({ast.unparse(operand)})")
            case ast.Constant(value) if type(value) in (int, float):
                yield mutant(node, f"({value!r} + 1)")


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _expressions(tree: ast.AST) -> Iterator[ast.expr]:
    """Expressions that are carried out: no annotations, and no text of messages."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "format_spec", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                if isinstance(child, ast.expr):
                    yield child
                yield from _expressions(child)


def drawn(count: int, seed: int, only: str) -> list[Mutant]:
    """Mutants at random, each place as likely as any other."""
    found = [
        mutant
        for path in sorted(ROOT.glob("rscd/**/*.py"))
        if (name := path.relative_to(ROOT).as_posix()).startswith(only)
        and not name.startswith(LEFT_OUT)
        for mutant in mutants_of(path, name)
    ]
    return random.Random(seed).sample(found, min(count, len(found)))


def tests_of(module: str) -> list[list[str]]:
    """Files of tests to try, one list after the other."""
    path = Path(module)
    own = ROOT / "tests" / path.relative_to("rscd").with_name(f"test_{path.stem}.py")
    dotted = module.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    package, _, last = dotted.rpartition(".")
    names = (dotted, f"from {package} import {last}")
    near = [
        file
        for file in sorted((ROOT / "tests").rglob("test_*.py"))
        if file != own and any(name in file.read_text() for name in names)
    ]
    wide = [ROOT / "tests/cli/test_predict.py", ROOT / "tests" / path.parts[1]]
    groups = [[own] if own.exists() else [], near, [p for p in wide if p.exists()]]
    return [[str(p.relative_to(ROOT)) for p in group] for group in groups if group]


def killed_by(folder: Path, mutant: Mutant) -> str | None:
    """Which tests fail with this change; None: none does."""
    path = folder / mutant.module
    whole = path.read_bytes()
    first, last = mutant.span
    path.write_bytes(whole[:first] + mutant.after.encode() + whole[last:])
    pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    try:
        for files in tests_of(mutant.module):
            command = [*pytest, "-m", "not slow", *files]
            try:
                done = subprocess.run(
                    command, check=False, cwd=folder, env=environment, timeout=TIME_LIMIT_S,
                    text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                return "time limit"
            if done.returncode not in (0, 5):  # 5: no test of these is not slow
                failed = [row for row in done.stdout.splitlines() if row.startswith("FAILED")]
                return failed[0].split()[1] if failed else "error before the first test"
        return None
    finally:
        path.write_bytes(whole)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="rscd/", metavar="PATH", help="modules that begin so")
    args = parser.parse_args()
    killed = 0
    mutants = drawn(args.count, args.seed, args.only)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "rscd"
        folder.mkdir()
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name)
            elif source.exists():
                shutil.copy(source, folder / name)
        for mutant in mutants:
            by = killed_by(folder, mutant)
            killed += by is not None
            told = {k: v for k, v in asdict(mutant).items() if k != "span"}
            print(json.dumps(told | {"killed": by}), flush=True)
    print(json.dumps({"mutants": len(mutants), "killed": killed}))


if __name__ == "__main__":
    main()
