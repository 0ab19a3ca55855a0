"""Render chat templates: Jinja in a sandbox, because the templates of model folders are untrusted code."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from jinja2 import Template, TemplateError, TemplateSyntaxError

from alignment.errors import DataError, ModelFolderError
from alignment.models.tokenizer.template_form import Forms
from alignment.models.tokenizer.template_sandbox import REFUSALS, BoundedEnvironment


class ChatTemplate:
    """One template, compiled at first use; if it only copies texts, its output is soon assembled without running it."""

    def __init__(self, source: str, *, place: str, special_tokens: Mapping[str, str]) -> None:
        """``place`` names the folder in messages; ``special_tokens`` are passed to the template by name."""
        self.source = source
        self._place = place
        self._values = {"tools": None, "documents": None, **special_tokens}
        self._forms = Forms(source, self._values, self._run, **_LANGUAGE)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """Return the text of a conversation; DataError if the template refuses it. ``tools`` are JSON schemas."""
        known = None if tools else self._forms.write(messages, add_generation_prompt)
        return self._run(messages, add_generation_prompt, tools) if known is None else known

    def _run(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        try:
            template = self._compiled
            self._environment.start_clock()
            given = {**self._values, "tools": list(tools)} if tools else self._values
            return template.render(messages=list(messages), add_generation_prompt=add_generation_prompt, **given)
        except ModelFolderError:
            raise
        except REFUSALS as error:
            raise DataError(f"the chat template of {self._place} refuses {messages!r:.300}: {error}") from error

    @cached_property
    def _environment(self) -> BoundedEnvironment:
        return BoundedEnvironment(**_LANGUAGE)

    @cached_property
    def _compiled(self) -> Template:
        self._environment.start_clock()
        try:
            return self._environment.from_string(self.source)
        except TemplateSyntaxError as error:
            raise ModelFolderError(
                f"{self._place}: line {error.lineno} of the chat template is not Jinja: {error}"
            ) from error
        except REFUSALS as error:
            raise ModelFolderError(f"{self._place}: the chat template cannot be compiled: {error}") from error


def write_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON without the HTML escapes of Jinja's own filter; templates may pass options by position."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message: str) -> None:
    """Let a template refuse a conversation."""
    raise TemplateError(message)


def format_now(pattern: str) -> str:
    """Return the local time formatted by a ``strftime`` pattern."""
    return datetime.now().strftime(pattern)


_LANGUAGE: Mapping[str, Mapping[str, Callable]] = {
    "functions": {"raise_exception": raise_exception, "strftime_now": format_now},
    "filters": {"tojson": write_json},
}
"""Functions and filters for templates beyond Jinja's own."""
