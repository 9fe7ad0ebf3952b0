"""Text prompts of a segmenter, foreground first."""

from collections.abc import Sequence
from dataclasses import dataclass

from rscd.base.errors import UsageError


@dataclass(frozen=True)
class ClassPrompt:
    """One class: the name of its band, and the phrases that describe it."""

    name: str
    phrases: tuple[str, ...]
    """The phrases; at each pixel the best one counts."""


@dataclass(frozen=True)
class PromptSet:
    """All classes in the order of the bands: foreground, then background."""

    foreground: tuple[ClassPrompt, ...]
    background: tuple[ClassPrompt, ...]

    def __post_init__(self) -> None:
        if not self.foreground or not self.background:
            raise UsageError(
                "expected at least one foreground and one background prompt, found "
                f"{len(self.foreground)} and {len(self.background)}; name what changes and what "
                "surrounds it, such as --foreground building --background road,grass,tree,water"
            )
        names = [prompt.name.casefold() for prompt in self.all]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(
                f"expected every prompt once, found {', '.join(repeated)} repeated; remove one"
            )
        if "background" in names:
            raise UsageError(
                "expected names of visible things, found the prompt 'background', which no model "
                "recognises; name what surrounds the objects: road,grass,tree,water"
            )

    @property
    def all(self) -> tuple[ClassPrompt, ...]:
        """Every class, foreground first."""
        return self.foreground + self.background

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the bands."""
        return tuple(prompt.name for prompt in self.all)

    @property
    def n_foreground(self) -> int:
        """Number of foreground classes."""
        return len(self.foreground)

    @property
    def phrases(self) -> tuple[tuple[int, str], ...]:
        """(class index, phrase) of every phrase."""
        return tuple((i, text) for i, prompt in enumerate(self.all) for text in prompt.phrases)


FOREGROUND = "house,building"
BACKGROUND = "road,grass,tree,water"
"""The six prompts of DiffMatch (arXiv 2405.04788, section IV)."""


def parse_prompts(foreground: str, background: str) -> PromptSet:
    """Prompts from a command line: ``tree=tree|forest,water`` is two classes with three phrases.

    Raises:
        UsageError: for an empty or repeated prompt.
    """
    return PromptSet(_parse(foreground, "--foreground"), _parse(background, "--background"))


def _parse(text: str, option: str) -> tuple[ClassPrompt, ...]:
    found = tuple(
        ClassPrompt(_clean(name), tuple(_clean(phrase) for phrase in (rest or name).split("|")))
        for name, _, rest in (part.partition("=") for part in text.split(","))
    )
    if not all(prompt.name and all(prompt.phrases) for prompt in found):
        raise UsageError(
            f"expected {option} as prompts separated by commas, such as house,building or "
            f"tree=tree|forest, found an empty one in {text!r}; remove or fill it"
        )
    return found


def _clean(text: str) -> str:
    return " ".join(text.split())


def check_lengths(prompts: PromptSet, lengths: Sequence[int], most: int) -> None:
    """Refuse a phrase with more tokens than the model accepts.

    Args:
        prompts: the classes.
        lengths: number of tokens of each of ``prompts.phrases``, including start and end tokens.
        most: limit of the model.

    Raises:
        UsageError: if a phrase would be truncated silently, or break the model.
    """
    for (_, phrase), length in zip(prompts.phrases, lengths, strict=True):
        if length > most:
            raise UsageError(
                f"expected prompts of at most {most} tokens, found {length} in {phrase!r}; use a "
                "short noun phrase such as 'red roof'"
            )
