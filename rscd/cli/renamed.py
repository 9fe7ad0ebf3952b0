"""Command lines of version 0.1 in today's words; all of this goes with version 0.3."""

from collections.abc import Sequence

RENAMED = {
    "pseudolabel": {"--backend": "--segmenter", "--so": "--segmenter-option"},
    "predict": {"--so": "--segmenter-option"},
    "data": {"--dst": "--output", "--patch": "--size"},
}
"""Command: old and new names of its options."""

EVENTS = "ceg"
"""``rscd predict -m ceg:NAME`` is ``rscd events --segmenter NAME``."""


def in_new_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command line in today's words, and a warning for each that is old."""
    found, notes = _with_new_names(words)
    models = _models(found) if found[:1] == ["predict"] else []
    prefix, _, segmenter = models[-1][1].partition(":") if models else ("", "", "")
    if prefix != EVENTS:
        return found, notes
    taken = {place for places, _ in models for place in places}
    rest = [word for place, word in enumerate(found) if place and place not in taken]
    notes = [f"rscd predict -m {EVENTS}:NAME goes with version 0.3: rscd events --segmenter NAME"]
    return ["events", *rest, f"--segmenter={segmenter}"], notes


def _with_new_names(words: Sequence[str]) -> tuple[list[str], list[str]]:
    names = RENAMED.get(words[0], {}) if words else {}
    found, notes = [], []
    for word in words:
        name, sign, value = word.partition("=")
        if name in names:
            notes.append(f"{name} goes with version 0.3: {names[name]}")
        found.append(f"{names.get(name, name)}{sign}{value}")
    return found, list(dict.fromkeys(notes))


def _models(words: Sequence[str]) -> list[tuple[range, str]]:
    """Where ``-m`` and ``--model`` stand, with their values."""
    found = []
    for place, word in enumerate(words):
        name, sign, value = word.partition("=")
        long = len(name) > len("--m") and "--model".startswith(name)
        if (word == "-m" or (long and not sign)) and place + 1 < len(words):
            found.append((range(place, place + 2), words[place + 1]))
        elif long and sign:
            found.append((range(place, place + 1), value))
        elif word.startswith("-m") and word != "-m":
            found.append((range(place, place + 1), word.removeprefix("-m")))
    return found
