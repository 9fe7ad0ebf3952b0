"""The parser of all commands: errors of one line, help that fits a screen."""

import argparse
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from rscd.base.arguments import close_to
from rscd.base.border import shown
from rscd.base.errors import UsageError
from rscd.base.redact import redacted

WIDTH = 78
"""Columns of the list of options that ``--help`` leaves out."""


class Parser(argparse.ArgumentParser):
    """A command's arguments, in groups.

    A group may be rare: ``--help`` names its options, ``--help-all`` explains them. A group may
    belong to one use of the command: `refuse_idle` refuses its options in any other.
    """

    def __init__(self, *, more: str = "", **options: Any) -> None:
        """As `argparse.ArgumentParser`.

        Args:
            more: stands below the epilog in ``--help-all``.
            options: of that parser.
        """
        super().__init__(formatter_class=_Formatter, **options)
        self._more = more
        self._rare: list[argparse._ArgumentGroup] = []
        self._uses: list[tuple[str, argparse._ArgumentGroup]] = []

    def group(
        self, title: str, *, use: str | None = None, rare: bool = False
    ) -> argparse._ArgumentGroup:
        """Declare a group of options.

        Args:
            title: its heading.
            use: the only use of the command in which they count; None: in all.
            rare: whether ``--help`` only names them.
        """
        group = self.add_argument_group(title)
        if use is not None:
            self._uses.append((use, group))
        if rare:
            if not self._rare:
                self.add_argument("--help-all", action=_HelpAll, help="explain every option")
            self._rare.append(group)
        return group

    def actions(self) -> list["Parser"]:
        """The parsers of its actions, if it is a command that has some."""
        return [
            one
            for action in self._actions
            if isinstance(action, argparse._SubParsersAction)
            for one in action.choices.values()
        ]

    def refuse_idle(self, args: argparse.Namespace, use: str, *also: str) -> None:
        """Refuse options that would do nothing.

        Args:
            args: as parsed.
            use: the one that was asked for, of those of the groups.
            also: others whose options count in it.

        Raises:
            UsageError: an option of another use was given.
        """
        for other, group in self._uses:
            if other not in (use, *also):
                self.refuse(args, [one.dest for one in group._group_actions], other, use)

    def refuse(self, args: argparse.Namespace, names: Iterable[str], use: str, found: str) -> None:
        """Refuse some options, if they were given.

        Args:
            args: as parsed.
            names: of the options, as attributes of ``args``.
            use: in which alone they count, for the message.
            found: the use that was asked for, for the message.

        Raises:
            UsageError: one of them was given.
        """
        for action in self._actions:
            if action.dest in names and getattr(args, action.dest) != action.default:
                name = next(text for text in action.option_strings if text.startswith("--"))
                raise UsageError(f"expected {name} only with {use}, found {found}; drop it")

    def error_unknown(self, words: Sequence[str]) -> NoReturn:
        """End the process because of arguments that the command does not have."""
        given = next((word for word in words if word.startswith("--")), "")
        close = close_to(given.partition("=")[0], self._option_string_actions)
        self.error(f"unrecognized arguments: {' '.join(words)}{close}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(
                action,
                f"expected one of {', '.join(known)}, found {value!r}{close_to(str(value), known)}",
            )

    def error(self, message: str) -> NoReturn:
        """End the process with exit code 2."""
        say(f"{message}; see {self.prog} --help")
        sys.exit(2)

    def format_help(self) -> str:
        """What ``--help`` prints."""
        return self._help(everything=False)

    def format_help_all(self) -> str:
        """What ``--help-all`` prints."""
        return self._help(everything=True)

    def _help(self, *, everything: bool) -> str:
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(textwrap.fill(self.description or "", WIDTH))
        left_out = [] if everything else self._rare
        for group in self._action_groups:
            if group not in left_out:
                formatter.start_section(group.title)
                formatter.add_arguments(group._group_actions)
                formatter.end_section()
        if left_out:
            named = map(_named, left_out)
            formatter.add_text("\n".join(["more options (--help-all explains them):", *named]))
        formatter.add_text(self.epilog)
        if everything and self._more:
            formatter.add_text(self._more)
        return formatter.format_help()


def _named(group: argparse._ArgumentGroup) -> str:
    names = ", ".join(action.option_strings[-1] for action in group._group_actions)
    return textwrap.fill(
        f"{group.title}: {names}",
        WIDTH,
        initial_indent="  ",
        subsequent_indent="    ",
        break_on_hyphens=False,
    )


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """The metavar stands once behind all names of an option, as in Python 3.13."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=27)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        metavar = self._get_default_metavar_for_optional(action)
        return f"{', '.join(action.option_strings)} {self._format_args(action, metavar)}"


class _HelpAll(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        assert isinstance(parser, Parser)
        sys.stdout.write(parser.format_help_all())
        parser.exit()


def say(message: object) -> None:
    """One line on stderr."""
    line = shown(" ".join(redacted(str(message)).split()))
    print(f"rscd: {line}", file=sys.stderr)  # noqa: T201
