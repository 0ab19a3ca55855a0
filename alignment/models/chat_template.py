"""A tokenizer's chat template: Jinja in a sandbox, because templates come from model folders and are foreign code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from jinja2 import Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from alignment.errors import DataError, ModelFolderError


class GenerationTag(Extension):
    """``{% generation %}`` marks what the assistant writes; the text inside is rendered as it is."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the body of the tag."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


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
            return self._compiled.render(
                messages=list(messages),
                tools=list(tools) if tools else None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **special_tokens,
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            if isinstance(error, ModelFolderError):
                raise
            raise DataError(f"the chat template of {self._place} refuses {messages!r:.300}: {error}") from error

    @cached_property
    def _compiled(self) -> Template:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, "jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = write_json
        environment.globals["raise_exception"] = raise_exception
        environment.globals["strftime_now"] = format_now
        try:
            return environment.from_string(self.source)
        except TemplateSyntaxError as error:
            raise ModelFolderError(
                f"{self._place}: line {error.lineno} of the chat template is not Jinja: {error}"
            ) from error


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
