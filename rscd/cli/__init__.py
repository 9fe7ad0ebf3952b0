"""The command line: from argv to a function call to an exit code.

One module per command: ``add(commands)`` declares its arguments, ``run(args)`` imports what it
needs, so that ``rscd --help`` starts fast.
"""

import argparse
import errno
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

from rscd.base.border import system_trouble
from rscd.base.errors import RscdError, UsageError
from rscd.base.extras import missing_extra
from rscd.base.heap import keep_freed_memory
from rscd.base.redact import redacted
from rscd.base.version import version
from rscd.cli import (
    batch,
    config,
    data,
    doctor,
    estimate,
    evaluate,
    events,
    model,
    predict,
    pseudolabel,
    report,
    review,
    sample,
    sample_points,
    stack,
    train,
)
from rscd.cli.parser import Parser, say
from rscd.cli.proj import own_proj_database
from rscd.cli.renamed import in_new_words

COMMANDS = (
    predict,
    doctor,
    batch,
    report,
    review,
    train,
    pseudolabel,
    evaluate,
    sample_points,
    estimate,
    events,
    sample,
    stack,
    data,
    config,
    model,
)

log = logging.getLogger("rscd")

READER_GONE = (errno.EPIPE, errno.EINVAL) if os.name == "nt" else (errno.EPIPE,)
"""What writing to a pipe without a reader fails with; Windows says that the argument is wrong."""


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = Parser(
        prog="rscd",
        description="Find what changed between two images of one place.",
        epilog="rscd COMMAND --help tells more. Exit codes: 0 done, 1 something to fix in data or\n"
        "environment, 2 wrong usage.",
    )
    parser.add_argument("--version", action="version", version=f"rscd {version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    for one in commands.choices.values():
        for also in (one, *one.actions()):
            also.set_defaults(parser=also)
    parser.set_defaults(run_command=run_command)
    return parser


def run_command(line: list[str]) -> None:
    """Carry out a command line in this process; what fails is raised."""
    words, notes = in_new_words(line)
    args, rest = build_parser().parse_known_args(words)
    args.rest = rest
    for note in notes:
        log.warning("%s", note)
    args.run(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; default those of the process.

    Returns:
        The exit code.
    """
    parser = build_parser()
    words = with_negative_numbers(sys.argv[1:] if argv is None else argv)
    if not words:
        parser.print_help(sys.stderr)
        return UsageError.exit_code
    if any("\0" in word for word in words):
        parser.error("expected arguments without NUL, found one with it")
    words, notes = in_new_words(words)
    args, rest = parser.parse_known_args(words)
    args.rest = rest
    if rest and not getattr(args, "takes_rest", False):
        args.parser.error_unknown(rest)
    _log_to_stderr(getattr(args, "verbosity", 0))
    for note in notes:
        log.warning("%s", note)
    own_proj_database()
    if getattr(args, "max_memory", None) is None:
        keep_freed_memory()  # a process with a limit gives back what it can
    try:
        with quiet_callbacks():
            args.run(args)
    except KeyboardInterrupt:
        say("interrupted; the same command resumes")
        return 130
    except Exception as error:  # last resort: no command ends in a traceback
        return _failed(error, verbose=getattr(args, "verbosity", 0) > 0)
    return 0


@contextmanager
def quiet_callbacks() -> Iterator[None]:
    """Show errors in library callbacks only with ``-v``: Python prints them as tracebacks.

    GDAL messages that are not UTF-8 fail inside rasterio's logging; the call itself fails as well.
    """
    usual, usual_too = sys.unraisablehook, sys.excepthook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        log.debug("ignored an error in %r: %r", unraisable.object, unraisable.exc_value)

    def printed(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
        log.debug("ignored an error: %s %r", kind.__name__, error)

    # compiled modules call both hooks; errors raised by a command reach neither
    sys.unraisablehook, sys.excepthook = hook, printed
    try:
        yield
    finally:
        sys.unraisablehook, sys.excepthook = usual, usual_too


def _failed(error: Exception, *, verbose: bool) -> int:
    """Print in one line what stopped a command; with ``-v`` also the traceback.

    Returns:
        The exit code.
    """
    if verbose:
        traceback.print_exception(error)
    if isinstance(error, RscdError):
        say(error)
        return error.exit_code
    if (missing := missing_extra(error)) is not None:
        say(missing)
        return missing.exit_code
    trouble = system_trouble(error)
    if isinstance(error, MemoryError):
        say(
            f"expected enough memory, found it used up ({error}); set --max-memory or a smaller "
            "--tile-size"
        )
    elif trouble is not None:
        say(f"expected to read and write files, found {trouble[0]}: {error}; {trouble[1]}")
    elif isinstance(error, OSError):
        if error.errno not in READER_GONE or error.filename is not None:
            where = "" if error.filename is None else f": {error.filename}"
            say(
                f"expected to read and write files, found: {error.strerror or error}{where}; check "
                "path, permissions and free space"
            )
        try:  # discard buffered stdout that cannot be written: Python would try again at exit
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    else:
        say(
            f"expected no such error, found {type(error).__name__}: {error}; this is a bug in "
            "rscd: please report it with what -v adds"
        )
    return 1


def with_negative_numbers(argv: Sequence[str]) -> list[str]:
    """Rewrite ``--bbox -97.5,...`` as ``--bbox=-97.5,...``, which argparse takes for an option."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] == "--bbox":
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _log_to_stderr(verbosity: int) -> None:
    level = {-1: logging.ERROR, 0: logging.INFO}.get(verbosity, logging.DEBUG)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Discreet("%(message)s"))
    log.handlers = [handler]
    log.setLevel(level)
    if verbosity <= 0:
        import warnings

        warnings.simplefilter("ignore")  # deprecation warnings of libraries


class _Discreet(logging.Formatter):
    """Log formatter that removes secrets from URLs."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))
