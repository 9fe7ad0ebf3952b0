"""The files a run will write, checked before any work."""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rscd.base.border import shown
from rscd.base.errors import OutputError, UsageError
from rscd.base.files import sidecars, writing
from rscd.base.place import gdal_name, is_remote, local_file, named
from rscd.base.redact import redacted
from rscd.base.types import DateName
from rscd.export.crs import check_crs
from rscd.export.database import require_free
from rscd.export.outputs import RASTER_SUFFIXES, check_output, files_beside, is_vector
from rscd.export.picture import SUFFIX as PICTURE_SUFFIX
from rscd.export.preview import SUFFIXES as PREVIEW_SUFFIXES
from rscd.export.style import is_own_style
from rscd.export.upload import (
    clear_room,
    exists,
    make_room,
    name_at,
    room_for,
    sibling,
    target_address,
    upload,
)
from rscd.export.vector import SUFFIXES as VECTOR_SUFFIXES

StrPath = str | Path
Outputs = StrPath | Sequence[StrPath] | None
"""One file, several, or none."""

ITEM_SUFFIX = ".json"
"""Of the STAC item among the outputs."""
PROJECT_SUFFIX = ".qgz"
"""Of a QGIS project."""

MOST_NAME_BYTES = 255
"""Longest file name in bytes on common file systems."""


