"""Two folders in place of two rasters: every picture with that of the same name."""

import argparse
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rscd.base.errors import RscdError, UsageError
from rscd.base.files import digest_of, writing
from rscd.cli.options import Shown, emit_json, plain_options, refuse_failed
from rscd.cli.scene import open_scene

if TYPE_CHECKING:
    from rscd.geo.scene import ScenePair
    from rscd.pipeline.record import Record
    from rscd.pipeline.run import Options

log = logging.getLogger(__name__)

NAME = "{name}"
STATES = ("done", "skipped", "failed")
RECORD = ".rscd-folders.jsonl"
EXTRA = (
    *("prob", "preview", "report", "flow", "dissimilarity", "objects_t1", "objects_t2"),
    "project",
)
"""Arguments that name one more output each, of commands that have them."""

WITHOUT_EFFECT = frozenset(
    {
        *("output", *EXTRA),
        *("t1", "t2", "overwrite", "dry_run", "json", "verbosity", "rest"),
        *("batch_size", "workers", "device", "max_memory", "allow_slow_cpu"),
        "dask",
    }
)
"""Arguments that do not affect the result; t1 and t2 are identified by their content."""

FILES = frozenset({"model", "aoi", "calibration", "segmenter_option"})
"""Arguments that may name files or folders, whose content decides too."""

MORE = """\
Folders of pictures, such as the frames of two drives, go pair by pair; {name} in what is written
becomes the name of the picture, and folders that are not there are made. A pair that fails does not
stop the others; the same command again does what is missing:"""


def run_all(
    args: argparse.Namespace,
    options: "Options",
    run_pair: "Callable[[argparse.Namespace, ScenePair, Options], Shown]",
) -> None:
    """Carry out a command for its two rasters, or for all of two folders.

    Args:
        args: of the command.
        options: what they come to, for every pair.
        run_pair: the command for one pair.

    Raises:
        UsageError: for one folder and one file.
        RscdError: see `_run_folders` and what is given.
    """
    folders = [Path(path).is_dir() for path in (args.t1, args.t2)]
    if all(folders):
        _run_folders(args, options, run_pair)
    elif any(folders):
        raise UsageError(
            f"expected two rasters or two folders, found one of each: {args.t1}, {args.t2}"
        )
    else:
        run_pair(args, open_scene(args, options), options).emit(as_json=args.json)


def _run_folders(
    args: argparse.Namespace,
    options: "Options",
    run_pair: "Callable[[argparse.Namespace, ScenePair, Options], Shown]",
) -> None:
    """Run the command for every pair; one that fails does not stop the others.

    Pairs that an earlier run finished with the same inputs and options are skipped, if its files
    are unchanged.

    Raises:
        UsageError: if an output would be written twice, images have no partner, or the options do
            not suit the first pair.
        DataError: at the end, if pairs failed; the message names them.
    """
    from rscd.export.upload import target_address
    from rscd.pipeline.pairs import of_folders
    from rscd.pipeline.record import Record

    named = outputs_of(args)
    fixed = [path for path in named if NAME not in path]
    if fixed:
        raise UsageError(
            f"expected {NAME} in output names for folders, found {fixed[0]}; give, for example, "
            f"'out/{NAME}{Path(fixed[0]).suffix}'"
        )
    elsewhere = [path for path in named if target_address(path) is not None]
    if elsewhere:
        raise UsageError(
            f"expected outputs on this machine for folders, found {elsewhere[0]}; write them here "
            "and copy them there"
        )
    pairs = of_folders(Path(args.t1), Path(args.t2))
    beside = Path(named[0].partition(NAME)[0] + NAME).parent
    finished = Record.open(beside / RECORD, beside)
    results: list[dict[str, Any]] = []
    for number, (t1, t2) in enumerate(pairs, 1):
        log.info("pair %d of %d: %s", number, len(pairs), t1.stem)
        one = _of_pair(args, t1, t2)
        try:
            state, shown = _run_or_skip(one, t1.stem, finished, options, run_pair)
        except (RscdError, OSError) as error:
            if number == 1 and isinstance(error, UsageError):
                raise  # the others would fail in the same way
            log.error("pair %s failed: %s", t1.stem, error)
            results.append({"name": t1.stem, "state": "failed", "error": str(error)})
            continue
        results.append({"name": t1.stem, "state": state, **shown.data})
        if not args.json:
            shown.emit(as_json=False)
    states = Counter(one["state"] for one in results)
    if args.json:
        emit_json({"pairs": results, **{state: states[state] for state in STATES}})
    elif states["skipped"]:
        log.info("%d of %d pairs were finished before", states["skipped"], len(pairs))
    refuse_failed([one["name"] for one in results if one["state"] == "failed"], len(pairs))


