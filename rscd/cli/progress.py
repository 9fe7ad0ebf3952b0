"""Progress on stderr."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

import rscd.base.types as words


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[words.Progress]:
    """A progress bar per stage: parts done, elapsed and remaining time; shown once started."""
    if quiet:
        yield words.silent
        return
    bars: dict[str, TaskID] = {}
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=Console(stderr=True))
    with ExitStack() as stack:

        def report(stage: str, done: int, total: int) -> None:
            if not bars:
                stack.enter_context(progress)
            if stage not in bars:
                bars[stage] = progress.add_task(stage)
            progress.update(bars[stage], completed=done, total=total)

        yield report
