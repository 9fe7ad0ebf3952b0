"""Paths and URLs that are safe to show: without passwords, tokens and signatures.

Results are passed on to others, and messages end up in logs and bug reports. Everything that is
written about the origin of data goes through `redacted`. This module imports nothing else from
rscd, so that every layer can use it.
"""

import hashlib
import re
from pathlib import PurePath
from typing import Any
from urllib.parse import parse_qs, unquote

_END = r"\s'\"<>|"
"""Characters that end a URL within a text."""
_QUERY = rf"[?#](?:[^{_END};,)]|[;,)](?!\s|$))*"
"""Query and fragment, without the punctuation of the surrounding sentence."""

_CURL_OPTIONS = re.compile(rf"(?i)(/vsicurl(?:_streaming)?)\?([^{_END}]*)")
_ENCODED = re.compile(rf"(?i)\b[a-z][a-z0-9+.-]*%3A(?:%2F|/){{2}}[^{_END}&]*")
_URL = re.compile(rf"(?i)\b([a-z][a-z0-9+.-]*://)(?:[^{_END}/?#]*@)?([^{_END}?#]*)(?:{_QUERY})?")
_CLOUD = re.compile(
    r"(?i)(/vsi(?:curl|s3|gs|az|adls|oss|swift|webhdfs|hdfs)(?:_streaming)?/"
    rf"[^{_END}?#]*){_QUERY}"
)
_WORDS = re.compile(
    r"(?i)\b(password|passwd|pwd|secret|token|access_?key|secret_?access_?key|api_?key|signature|sig"
    rf"|user|userid|uid)=(?:'[^']*'|\"[^\"]*\"|[^{_END};,&]+)"
)
_DATABASE = re.compile(r"(?i)\b(?:PG|MYSQL|MSSQL|OCI|ODBC|MONGODB\w*):[^\n]*")


def redacted(text: str | PurePath) -> str:
    """A path, URL or message without secrets.

    Query strings, fragments and ``user:password@`` are removed from URLs, including URLs inside
    GDAL's virtual paths, percent-encoded URLs and URLs in a longer text; so are names and passwords
    in database connection strings. Local paths are unchanged.

    Args:
        text: of any length.

    Returns:
        The text without secrets; the function is idempotent.
    """
    found = _CURL_OPTIONS.sub(_of_curl_options, str(text))
    found = _ENCODED.sub(lambda match: redacted(unquote(match[0])), found)
    found = _URL.sub(r"\1\2", found)
    found = _CLOUD.sub(r"\1", found)
    return _DATABASE.sub(lambda match: _WORDS.sub(r"\1=***", match[0]), found)


def _of_curl_options(match: "re.Match[str]") -> str:
    """``/vsicurl?url=...&option=...`` as ``/vsicurl/URL``."""
    urls = parse_qs(match[2]).get("url", [""])
    return f"{match[1]}/{urls[0]}" if urls[0] else match[1]


def redacted_data(data: Any) -> Any:
    """JSON data, such as provenance, with every string `redacted`."""
    if isinstance(data, str):
        return redacted(data)
    if isinstance(data, dict):
        return {redacted_data(key): redacted_data(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return type(data)(map(redacted_data, data))
    return data


def mark(path: str) -> str:
    """Tag that distinguishes paths which look equal once redacted; empty for paths without secrets.

    Four hexadecimal digits: enough to tell two images apart, too few to recover a password.
    """
    if redacted(path) == path:
        return ""
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:4]
