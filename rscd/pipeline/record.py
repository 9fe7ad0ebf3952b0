"""What runs did with each pair of many: one JSON line per pair, appended when it is finished."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rscd.base.files import sha256_of


@dataclass(frozen=True)
class Record:
    """Lines of earlier runs, and the file to which this run adds its own."""

    path: Path
    folder: Path
    """Names of outputs are relative to it."""
    noted: Mapping[str, Mapping[str, Any]]
    """The latest line for each pair."""

    @classmethod
    def open(cls, path: Path, folder: Path, others: Iterable[Path] = ()) -> "Record":
        """Read a record that may not exist yet.

        Args:
            path: of the record.
            folder: names of outputs are relative to it.
            others: records of other runs that write there.
        """
        files = [file for file in {*others, path} if file.is_file()]
        texts = [file.read_text(encoding="utf-8") for file in sorted(files)]
        lines = [line for text in texts for line in map(_line, text.splitlines()) if line]
        lines.sort(key=lambda line: float(line.get("at", 0)))  # stable within a file
        return cls(path, folder, {line["name"]: line for line in lines})

    def state(self, name: str, recipe: str, outputs: Sequence[Path]) -> str:
        """``whole`` or ``part`` of these outputs were made by the recipe; else ``foreign``."""
        noted = self.noted.get(name)
        if noted is None or noted["recipe"] != recipe:
            return "foreign"
        known = self.known(name)
        there = [path for path in _with_provenance(outputs) if path.exists()]
        if any(known.get(self._key(path)) != sha256_of(path) for path in there):
            return "foreign"
        wanted = set(map(self._key, outputs)) | known.keys()
        return "whole" if wanted == set(map(self._key, there)) else "part"

    def changed(self, name: str) -> list[Path]:
        """Outputs of a pair that are no longer what the run wrote."""
        paths = ((self.folder / key, sha256) for key, sha256 in self.known(name).items())
        return [path for path, sha256 in paths if path.exists() and sha256_of(path) != sha256]

    def known(self, name: str) -> Mapping[str, str]:
        """Outputs of a pair that runs wrote, with their hashes."""
        known: Mapping[str, str] = self.noted.get(name, {}).get("outputs", {})
        return known

    def hashed(self, outputs: Sequence[Path]) -> dict[str, str]:
        """Those of these outputs that exist, and their sidecars, with their hashes."""
        return {self._key(p): sha256_of(p) for p in _with_provenance(outputs) if p.exists()}

    def add(self, name: str, recipe: str, outputs: Mapping[str, str], **more: Any) -> None:
        """Record a pair.

        Args:
            name: of the pair.
            recipe: digest of all that determines its outputs.
            outputs: see `hashed`.
            **more: plain data.
        """
        line = json.dumps({"name": name, "recipe": recipe, "outputs": outputs} | more)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"\n{line}")  # a new line: the last one may be truncated

    def _key(self, path: Path) -> str:
        return os.path.relpath(path, self.folder)


def _line(text: str) -> dict[str, Any]:
    """A line of the record; empty if a killed run left it truncated."""
    with suppress(ValueError):
        noted = json.loads(text)
        if isinstance(noted, dict) and {"name", "recipe", "outputs"} <= noted.keys():
            return noted
    return {}


def _with_provenance(outputs: Sequence[Path]) -> list[Path]:
    """Outputs and their sidecars, except styles, which users edit."""
    from rscd.export.outputs import files_beside

    beside = (file for path in outputs for file in files_beside(path))
    return [*outputs, *(file for file in beside if file.suffix != ".qml")]
