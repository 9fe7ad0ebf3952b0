"""Provenance of a result: plain data that is the same for the same inputs."""

from pathlib import Path

from rscd.base.errors import RemoteError
from rscd.base.files import sha256_of
from rscd.base.place import gdal_name, is_file_name, is_remote, named
from rscd.base.redact import redacted, redacted_data
from rscd.base.types import Provenance
from rscd.base.version import version
from rscd.geo.remote import look
from rscd.geo.scene import ScenePair
from rscd.geo.source import Source


def describe_pair(pair: ScenePair) -> Provenance:
    """The software, both dates with their bands, and how they were brought onto one grid."""
    described: Provenance = redacted_data(
        {
            "software": f"rscd {version()}",
            "t1": _describe_source(pair.t1),
            "t2": _describe_source(pair.t2),
            "alignment": pair.alignment,
        }
    )
    return described


def _describe_source(source: Source) -> Provenance:
    # with the hashes of associated files: sources of a VRT, masks, sidecars
    found = describe_file(source.path)
    own = gdal_name(source.path)
    others = sorted(name for name in source.files if Path(gdal_name(name)) != Path(own))
    if others:
        found["with"] = [describe_file(name) for name in others]
    return found | {"bands": list(source.bands)}


def describe_file(path: str | Path) -> Provenance:
    """Name, size in bytes and SHA-256 of a file.

    Of a remote file, which would have to be fetched whole for a hash: what its server says, ETag,
    size and time of the last change (`rscd.geo.remote.look`). Of GDAL's other virtual paths only
    the name. Names contain no secrets, see `rscd.base.redact.redacted`.
    """
    if is_remote(path):
        return {"path": redacted(path)} | look(named(path)).record()
    file = Path(path)
    if not is_file_name(path) or not file.is_file():
        return {"path": redacted(path)}
    return {"path": str(path), "bytes": file.stat().st_size, "sha256": sha256_of(file)}


def check_unchanged(pair: ScenePair, before: Provenance) -> None:
    """Find out whether remote files are still those that a run began with.

    Args:
        pair: that was read.
        before: `describe_pair` at the beginning.

    Raises:
        RemoteError: one was replaced meanwhile.
    """
    for source in (pair.t1, pair.t2):
        if source.remote is None:
            continue
        if redacted_data(_describe_source(source)) != before[source.date]:
            raise RemoteError(
                f"expected {source.date} {source.path} to stay as it is while it is read, found "
                "another version on the server; repeat the command"
            )