@dataclass(frozen=True)
class Targets:
    """Where polygons, masks, probabilities, preview, flow, dissimilarity and objects go."""

    outputs: tuple[Path, ...]
    """Polygons or masks, depending on the suffix."""
    prob: Path | None = None
    preview: Path | None = None
    flow: Path | None = None
    dissimilarity: Path | None = None
    objects: Mapping[DateName, Path] = field(default_factory=dict)
    """Polygons of what stands at a date, for the dates for which they are wanted."""
    remote: Mapping[Path, str] = field(default_factory=dict)
    """Where files go that are only written here; see `rscd.export.upload`."""
    item: Path | None = None
    """The STAC item of all these."""
    project: Path | None = None
    """The QGIS project of all these."""

    @classmethod
    def of(
        cls,
        outputs: Outputs,
        prob: StrPath | None = None,
        preview: StrPath | None = None,
        flow: StrPath | None = None,
        objects: Mapping[DateName, StrPath | None] | None = None,
        dissimilarity: StrPath | None = None,
        project: StrPath | None = None,
    ) -> "Targets":
        """Build from the names the user gave: files, or addresses.

        An output ending in `ITEM_SUFFIX` is the STAC item.

        Raises:
            UsageError: for no output, one file named twice, or a wrong suffix.
        """
        outputs = outputs_of(outputs)
        given = [*outputs, prob, preview, flow, dissimilarity, *(objects or {}).values()]
        named = {"prob": prob, "preview": preview, "flow": flow, "dissimilarity": dissimilarity}
        named |= {"project": project}
        named |= {f"objects of {date}": path for date, path in (objects or {}).items()}
        for name, path in named.items():
            if path is not None:
                _check_name(path, name)
        urls = [url for path in given if path is not None and (url := target_address(path))]
        room, remote = room_for(urls), dict[Path, str]()

        def here(path: StrPath) -> Path:
            url = target_address(path)
            if url is None:
                return local_file(path) or Path(path)
            # files of one name may go to several places
            local = room / str(urls.index(url)) / name_at(url)
            remote[local] = url
            return local

        def kept(path: StrPath | None, suffixes: Sequence[str], option: str) -> Path | None:
            return None if path is None else of_kind(here(path), suffixes, option)

        items = [path for path in outputs if Path(path).suffix.lower() == ITEM_SUFFIX]
        targets = cls(
            tuple(here(path) for path in outputs if path not in items),
            kept(prob, RASTER_SUFFIXES, "--prob"),
            kept(preview, PREVIEW_SUFFIXES, "--preview"),
            kept(flow, RASTER_SUFFIXES, "--flow"),
            kept(dissimilarity, (*RASTER_SUFFIXES, PICTURE_SUFFIX), "--dissimilarity"),
            {
                date: of_kind(here(path), VECTOR_SUFFIXES, f"--objects-{date}")
                for date, path in (objects or {}).items()
                if path is not None
            },
            remote,
            here(items[0]) if items else None,
            None if project is None else of_kind(Path(project), (PROJECT_SUFFIX,), "--project"),
        )
        if any(not path.name for path in targets.all):
            raise UsageError("expected a file name for each output, found an empty one; name it")
        if not targets.files:
            found = "none" if not items else f"only the STAC item {items[0]}"
            raise UsageError(
                f"expected at least one output, found {found}; name it with -o change.geojson"
            )
        if len(items) > 1:
            raise UsageError(
                f"expected one STAC item, found {items[0]} and {items[1]}; drop one of them"
            )
        _check_different(targets.all)
        targets._check_styles()
        return targets

    @property
    def files(self) -> dict[str, Path]:
        """Every file but item and project, by what it is; as a STAC item names its assets."""
        found: dict[str, Path] = {}
        for path in self.outputs:
            what = "polygons" if is_vector(path) else "mask"
            more = "" if what not in found else f"_{path.suffix[1:].lower()}"
            found[what + more if what + more not in found else path.name] = path
        extra = {"prob": self.prob, "preview": self.preview, "flow": self.flow}
        extra["dissimilarity"] = self.dissimilarity
        found |= {what: path for what, path in extra.items() if path is not None}
        return found | {f"objects_{date}": path for date, path in self.objects.items()}

    @property
    def all(self) -> tuple[Path, ...]:
        """Every file, item and project last; the work folder is named after the first."""
        last = (self.item, self.project)
        return (*self.files.values(), *(path for path in last if path is not None))

    @property
    def has_vectors(self) -> bool:
        """Whether any output contains polygons."""
        return any(is_vector(path) for path in self.outputs)

    @property
    def names(self) -> list[str]:
        """Every file by the name the user gave."""
        return [self.remote.get(path, str(path)) for path in self.all]

    def prepare(self) -> None:
        """Make the folders where files wait for their upload.

        Raises:
            OutputError: it cannot be done.
        """
        for path in self.remote:
            with writing(path):
                make_room(path.parent.parent)
                path.parent.mkdir(exist_ok=True)

    def send(self) -> None:
        """Upload what goes elsewhere: what lies beside a file first, the file itself last.

        Raises:
            OutputError: it cannot be done; the files stay here, and the same run goes on from them.
        """
        for path, url in self.remote.items():
            for file in (*self._beside(path), path):
                goal = url if file == path else sibling(url, file.name)
                if goal is not None and file.is_file():
                    upload(file, goal)

    def clear(self) -> None:
        """Delete what was written here to be uploaded."""
        for path in self.remote:
            clear_room(path.parent.parent)

    def _beside(self, path: Path) -> list[Path]:
        styled = (*self.outputs, self.prob, self.dissimilarity, *self.objects.values())
        return files_beside(path) if path in styled else []

    def _check_styles(self) -> None:
        # polygons and mask share a style; probabilities and objects have their own
        groups = [
            ("outputs", self.outputs),
            ("--prob", () if self.prob is None else (self.prob,)),
            ("--objects", tuple(self.objects.values())),
        ]
        taken: dict[Path, tuple[str, Path]] = {}
        for name, paths in groups:
            for path in paths:
                style = path.with_suffix(".qml").absolute()
                other, first = taken.setdefault(style, (name, path))
                if other != name:
                    raise UsageError(
                        f"expected {name} and {other} with different names, found {path} and "
                        f"{first}, which would share the style {style.name}; rename one"
                    )

    def check(
        self,
        crs: Any,
        at: tuple[float, float],
        inputs: Iterable[StrPath],
        scratch_bytes: int = 0,
    ) -> None:
        """Check that each output can be written for a scene: format, CRS and place.

        Args:
            crs: of the result, or None.
            at: coordinates of a place in the result.
            inputs: files that must not be overwritten.
            scratch_bytes: size of the rasters of the work folder.

        Raises:
            UsageError: see `check_output` and `rscd.export.crs.check_crs`.
            OutputError: see `check_places`.
        """
        for path in (*self.outputs, *self.objects.values()):
            check_output(path)
        for path in self.all:
            if path not in (self.preview, self.item, self.project):
                check_crs(path, crs, at)
        self.check_places(inputs, scratch_bytes)

    def require_crs(self, crs: Any) -> None:
        """Check that polygons will have a CRS, where none in pixel coordinates are wanted.

        Args:
            crs: of the result, or None.

        Raises:
            UsageError: they will not.
        """
        vectors = [path for path in (*self.outputs, *self.objects.values()) if is_vector(path)]
        if vectors and crs is None:
            raise UsageError(
                f"expected images with a CRS for polygons in {vectors[0]}, found none; write a "
                ".tif, or add --pixel-coordinates to get polygons in pixels"
            )

    def check_places(self, inputs: Iterable[StrPath], scratch_bytes: int = 0) -> None:
        """Check that the folders exist, are writable and have enough space.

        Args:
            inputs: files that must not be overwritten.
            scratch_bytes: size of the rasters of the work folder.

        Raises:
            OutputError: otherwise.
        """
        read = {gdal_name(path) for path in inputs if is_remote(path)}
        for url in self.remote.values():
            if gdal_name(url) in read:
                raise OutputError(
                    f"expected an output beside the inputs, found the input {url} itself; choose "
                    "another name"
                )
        _check_places([path for path in self.all if path not in self.remote], inputs)
        # outputs are compressed copies of the scratch rasters, so the same size again is a safe
        # limit
        first = self.all[0]
        disk = first.parent if first not in self.remote else first.parents[2]
        need, free = 2 * scratch_bytes, shutil.disk_usage(disk).free
        if free < need:
            raise OutputError(
                f"expected {need / 1e6:.0f} MB of free disk in {disk}, found {free / 1e6:.0f} MB; "
                "free some space or write elsewhere (TMPDIR, for outputs that are uploaded)"
            )

    def check_new(self, mine: Iterable[str]) -> None:
        """Check that no file exists already.

        Args:
            mine: names of files that the interrupted run began to write.

        Raises:
            OutputError: for an existing file of another origin.
        """
        ours = set(mine)
        for path in self.all:
            if str(path.absolute()) in ours:
                continue
            if path in self.remote:
                _check_new_there(self.remote[path], self._beside(path))
            else:
                beside = (file for file in self._beside(path) if not is_own_style(file))
                _check_new(path, beside)


