"""rscd as a process: its progress, its lines, its end. Nothing of QGIS is needed here."""

from __future__ import annotations

import codecs
import os
import queue
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
BAR = re.compile(r"^(\S.*?)\s+[━╸╺╶╴\-\s]*\s(\d+)/(\d+)\s+(?:\S+\s+)?\d+:\d\d:\d\d ETA")
WINDOWS = os.name == "nt"
GRACE_S = 5
"""Seconds between asking a cancelled process to end and ending it."""


@dataclass(frozen=True)
class Bar:
    """Progress of one stage."""

    stage: str
    done: int
    total: int

    @property
    def percent(self) -> float:
        """0 to 100."""
        return 100 * self.done / self.total if self.total else 0.0


@dataclass(frozen=True)
class Ended:
    """A process that came to its end by itself."""

    code: int
    lines: tuple[str, ...]
    """What it said on stderr, without bars."""
    out: str
    """stdout."""

    @property
    def fault(self) -> str:
        """The one line that says what is wrong; else the last lines there are."""
        ours = [line for line in self.lines if line.startswith("rscd: ")]
        if ours:
            return ours[-1]
        rest = [line for line in (*self.lines, *self.out.splitlines()) if line.strip()]
        said = rest[-1] if rest else "nothing was said"
        if "No module named rscd" in said:
            return f"{said}; install rscd in that Python, or choose another"
        return f"rscd ended with exit code {self.code}: {said}"


class Cancelled(Exception):
    """The user asked to stop; the process has ended."""


def read_line(text: str) -> Bar | str | None:
    """A bar, a line to show, or None for what only moves the cursor."""
    plain = CONTROL.sub("", text).rstrip()
    found = BAR.match(plain)
    if found:
        return Bar(found[1], int(found[2]), int(found[3]))
    return plain if plain.strip() else None


def pieces(stream: Any) -> Iterator[str]:
    """What stands between line feeds and carriage returns, as soon as it is there."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    rest = ""
    while chunk := stream.read1(65536):
        *whole, rest = re.split(r"[\r\n]", rest + decoder.decode(chunk))
        yield from whole
    yield rest + decoder.decode(b"", final=True)


def run(
    line: Sequence[str],
    env: Mapping[str, str],
    *,
    on_bar: Callable[[Bar], None],
    on_line: Callable[[str], None],
    cancelled: Callable[[], bool],
) -> Ended:
    """Run a command line to its end; the three functions are called in this thread.

    Raises:
        Cancelled: ``cancelled`` said so; the process and its children have ended.
        OSError: the program cannot be started.
    """
    process = _started(line, env, cancelled)
    said: queue.SimpleQueue[str] = queue.SimpleQueue()
    out: list[bytes] = []

    def listen() -> None:
        assert process.stderr is not None
        with process.stderr as stream:
            for piece in pieces(stream):
                said.put(piece)

    def keep() -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            out.append(stream.read())

    threads = [threading.Thread(target=one, daemon=True) for one in (listen, keep)]
    for thread in threads:
        thread.start()
    lines: list[str] = []
    try:
        while any(thread.is_alive() for thread in threads) or not said.empty():
            if cancelled():
                raise Cancelled
            found = _next(said)
            if isinstance(found, Bar):
                on_bar(found)
            elif found is not None:
                lines.append(found)
                on_line(found)
    except BaseException:
        _end(process)
        raise
    return Ended(process.wait(), tuple(lines), b"".join(out).decode("utf-8", "replace"))


def _started(
    line: Sequence[str], env: Mapping[str, str], cancelled: Callable[[], bool]
) -> subprocess.Popen[bytes]:
    if cancelled():
        raise Cancelled
    return subprocess.Popen(
        list(line),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(env),
        start_new_session=not WINDOWS,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # Windows alone knows it
    )


def _next(said: queue.SimpleQueue[str]) -> Bar | str | None:
    try:
        return read_line(said.get(timeout=0.1))
    except queue.Empty:
        return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt, so that files begun are put away; then kill."""
    if WINDOWS:
        process.kill()
        process.wait()
        return
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
