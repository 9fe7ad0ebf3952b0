"""Provenance of a result: plain data that is the same for the same inputs."""

import hashlib
from pathlib import Path

from rscd.base.files import sha256_of
from rscd.base.redact import redacted, redacted_data
from rscd.base.types import Provenance
from rscd.base.version import version
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
    if source.opens is not None:  # what counts of a STAC item; what it refers to comes below
        found["vrt_sha256"] = hashlib.sha256(source.opens.encode()).hexdigest()
    others = sorted(name for name in source.files if Path(name) != Path(source.path))
    if others:
        found["with"] = [describe_file(name) for name in others]
    return found | {"bands": list(source.bands)}


def describe_file(path: str | Path) -> Provenance:
    """Name, size in bytes and SHA-256 of a file; only the name for URLs and GDAL's virtual paths.

    Names contain no secrets, see `rscd.base.redact.redacted`.
    """
    file = Path(path)
    if "://" in str(path) or not file.is_file():
        return {"path": redacted(path)}
    return {"path": str(path), "bytes": file.stat().st_size, "sha256": sha256_of(file)}