def outputs_of(given: Outputs) -> list[StrPath]:
    """The files of an argument, by the names the user gave.

    Raises:
        UsageError: something else, such as options in their place.
    """
    if isinstance(given, StrPath):
        return [given]
    if given is None:
        return []
    files = list(given) if isinstance(given, Iterable) else [given]
    for path in files:
        _check_name(path)
    return files


def _check_name(given: object, name: str = "outputs") -> None:
    if not isinstance(given, StrPath):
        how = "name the arguments: outputs=[...], options=..."
        raise UsageError(
            f"expected {name} as file names, found {type(given).__name__}; "
            f"{how if name == 'outputs' else 'give a path or an address'}"
        )


def check_outputs(outputs: Iterable[Path], inputs: Iterable[StrPath], *, overwrite: bool) -> None:
    """Check that files may be written: the folder exists, they are not inputs, new or replaceable.

    Args:
        outputs: files.
        inputs: files, and folders of files, that must not be overwritten.
        overwrite: whether existing files may be replaced.

    Raises:
        OutputError: otherwise.
        UsageError: for one file named twice.
    """
    files = list(outputs)
    _check_different(files)
    _check_places(files, inputs)
    if not overwrite:
        for path in files:
            _check_new(path)


def _check_different(files: Sequence[Path]) -> None:
    if len({path.absolute() for path in files}) < len(files):
        raise UsageError("expected different output files, found one named twice; rename one")


def _check_places(files: Sequence[Path], inputs: Iterable[StrPath]) -> None:
    for path in files:
        _check_folder(path)
    keep_inputs(files, inputs)
    for path in files:
        require_free(path)


def keep_inputs(outputs: Iterable[StrPath], inputs: Iterable[StrPath]) -> None:
    """Refuse to overwrite inputs.

    Args:
        outputs: files.
        inputs: files, and folders of files, that must not be overwritten.

    Raises:
        OutputError: for an output that is an input.
    """
    read = {Path(path).resolve() for path in inputs}
    for path in map(Path, outputs):
        place = path.resolve()
        if place in read or (place.exists() and not read.isdisjoint(place.parents)):
            raise OutputError(
                f"expected an output beside the inputs, found the input {path} itself; choose "
                "another name"
            )


def _check_new(path: Path, beside: Iterable[Path] = ()) -> None:
    for file in (path, *beside):
        if os.path.lexists(file):
            raise OutputError(f"expected a new file, found {file} already there; add --overwrite")
    for file in sidecars(path):
        raise OutputError(
            f"expected no file that would be read with the new {path}, found {file} of an older "
            "file; add --overwrite to replace it too, or move it away"
        )


def _check_new_there(url: str, beside: Iterable[Path]) -> None:
    # styles are left out: whether one is ours is not known without fetching it
    others = (sibling(url, file.name) for file in beside if file.suffix != ".qml")
    for goal in (url, *filter(None, others)):
        if exists(goal):
            raise OutputError(
                f"expected a new file, found {redacted(goal)} already there; add --overwrite"
            )


def of_kind(path: Path, suffixes: Sequence[str], option: str) -> Path:
    """The path, if it ends in one of the suffixes.

    Raises:
        UsageError: otherwise.
    """
    if path.suffix.lower() not in suffixes:
        raise UsageError(
            f"expected a file ending in {' or '.join(suffixes)} for {option}, found {path}"
        )
    return path


def _check_folder(path: Path) -> None:
    if target_address(path) is not None:
        raise OutputError(
            f"expected a file of this machine for an output of this command, found {named(path)}; "
            "write it here and copy it there"
        )
    try:
        str(path).encode()
    except UnicodeEncodeError:  # most libraries refuse it
        raise OutputError(
            f"expected a name in UTF-8 for an output, found {shown(path)}; rename it or its folder"
        ) from None
    most = MOST_NAME_BYTES - len("..partial")  # length that a scratch folder adds
    if len(os.fsencode(path.name)) > most:
        raise OutputError(
            f"expected a file name of at most {most} bytes for an output, found "
            f"{len(os.fsencode(path.name))} in {path}; shorten it"
        )
    if not path.parent.is_dir():
        raise OutputError(
            f"expected a folder for {path}, found none at {path.parent}; create it first"
        )
    if not os.access(path.parent, os.W_OK):
        raise OutputError(
            f"expected to write {path}, found that {path.parent} is not writable; choose "
            "another folder or change its permissions"
        )
    if path.is_dir():
        raise OutputError(f"expected a file name for an output, found the folder {path}")