def outputs_of(args: argparse.Namespace) -> list[str]:
    """All files that a command names to be written."""
    return [*args.output, *filter(None, (getattr(args, name, None) for name in EXTRA))]


def _of_pair(args: argparse.Namespace, t1: Path, t2: Path) -> argparse.Namespace:
    """Arguments of the command for one pair."""
    one = {
        name: path.replace(NAME, t1.stem)
        for name in EXTRA
        if (path := getattr(args, name, None)) is not None
    }
    output = [path.replace(NAME, t1.stem) for path in args.output]
    return argparse.Namespace(**vars(args) | one | {"t1": str(t1), "t2": str(t2), "output": output})


def _run_or_skip(
    one: argparse.Namespace,
    name: str,
    finished: "Record",
    options: "Options",
    run_pair: "Callable[[argparse.Namespace, ScenePair, Options], Shown]",
) -> tuple[str, Shown]:
    pair = open_scene(one, options)
    outputs = outputs_of(one)
    files = list(map(Path, outputs))
    if one.dry_run:
        with _folders_for(files):
            return "planned", run_pair(one, pair, options)
    recipe = _recipe(one, pair)
    if not one.overwrite:
        ours = finished.state(name, recipe, files)
        if ours == "whole":
            return "skipped", Shown({"outputs": outputs}, outputs)
        # outputs of an interrupted run of the same recipe may be overwritten
        options = replace(options, overwrite=ours == "part")
    with _folders_for(files):
        shown = run_pair(one, pair, options)
    finished.add(name, recipe, finished.hashed(files))
    return "done", shown


@contextmanager
def _folders_for(files: Iterable[Path]) -> Iterator[None]:
    """Make the folders that files go to where there are none; those that stay empty go again.

    For one file, a folder that is not there is refused: a name may be mistyped. Where every pair
    has a file of its own, the folder is part of the result.

    Raises:
        OutputError: one cannot be made.
    """
    made: list[Path] = []
    try:
        for file in files:
            with writing(file):
                lacking = [one for one in file.absolute().parents if not one.exists()]
                for folder in reversed(lacking):
                    folder.mkdir()
                    made.append(folder)
        yield
    finally:
        for folder in reversed(made):
            with suppress(OSError):  # something is in it
                folder.rmdir()


def _recipe(one: argparse.Namespace, pair: "ScenePair") -> str:
    """Hash of everything that determines the results of a pair: inputs, options, files, version."""
    from rscd.pipeline.provenance import describe_pair

    options = {
        name: _with_content(value) if name in FILES else value
        for name, value in sorted(plain_options(one).items())
        if name not in WITHOUT_EFFECT
    }
    return digest_of([describe_pair(pair), options])


def _with_content(value: Any) -> Any:
    """An option with a hash of the file or folder it names, possibly after ``=``."""
    from rscd.pipeline.provenance import describe_file

    if isinstance(value, list | tuple):
        return [_with_content(one) for one in value]
    if not isinstance(value, str):
        return value
    path = Path(value.rpartition("=")[2])
    if not path.name or not path.exists():
        return value
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return [value, [describe_file(file) for file in files]]
