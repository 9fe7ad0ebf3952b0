"""Reviewed layers named on the command line in place of those of a configuration."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from rscd.base.errors import UsageError
from rscd.training.module import EVALUATED

OPTION = "--review"


def with_reviews(words: Sequence[str]) -> list[str]:
    """Arguments of a training in which ``--review LAYER`` names the scenes that have a review.

    Args:
        words: as on the command line; the option may be repeated, and given as ``--review=LAYER``.

    Returns:
        The words without it; each stream to train on with scenes of the form ``{review: ...}`` gets
        one scene for each layer in their place, by an override of its key. Other scenes stay.

    Raises:
        UsageError: no layer follows the option, no stream has such scenes, or they have further
            fields, such as an area, which would be lost.
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
    found = {name: scenes for file in files for name, scenes in _streams(file).items()}
    if not found:
        raise UsageError(
            f"expected scenes of the form {{review: LAYER}} for {OPTION}, found none in "
            f"{', '.join(files) or 'no configuration'}; begin with -c from_review"
        )
    for name, scenes in found.items():
        more = {field for scene in scenes if "review" in scene for field in scene} - {"review"}
        if more:
            raise UsageError(
                f"expected scenes {{review: LAYER}} without further fields for {OPTION}, found "
                f"{', '.join(sorted(more))} in the stream {name}; write the layer into the "
                "configuration instead"
            )
        kept = [scene for scene in scenes if "review" not in scene]
        listed = json.dumps([*kept, *({"review": layer} for layer in layers)], default=str)
        rest.append(f"--data.streams.{name}.init_args.scenes={listed}")
    return rest


def _streams(file: str) -> dict[str, list[dict[str, Any]]]:
    """Scenes of the streams to train on of which any is a reviewed layer, by stream."""
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        streams: dict[str, Any] = content["data"]["streams"]
        scenes = {
            name: _listed(stream.get("init_args", {}).get("scenes", []))
            for name, stream in streams.items()
            if name not in EVALUATED
        }
        return {name: some for name, some in scenes.items() if any("review" in s for s in some)}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return {}  # who reads the configuration reports what is wrong with it


def _listed(scenes: Any) -> list[dict[str, Any]]:
    """Scenes as a configuration may give them: one, or a list."""
    return [scenes] if isinstance(scenes, dict) else list(scenes)
