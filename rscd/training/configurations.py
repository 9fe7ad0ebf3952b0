"""Configurations that come with the package, by name: ``supervised_town``, ``kdmsi``, ...

They lie in ``configs/`` of a checkout, and in ``rscd/configs/`` of an installed package, where
``setup.py`` puts them.
"""

from collections.abc import Iterator
from pathlib import Path

from rscd.base.arguments import close_to
from rscd.base.errors import UsageError

SUFFIX = ".yaml"
_PACKAGE = Path(__file__).parents[1]


def folder() -> Path:
    """Where the files are."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.with_name("configs")


def configurations() -> dict[str, Path]:
    """Files by name, in order of names."""
    return {path.stem: path for path in sorted(folder().glob(f"*{SUFFIX}"))}


def find(given: str) -> Path:
    """The file that a path or the name of a configuration means.

    Args:
        given: a file; or a name, which means the configuration that comes with the package if there
            is no file of this name.

    Raises:
        UsageError: if neither is there.
    """
    path = Path(given)
    known = configurations()
    if path.is_file() or (given not in known and _says_a_path(given)):
        return path  # the reader of the file reports what is wrong
    if given in known:
        return known[given]
    raise UsageError(
        f"expected a YAML file or the name of a configuration, found {given!r}"
        + (close_to(given, known) or "; rscd config list names all")
    )


def _says_a_path(given: str) -> bool:
    return Path(given).suffix != "" or Path(given).name != given or Path(given).exists()


def about(path: Path) -> str:
    """First sentence of the comment that a configuration begins with."""
    text = " ".join(_comment(path))
    ends = [at for mark in (". ", "; ", ": ") if (at := text.find(mark)) > 0]
    return text[: min(ends, default=len(text))].rstrip(".:;")


def _comment(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# ") or line.removeprefix("# ").lstrip().startswith("rscd "):
            return
        yield line.removeprefix("# ")
