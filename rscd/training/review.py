"""Reviewed layers named on the command line in place of those of a configuration."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from rscd.base.errors import UsageError

OPTION = "--review"


def with_reviews(words: Sequence[str]) -> list[str]:
    """Arguments of a training in which ``--review LAYER`` names the scenes that have a review.

    Args:
        words: as on the command line; the option may be repeated, and given as ``--review=LAYER``.

    Returns:
        The words without it; each stream with scenes of the form ``{review: ...}`` gets one scene
        for each layer, by an override of its key.

    Raises:
        UsageError: no layer follows the option, or no stream has such scenes.
    """
    layers, rest, files = [], [], []
    given = iter(words)
    for word in given:
        name, equals, value = word.partition("=")
        if name == OPTION:
            layers.append(value if equals else next(given, ""))
            continue
        rest.append(word)
        if name in ("-c", "--config"):
            files.append(value if equals else next(given, ""))
            rest += [] if equals else files[-1:]
    if not layers:
        return rest
    if not all(layers):
        raise UsageError(f"expected a reviewed layer after {OPTION}, found none; name it")
    names = [name for file in files for name in _streams(file)]
    if not names:
        raise UsageError(
            f"expected scenes of the form {{review: LAYER}} for {OPTION}, found none in "
            f"{', '.join(files) or 'no configuration'}; begin with -c from_review"
        )
    scenes = json.dumps([{"review": layer} for layer in layers])
    return [*rest, *(f"--data.streams.{name}.init_args.scenes={scenes}" for name in names)]


def _streams(file: str) -> list[str]:
    """Names of the streams of a configuration whose scenes are reviewed layers."""
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        streams: dict[str, Any] = content["data"]["streams"]
        return [
            name
            for name, stream in streams.items()
            if any("review" in scene for scene in stream.get("init_args", {}).get("scenes", []))
        ]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return []  # who reads the configuration reports what is wrong with it
