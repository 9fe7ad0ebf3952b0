"""The files a run will write, checked before any work."""

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rscd.errors import OutputError, UsageError
from rscd.export.outputs import RASTER_SUFFIXES, check_output, is_vector
from rscd.export.preview import SUFFIXES as PREVIEW_SUFFIXES

StrPath = str | Path


@dataclass(frozen=True)
class Targets:
    """Where polygons, masks, probabilities, preview and flow go."""

    outputs: tuple[Path, ...]
    """Polygons or masks, as the suffix says."""
    prob: Path | None = None
    preview: Path | None = None
    flow: Path | None = None

    @classmethod
    def of(
        cls,
        outputs: Sequence[StrPath],
        prob: StrPath | None,
        preview: StrPath | None,
        flow: StrPath | None = None,
    ) -> "Targets":
        """From what the user named.

        Raises:
            UsageError: for nothing to write, one file named twice, or a wrong suffix.
        """
        targets = cls(
            tuple(Path(path) for path in outputs),
            None if prob is None else _of_kind(Path(prob), RASTER_SUFFIXES, "--prob"),
            None if preview is None else _of_kind(Path(preview), PREVIEW_SUFFIXES, "--preview"),
            None if flow is None else _of_kind(Path(flow), RASTER_SUFFIXES, "--flow"),
        )
        if not targets.all:
            raise UsageError(
                "expected at least one output, found none; name it with -o change.geojson"
            )
        if len({path.absolute() for path in targets.all}) < len(targets.all):
            raise UsageError("expected different output files, found one named twice; rename one")
        targets._check_styles()
        return targets

    @property
    def all(self) -> tuple[Path, ...]:
        """Every file; the first one names the work folder."""
        extra = (path for path in (self.prob, self.preview, self.flow) if path is not None)
        return (*self.outputs, *extra)

    @property
    def has_vectors(self) -> bool:
        """Whether polygons are wanted."""
        return any(is_vector(path) for path in self.outputs)

    def _check_styles(self) -> None:
        # polygons and mask share a style; the probabilities have their own
        taken = {path.with_suffix(".qml").absolute(): path for path in self.outputs}
        if self.prob is not None and (other := taken.get(self.prob.with_suffix(".qml").absolute())):
            raise UsageError(
                f"expected --prob and outputs with different names, found {self.prob} and {other}, "
                f"which would share the style {self.prob.with_suffix('.qml').name}; rename one"
            )

    def check_formats(self, *, has_crs: bool, pixel_coordinates: bool) -> None:
        """Find out whether each output can be written for this scene.

        Raises:
            UsageError: see `check_output`.
        """
        for path in self.outputs:
            check_output(path, has_crs=has_crs, pixel_coordinates=pixel_coordinates)

    def check_places(self, inputs: Iterable[StrPath], scratch_bytes: int) -> None:
        """Find out whether the folders are there, may be written and have room.

        Args:
            inputs: files that must not be overwritten.
            scratch_bytes: size of the rasters of the work folder.

        Raises:
            OutputError: otherwise.
        """
        read = {Path(path).resolve() for path in inputs}
        for path in self.all:
            _check_folder(path)
            if path.resolve() in read:
                raise OutputError(
                    f"expected an output beside the inputs, found the input {path} itself"
                )
        # outputs are copies of the scratch rasters, compressed; as much again is the safe side
        need, free = 2 * scratch_bytes, shutil.disk_usage(self.all[0].parent).free
        if free < need:
            raise OutputError(
                f"expected {need / 1e6:.0f} MB of free disk beside {self.all[0]}, found "
                f"{free / 1e6:.0f} MB; free some space or write elsewhere"
            )

    def check_new(self, mine: Iterable[str]) -> None:
        """Find out whether any file is already there.

        Args:
            mine: names of files that the interrupted run itself began to write.

        Raises:
            OutputError: for a file that is somebody else's.
        """
        ours = set(mine)
        for path in self.all:
            if path.exists() and str(path.absolute()) not in ours:
                raise OutputError(
                    f"expected a new file, found {path} already there; add --overwrite"
                )


def _of_kind(path: Path, suffixes: tuple[str, ...], option: str) -> Path:
    if path.suffix.lower() not in suffixes:
        raise UsageError(
            f"expected a file ending in {' or '.join(suffixes)} for {option}, found {path}"
        )
    return path


def _check_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise OutputError(
            f"expected a folder for {path}, found none at {path.parent}; create it first"
        )
    if not os.access(path.parent, os.W_OK):
        raise OutputError(
            f"expected to write {path}, found that {path.parent} may not be written; choose "
            "another folder or change its permissions"
        )
    if path.is_dir():
        raise OutputError(f"expected a file name for an output, found the folder {path}")
