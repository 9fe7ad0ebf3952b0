"""Many pairs, one by one or on a cluster: none is done twice, and one that fails stops none.

A folder holds one batch: a folder per pair with its files, the records of all runs in ``.runs``,
and what `rscd.pipeline.collected` makes of them. Runs of other settings are refused
(`rscd.base.claim`); several runs may work on different parts of a batch at the same time.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rscd.base.claim import Claim, alone
from rscd.base.errors import DataError, OutputError, RscdError
from rscd.base.files import digest_of, write_verified
from rscd.base.redact import redacted
from rscd.base.types import Progress, Provenance, silent
from rscd.export.targets import Targets
from rscd.geo.settings import is_item
from rscd.geo.source import stamp_of
from rscd.inference.models import load_model
from rscd.inference.tiled import JobLost, Mapper
from rscd.pipeline.collected import FILES, collect, item_path
from rscd.pipeline.maps import carry_out, open_pair
from rscd.pipeline.pairs import Pair
from rscd.pipeline.provenance import describe_file
from rscd.pipeline.record import Record
from rscd.pipeline.run import WITHOUT_EFFECT, Options, Run, resolve

NAMES: Mapping[str, str] = {
    "polygons": "change",
    "mask": "change.tif",
    "prob": "prob.tif",
    "preview": "preview.jpg",
}
"""What may be written of each pair, and its file's name; polygons have the batch's suffix."""

RUNS = ".runs"
RECORD = "runs.jsonl"
WAIT_S = 600
"""Time limit for another run that looks after the whole folder, which takes seconds."""

MOST_PIXELS = 1 << 26
"""Scenes of more pixels go to a cluster by blocks, so that a worker that dies costs little."""

Line = dict[str, Any]
"""What became of a pair, as `rscd.pipeline.record.Record` has it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """What is done with every pair; a value that workers get as well."""

    folder: Path
    """Of the batch."""
    options: Options
    writes: tuple[str, ...] = ("polygons",)
    """Of `NAMES`."""
    suffix: str = ".gpkg"
    gsd_m: float | None = None

    def files(self, pair: Pair) -> list[Path]:
        """Files of a pair."""
        return [
            self.folder / pair.id / (NAMES[what] + (self.suffix if what == "polygons" else ""))
            for what in self.writes
        ]

    def written(self, pair: Pair, *, item: bool) -> list[Path]:
        """Files of a pair and, if it has one, its STAC item."""
        return [*self.files(pair), *([item_path(self.folder, pair.id)] if item else [])]

    def recipe(self) -> Provenance:
        """The settings that decide results."""
        plain = {k: v for k, v in asdict(self.options).items() if k not in WITHOUT_EFFECT}
        weights = None if self.options.model is None else describe_file(self.options.model)
        own = {"writes": self.writes, "suffix": self.suffix, "gsd_m": self.gsd_m}
        return plain | own | {"weights": weights}

    def resolve(self, pair: Pair, *, overwrite: bool) -> Run:
        """Open a pair and decide all that its run does.

        Raises:
            RscdError: anything the user must fix.
        """
        for date, path in (("t1", pair.t1), ("t2", pair.t2)):
            if not path:
                raise DataError(f"expected {date} of pair {pair.id} in the list, found none")
        options = replace(
            self.options, t1_date=pair.t1_date, t2_date=pair.t2_date, overwrite=overwrite
        )
        by_name = dict(zip(self.writes, self.files(pair), strict=True))
        outputs = [by_name[what] for what in ("polygons", "mask") if what in by_name]
        opened = open_pair(pair.t1, pair.t2, options, pair.area, gsd_m=self.gsd_m)
        targets = Targets.of(outputs, by_name.get("prob"), by_name.get("preview"))
        run = resolve(opened, targets, options)
        if not any(run.days.values()):
            return run
        item = item_path(self.folder, pair.id)
        return replace(run, targets=replace(targets, item=item))


@dataclass(frozen=True)
class Summary:
    """What a run did; plain data, see ``--json``."""

    pairs: int
    """In the list."""
    done: int
    skipped: int
    """Finished by an earlier run."""
    failed: int
    missing: int
    """Of other shards, not yet done."""
    failures: dict[str, str]
    """Reasons by id."""
    outputs: list[str]
    """Files over all pairs; none while pairs are missing."""


