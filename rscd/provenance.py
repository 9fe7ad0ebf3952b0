"""What a result was made from: plain data that is the same for the same inputs."""

import hashlib
from pathlib import Path

from rscd.types import Provenance


def describe_file(path: str | Path) -> Provenance:
    """Name, size in bytes and SHA-256 of a file; name alone for URLs and GDAL's virtual paths."""
    file = Path(path)
    if "://" in str(path) or not file.is_file():
        return {"path": str(path)}
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"path": str(path), "bytes": file.stat().st_size, "sha256": digest}
