"""The parser of every command: `--help` fits a screen, `--help-all` explains every option."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

# Wider lines are harder to read than they save.
WIDEST = 100
# Replaces hyphens while lines are filled: a line would be broken after a hyphen, inside an option's name.
_UNBROKEN, _BROKEN = str.maketrans("-", "\0"), str.maketrans("\0", "-")


class Parser(argparse.ArgumentParser):
    """A parser whose `--help` fits a screen: it only names the options that `rare()` marked, and `--help-all` explains them.

    Args:
        examples: command lines that work, which the help shows last.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **options: Any) -> None:
        options = {"formatter_class": Screen, "add_help": False, **options}
        super().__init__(*args, **options)
        self._positionals.title = "arguments"
        self.examples = tuple(examples)
        if examples:
            self.epilog = "\nexamples:\n" + "\n".join(f"  {example}" for example in examples)
        self.add_argument("--help-all", action=_HelpAll, nargs=0, help=argparse.SUPPRESS)
        self._help = self.add_argument("-h", "--help", action="help", help="show this message")

    def format_help(self) -> str:
        """Return what `--help` prints."""
        if any(map(is_rare, self._actions)):
            self._help.help = "show this message; --help-all explains every option"
        return super().format_help()


class Screen(argparse.HelpFormatter):
    """Formats help in short: rare options are named in one paragraph after the others of their group."""

    def __init__(self, prog: str, *, everything: bool = False, **options: Any) -> None:
        width = min(WIDEST, shutil.get_terminal_size().columns) - 2
        super().__init__(prog, **{"width": width, "max_help_position": 26, **options})
        self._everything = everything

    def add_arguments(self, actions: Iterable[argparse.Action]) -> None:
        """Add the options of a group."""
        actions = list(actions)
        hidden = [] if self._everything else [action for action in actions if is_rare(action)]
        super().add_arguments([action for action in actions if action not in hidden])
        if hidden:
            self._add_item(self._named, [hidden])

    def _named(self, actions: Sequence[argparse.Action]) -> str:
        names = ", ".join(action.option_strings[-1].translate(_UNBROKEN) for action in actions)
        indent = " " * self._current_indent
        text = super()._fill_text(f"also {names}", self._width, indent)
        return text.translate(_BROKEN) + "\n"

    class _Section(argparse.HelpFormatter._Section):
        """A group of options, without the blank lines around it."""

        def format_help(self) -> str:
            text = super().format_help()
            return text if self.parent is None or not text else text.strip("\n") + "\n"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Wrap a text, unless it has lines of its own, as examples do."""
        return text if "\n" in text else super()._fill_text(text, width, indent)


class _HelpAll(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        parser.formatter_class = partial(Screen, everything=True)
        parser.print_help()
        parser.exit()


def value_of(args: argparse.Namespace, flag: str) -> Any:
    """Return the value of an option, named as it is written: "--max-n"."""
    return getattr(args, flag.removeprefix("--").replace("-", "_"))


def rare(action: argparse.Action) -> argparse.Action:
    """Mark an option as one that `--help` only names."""
    action.rare = True  # type: ignore[attr-defined]
    return action


def is_rare(action: argparse.Action) -> bool:
    """Return whether `--help` only names an option."""
    return getattr(action, "rare", False)
