"""From values of parameters to the words of a command line. Nothing of QGIS is needed here."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Union

Value = Union[None, bool, str, float, int, Iterable[str]]

FOREIGN = (
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PYTHONEXECUTABLE",
    "GDAL_DATA",
    "GDAL_DRIVER_PATH",
    "PROJ_DATA",
    "PROJ_LIB",
)
"""Variables that QGIS sets for its own Python and GDAL; those of rscd have others."""


PRINTING = ("--dry-run", "-h", "--help", "--help-all", "--version")
"""Options of ``rscd predict`` with which it only prints."""


def program(python: str) -> list[str]:
    """The words that start rscd.

    Args:
        python: path of a Python interpreter, or of the command rscd itself; empty: rscd on PATH.

    Raises:
        FileNotFoundError: there is no such file, in one line.
    """
    advice = "set Settings > Options > Processing > Providers > rscd"
    if not python:
        found = shutil.which("rscd")
        if found is None:
            raise FileNotFoundError(f"expected the command rscd on PATH, found none; {advice}")
        return [found]
    # a link is not followed: the python of a virtual environment is one
    path = Path(python).expanduser().absolute()
    if not path.is_file():
        raise FileNotFoundError(f"expected a Python with rscd, found no file at {path}; {advice}")
    return [str(path)] if path.stem.lower() == "rscd" else [str(path), "-m", "rscd"]


def shown(words: list[str]) -> str:
    """A command line as text that a terminal of this system reads as these words."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def environment(inherited: Mapping[str, str], *, bars: bool) -> dict[str, str]:
    """Variables of the process: those of QGIS without what leads to QGIS's own Python.

    Args:
        inherited: variables of QGIS.
        bars: whether progress is drawn although stderr is no terminal; not for Windows, where that
            takes a console.
    """
    kept = {name: value for name, value in inherited.items() if name not in FOREIGN}
    kept.update(PYTHONSAFEPATH="1", PYTHONUNBUFFERED="1", PYTHONIOENCODING="utf-8")
    if bars:
        kept.update(FORCE_COLOR="1", TTY_COMPATIBLE="1", NO_COLOR="1", TERM="xterm", COLUMNS="100")
    return kept


def words(command: str, inputs: Iterable[str], options: Mapping[str, Value]) -> list[str]:
    """A command line without the program.

    Args:
        command: such as ``predict``.
        inputs: files; those that exist become absolute, for they may begin with a hyphen.
        options: value by option; None, False and an empty list leave it out, True is the option
            alone, a list is joined by commas.
    """
    line = [command, *map(_absolute, inputs)]
    for option, value in options.items():
        if value is None or value is False:
            continue
        if value is True:
            line.append(option)
        elif isinstance(value, (str, int, float)):
            line += [f"{option}={_text(value)}"]
        else:
            joined = ",".join(value)
            line += [f"{option}={joined}"] * bool(joined)
    return line


def predict(
    t1: str, t2: str, outputs: Iterable[str], *, extra: str = "", **options: Value
) -> list[str]:
    """``rscd predict``.

    Args:
        t1: file of the earlier date.
        t2: of the later date.
        outputs: files to write.
        extra: more words, as they would be typed; the last to be read.
        options: by name in Python, ``min_area`` for ``--min-area``; None leaves a choice to rscd.

    Raises:
        ValueError: see `typed`.
    """
    line = words("predict", (t1, t2), _named(options))
    return [*line, *(f"--output={one}" for one in outputs), "--overwrite", *typed(extra)]


def events(
    t1: str,
    t2: str,
    output: str,
    *,
    layer_t1: str | None = None,
    layer_t2: str | None = None,
    kinds: Iterable[str] = (),
    class_field: str | None = None,
    delta: float | None = None,
    min_area: float | None = None,
) -> list[str]:
    """``rscd events`` on two layers of footprints."""
    options = {
        "--output": output,
        "--layer-t1": layer_t1,
        "--layer-t2": layer_t2,
        "--kinds": list(kinds),
        "--class": class_field,
        "--delta": delta,
        "--min-area": min_area,
    }
    return [*words("events", (t1, t2), options), "--overwrite"]


def doctor(t1: str, t2: str, **options: Value) -> list[str]:
    """``rscd doctor``; see `predict`."""
    return words("doctor", (t1, t2), _named(options))


def typed(text: str) -> list[str]:
    """The words of a text as of a command line; a backslash is one, as in paths of Windows.

    Raises:
        ValueError: quotation marks that do not close, or options that write no file, in one line.
    """
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.escape, lexer.commenters = True, "", ""
    try:
        words = list(lexer)
    except ValueError:
        raise ValueError(
            f"expected options as on a command line, found a quotation mark that does not close: "
            f"{text}"
        ) from None
    printing = [word for word in words if word in PRINTING]
    if printing:
        raise ValueError(
            f"expected options with which rscd writes a file, found {printing[0]}; type it in a "
            "terminal"
        )
    return words


def _named(options: Mapping[str, Value]) -> dict[str, Value]:
    return {f"--{name.replace('_', '-')}": value for name, value in options.items()}


def _absolute(path: str) -> str:
    return str(Path(path).absolute()) if Path(path).exists() else path


def _text(value: str | float | int) -> str:
    return value if isinstance(value, str) else f"{value:.15g}"