def run_batch(
    pairs: Sequence[Pair],
    work: Work,
    *,
    cluster: Mapper | None = None,
    shard: tuple[int, int] = (1, 1),
    retries: int = 0,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Summary:
    """Compare all pairs of a list, or what of them is not done yet.

    Args:
        pairs: with ids that differ.
        work: what is done with each.
        cluster: carries pairs out, and scenes above `MOST_PIXELS` block by block; None: this
            process does, one pair after the other.
        shard: (K, N): only every N-th pair, beginning with the K-th.
        retries: how often pairs that failed are tried again, after all others.
        overwrite: do finished pairs again, and replace a batch of other settings.
        progress: told after each pair.

    Raises:
        OutputError: the folder holds a batch of other settings, another run does the same shard, or
            a file over all pairs cannot be written.
        ModelError: the model that was asked for cannot be used.
    """
    if work.options.model is not None:
        views = work.options.msi is not None or work.options.tta is not None
        # before the first of many failures
        load_model(work.options.model, work.options.device, torch=views)
    number, of = shard
    with alone(work.folder, wait_s=WAIT_S):
        _claim(work).take(overwrite=overwrite)
    runs = work.folder / RUNS
    own = runs / f"{number}-of-{of}"
    with alone(own):
        record = Record.open(own / RECORD, work.folder, runs.glob(f"*/{RECORD}"))
        mine = pairs[number - 1 :: of]
        todo = [pair for pair in mine if overwrite or not _is_done(work, pair, record)]
        log.info("%d pairs, %d to do", len(mine), len(todo))
        failed = todo
        for attempt in range(1 + retries):
            failed = _attempt(work, failed, record, cluster, attempt, overwrite, progress)
            if not failed:
                break
    with alone(work.folder, wait_s=WAIT_S):
        record = Record.open(own / RECORD, work.folder, runs.glob(f"*/{RECORD}"))
        lines = {pair.id: record.noted.get(pair.id) for pair in pairs}
        missing = sum(line is None for line in lines.values())
        outputs = []
        if not missing:
            suffix = work.suffix if "polygons" in work.writes else None
            outputs = collect(work.folder, pairs, lines, suffix)
    failures = {
        pair.id: str(line["reason"])
        for pair in mine
        if (line := lines[pair.id]) is not None and line["status"] == "failed"
    }
    return Summary(
        pairs=len(pairs),
        done=len(todo) - len(failures),
        skipped=len(mine) - len(todo),
        failed=len(failures),
        missing=missing,
        failures=failures,
        outputs=[str(path) for path in outputs],
    )


def _claim(work: Work) -> Claim:
    def made(folder: Path) -> list[Path]:
        record = Record.open(folder / RUNS / RECORD, folder, (folder / RUNS).glob(f"*/{RECORD}"))
        ours = [folder / name for name in (*record.noted, RUNS, *FILES)]
        return [path for path in ours if path.exists()]

    fix = "choose another folder, or add --overwrite to begin anew"
    return Claim(work.folder, "batch", work.recipe(), made, fix)


def _is_done(work: Work, pair: Pair, record: Record) -> bool:
    """Whether an earlier run finished a pair as it is now.

    Files that have the time and size they had are not opened; others are read.
    """
    line = record.noted.get(pair.id)
    if line is None or line["status"] != "done":
        return False
    files = work.written(pair, item=line["item"])
    try:
        if line["pair"] == pair.plain() and line["stamps"] == _stamps([*line["stamps"]]):
            return True
        run = work.resolve(pair, overwrite=True)
        same = record.state(pair.id, digest_of(run.provenance), files) == "whole"
    except (RscdError, OSError):
        return False  # said again when it is tried
    if same:
        more = {k: v for k, v in line.items() if k not in ("name", "recipe", "outputs")}
        more |= {"pair": pair.plain(), "stamps": _stamps([*_inputs(run, pair), *map(str, files)])}
        record.add(pair.id, line["recipe"], record.hashed(files), **more)
    return same


def _inputs(run: Run, pair: Pair) -> list[str]:
    """Every file that a pair is made from."""
    named = {name.partition("#")[0] if is_item(name) else name for name in run.pair.files}
    return [*sorted(named), *([pair.aoi] if isinstance(pair.aoi, str) else [])]


def _stamps(files: Iterable[str]) -> dict[str, list[int] | str | None]:
    """Time and size of files, or their version on a server, as JSON has them."""
    stamps = {file: stamp_of(file) for file in files}
    return {file: list(s) if isinstance(s, tuple) else s for file, s in stamps.items()}


def _attempt(
    work: Work,
    pairs: Sequence[Pair],
    record: Record,
    cluster: Mapper | None,
    attempt: int,
    overwrite: bool,
    progress: Progress,
) -> list[Pair]:
    """Carry pairs out and record them; returns those that failed."""
    failed = []

    def note(pair: Pair, line: Line) -> None:
        done = line["status"] == "done"
        if not done:
            log.error("pair %s failed: %s", pair.id, line["reason"])
            failed.append(pair)
        written = work.written(pair, item=line["item"]) if done else []
        stamps = _stamps([*line.pop("inputs"), *map(str, written)])
        # what earlier runs wrote stays known where this one wrote nothing
        outputs = record.hashed(written) if done else record.known(pair.id)
        more = {"pair": pair.plain(), "stamps": stamps, "attempts": attempt + 1, "at": time.time()}
        record.add(pair.id, line.pop("recipe"), outputs, **line, **more)

    free = []
    for pair in pairs:
        changed = [] if overwrite else record.changed(pair.id)
        if changed:
            message = f"expected {changed[0]} as it was written, found that it was changed since"
            note(pair, _failed(OutputError(f"{message}; move it away, or add --overwrite"), 0.0))
        else:
            free.append(pair)
    for number, (pair, line) in enumerate(_outcomes(work, free, cluster), 1):
        note(pair, line)
        progress("pairs", number, len(free))
    return failed


def _outcomes(
    work: Work, pairs: Sequence[Pair], cluster: Mapper | None
) -> Iterator[tuple[Pair, Line]]:
    """Carry pairs out, in their order; on a cluster the largest last."""
    left = deque(pairs)
    if cluster is None:
        yield from ((pair, compare(work, pair)) for pair in pairs)
        return
    large = []
    while left:
        try:
            for line, files in cluster(partial(compare_there, work), tuple(left)):
                pair = left.popleft()
                if line["status"] == "large":
                    large.append(pair)
                else:
                    yield pair, _received(work, pair, line, files)
        except JobLost as error:  # only the first that is left can have been
            yield left.popleft(), _failed(error, 0.0)
    yield from ((pair, compare(work, pair, cluster)) for pair in large)


def compare(work: Work, pair: Pair, mapper: Mapper | None = None, most: float = math.inf) -> Line:
    """Compare one pair and write its files.

    Args:
        work: what to do.
        pair: with what.
        mapper: carries its blocks out; None: threads of this process.
        most: most pixels; larger pairs are left, with the status ``large``.

    Returns:
        What became of it: nothing is raised, whatever is wrong with the pair.
    """
    started = time.monotonic()
    folder = work.folder / pair.id
    try:
        folder.mkdir(parents=True, exist_ok=True)
        run = work.resolve(pair, overwrite=True)
        if math.prod(run.pair.shape_hw) > most:
            return {"status": "large"}
        result = carry_out(run, mapper=mapper)
    except Exception as error:  # a broken pair never stops the rest, whatever broke it
        with suppress(OSError):
            folder.rmdir()  # if nothing is in it
        return _failed(error, time.monotonic() - started)
    provenance = run.provenance
    return {
        "status": "done",
        "reason": None,
        "recipe": digest_of(provenance),
        "seconds": round(time.monotonic() - started, 3),
        "result": asdict(result),
        "hashes": {name: provenance[name].get("sha256") for name in ("t1", "t2", "model")},
        "days": dict(run.days),
        "item": run.targets.item is not None,
        "inputs": _inputs(run, pair),
    }


def compare_there(work: Work, pair: Pair) -> tuple[Line, dict[str, bytes]]:
    """Compare one pair on a worker, which may have no folder in common with the caller.

    Returns:
        What became of it, and the files that were written by their names.
    """
    with TemporaryDirectory(prefix="rscd-") as scratch:
        here = replace(work, folder=Path(scratch), options=replace(work.options, workers=1))
        line = compare(here, pair, map, MOST_PIXELS)
        folder = Path(scratch) / pair.id
        made = list(folder.glob("[!.]*")) if line["status"] == "done" else []
        return line, {path.name: path.read_bytes() for path in made}


def _received(work: Work, pair: Pair, line: Line, files: Mapping[str, bytes]) -> Line:
    """Write the files of a pair that a worker compared."""
    if line["status"] != "done":
        return line
    folder, outputs = work.folder / pair.id, work.files(pair)
    last = [path.name for path in outputs]
    try:
        folder.mkdir(exist_ok=True)
        for name in sorted(files, key=lambda name: name in last):
            write_verified(folder / name, files[name])
    except OSError as error:
        return _failed(error, line["seconds"])
    line["result"]["outputs"] = [str(path) for path in outputs]
    return line


def _failed(error: Exception, seconds: float) -> Line:
    what = str(error) if isinstance(error, RscdError) else f"{type(error).__name__}: {error}"
    reason = " ".join(redacted(what).split())
    failed = {"status": "failed", "reason": reason, "seconds": round(seconds, 3)}
    return failed | {"recipe": "", "inputs": []}
