"""A tokenizer's chat template: Jinja in a sandbox, because templates come from model folders and are foreign code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from jinja2 import Template, TemplateError, TemplateSyntaxError

from alignment.errors import DataError, ModelFolderError
from alignment.models.tokenizer.template_sandbox import BoundedEnvironment

_REFUSALS = (
    TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError,
    SyntaxError,
)  # fmt: skip
"""What a template may raise: its own refusal, a mistake in it, or a limit."""


class ChatTemplate:
    """One template, compiled at its first use."""

    def __init__(self, source: str, *, place: str) -> None:
        """``place`` names the folder in messages."""
        self.source = source
        self._place = place

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        special_tokens: Mapping[str, str],
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """Return the text of a conversation; DataError where the template refuses it.

        ``tools`` are JSON schemas, passed as they are.
        """
        try:
            template = self._compiled
            self._environment.start_clock()
            return template.render(
                messages=list(messages),
                tools=list(tools) if tools else None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **special_tokens,
            )
        except ModelFolderError:
            raise
        except _REFUSALS as error:
            raise DataError(f"the chat template of {self._place} refuses {messages!r:.300}: {error}") from error

    @cached_property
    def _environment(self) -> BoundedEnvironment:
        functions = {"raise_exception": raise_exception, "strftime_now": format_now}
        return BoundedEnvironment(functions=functions, filters={"tojson": write_json})

    @cached_property
    def _compiled(self) -> Template:
        self._environment.start_clock()
        try:
            return self._environment.from_string(self.source)
        except TemplateSyntaxError as error:
            raise ModelFolderError(
                f"{self._place}: line {error.lineno} of the chat template is not Jinja: {error}"
            ) from error
        except _REFUSALS as error:
            raise ModelFolderError(f"{self._place}: the chat template cannot be compiled: {error}") from error


def write_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON without the HTML escapes of Jinja's own filter; templates pass the options by position too."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message: str) -> None:
    """Let a template refuse a conversation."""
    raise TemplateError(message)


def format_now(pattern: str) -> str:
    """Return the local time by a ``strftime`` pattern."""
    return datetime.now().strftime(pattern)
