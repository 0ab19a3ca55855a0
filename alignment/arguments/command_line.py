"""Command lines of the commands: errors are one message, and numbers have ranges."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from alignment.arguments.coerce import coerce
from alignment.errors import ArgumentError
from alignment.fields import Constraint


class DefaultsShown(argparse.HelpFormatter):
    """Adds the default of every option to its help, unless that mentions it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        said, default = action.help or "", action.default
        is_switch = default is None or isinstance(default, bool) or default in ("", argparse.SUPPRESS)
        is_said = not action.option_strings or "default" in said
        return action.help if is_switch or is_said else f"{said} (default %(default)s)"


class ToolParser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that raises ArgumentError instead of exiting, and whose help shows defaults."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": DefaultsShown, **options})
        self.description = (self.description or "").replace("``", "")

    def error(self, message: str) -> NoReturn:
        """Raise ArgumentError with ``message`` and a pointer to the help."""
        raise ArgumentError(f"{message} ({self.prog} --help lists the options)")


def number(kind: type, **limits: Any) -> Callable[[str], Any]:
    """Return a parser of finite numbers of ``kind`` (``int`` or ``float``) within ``limits`` (see ``Constraint``)."""
    constraint = Constraint(**limits)

    def parse(text: str) -> Any:
        try:
            return coerce(text, kind, constraint)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def numbers(kind: type, **limits: Any) -> Callable[[str], list[Any]]:
    """Return a parser of numbers separated by commas; see ``number``."""
    one = number(kind, **limits)

    def parse(text: str) -> list[Any]:
        found = [one(part) for part in text.split(",")]
        if len(set(found)) < len(found):
            raise argparse.ArgumentTypeError(f"expected different numbers, got {text!r}")
        return found

    return parse
