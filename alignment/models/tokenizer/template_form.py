"""Cache what a chat template writes around the texts it copies, so that it need not run for every conversation.

Most templates look only at roles and write texts unchanged or stripped. For conversations of one shape (the roles, and
whether an answer is to follow) such a template always writes the same constants around the texts: a form. To prove
that, the template runs once on stand-ins (``stand_in.py``), which detect everything that depends on the content of a
text, without the parts of Jinja that turn output into a value again or read the time or random numbers. A template for
which the proof fails runs every time.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, wraps
from typing import Any, NamedTuple, NoReturn

from jinja2 import Environment, Template, Undefined, nodes
from jinja2.nodes import EvalContext
from jinja2.runtime import Context
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from alignment.errors import DataError
from alignment.models.tokenizer.stand_in import LookRecord, SeenError, StandIn, Strip, TextSlot, may_hold, parts_of
from alignment.models.tokenizer.template_sandbox import REFUSALS, BoundedEnvironment, checked

USES = 8
"""The number of conversations of one shape after which its form is looked for."""
MOST_SHAPES = 1000
LONGEST_TEXTS = 100_000
"""Characters of all texts of a conversation; beyond that the template runs, under its own size limits."""
Messages = Sequence[Mapping[str, Any]]
Shape = tuple[Any, ...]

_EXPRESSIONS = (
    nodes.Const, nodes.TemplateData, nodes.Name, nodes.NSRef, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.List,
    nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Keyword, nodes.Compare, nodes.Operand, nodes.BinExpr, nodes.UnaryExpr,
    nodes.Concat, nodes.CondExpr, nodes.Filter, nodes.Test, nodes.Call,
)  # fmt: skip
_STATEMENTS = (nodes.Output, nodes.For, nodes.If, nodes.Assign, nodes.ExprStmt, nodes.Break, nodes.Continue)
_HARMLESS = (Context, EvalContext, Environment, Undefined)
_FILTERS = frozenset(["default", "d", "string", "trim", "length", "count", "first", "last", "list", "reverse"])
"""Filters that pass texts on or use them in ways a stand-in detects; others might swallow its error."""
_TESTS = frozenset(
    ["defined", "undefined", "none", "string", "mapping", "number", "boolean", "true", "false", "integer", "float"]
    + ["in", "eq", "equalto", "==", "ne", "!=", "iterable", "sequence"]
)
_PLAIN = (("role", "content"), ("content", "role"))
"""The keys of plain-text messages, in both orders: a template may see the order."""
_SENTINELS = ("", "x", " \n <b>'A'</b> &amp; %s {0} {{ y }} </think> [INST] \u00e4\u3000\t")
"""Texts that are both filled in and rendered, to catch a hole in the proof."""


class Form(NamedTuple):
    """What a template writes for conversations of one shape."""

    parts: tuple[str, ...]
    """Constants at even indices; at odd ones, empty strings to be replaced by texts."""
    slots: tuple[TextSlot, ...]
    """The text for each odd index."""

    def fill(self, texts: Sequence[str]) -> str:
        """Return the rendering of ``texts``, one per message."""
        parts = list(self.parts)
        parts[1::2] = [getattr(texts[n], method)() if method else texts[n] for n, method in self.slots]
        return "".join(parts)


class Forms:
    """The forms of one template."""

    def __init__(
        self, source: str, values: Mapping[str, Any], render: Callable[[Messages, bool], str], **names: Any
    ) -> None:
        """``values`` are passed to the template beside the messages; ``render`` runs it.

        ``names`` are the arguments of ``BoundedEnvironment``.
        """
        self._source, self._values, self._render, self._names = source, values, render, names
        self._uses: Counter[Shape] = Counter()
        self._known: dict[Shape, Form | None] = {}
        self._lock = threading.Lock()

    def write(self, messages: Messages, prompt: bool) -> str | None:
        """Return the text of a conversation; None if the template must run."""
        shape, texts = _shape_of(messages, prompt)
        if shape is None:
            return None
        if shape not in self._known:
            self._count(shape, messages, prompt)
        form = self._known.get(shape)
        return None if form is None or sum(map(len, texts)) > LONGEST_TEXTS else form.fill(texts)

    def _count(self, shape: Shape, messages: Messages, prompt: bool) -> None:
        if shape in self._uses or len(self._uses) < MOST_SHAPES:
            self._uses[shape] += 1
            if self._uses[shape] >= USES:
                with self._lock:
                    self._known[shape] = self._find(messages, prompt)

    def _find(self, messages: Messages, prompt: bool) -> Form | None:
        if self._template is None:
            return None
        environment: FormEnvironment = self._template.environment
        environment.start_clock()
        environment.watch = LookRecord()
        given = [
            {**message, "content": StandIn((TextSlot(number),), environment.watch)}
            for number, message in enumerate(messages)
        ]
        try:
            written = self._template.render(messages=given, add_generation_prompt=prompt, **self._values)
        except REFUSALS:
            return None
        form = environment.read_form(written)
        return form if not environment.watch.seen and self._is_right(form, messages, prompt) else None

    def _is_right(self, form: Form, messages: Messages, prompt: bool) -> bool:
        for turn in range(len(_SENTINELS)):
            texts = [_SENTINELS[(turn + n) % len(_SENTINELS)] + str(n) * turn for n in range(len(messages))]
            filled = [{**message, "content": text} for message, text in zip(messages, texts, strict=True)]
            try:
                if self._render(filled, prompt) != form.fill(texts):
                    return False
            except DataError:
                return False
        return True

    @cached_property
    def _template(self) -> Template | None:
        environment = FormEnvironment(**self._names)
        environment.start_clock()
        try:
            return environment.from_string(self._source)
        except REFUSALS:
            return None


class FormEnvironment(BoundedEnvironment):
    """The sandbox without what could hide a use of a text's content; SeenError is raised when a template uses it."""

    def __init__(self, *, functions: Mapping[str, Callable], filters: Mapping[str, Callable]) -> None:
        super().__init__(functions=functions, filters=filters)
        self.watch = LookRecord()
        self._mark = secrets.token_hex(8)
        self._join_name = f"__join_{self._mark}"
        self.globals[self._join_name] = self._join
        self.finalize = self._write
        self.filters = {name: f if name in _FILTERS else self._guarded(f) for name, f in self.filters.items()}
        self.tests = {name: f if name in _TESTS else self._guarded(f) for name, f in self.tests.items()}
        self.filters["random"] = self.tests["sameas"] = self._refuse

    def call(__self, __context: Context, __function: Any, *args: Any, **keywords: Any) -> Any:  # noqa: N805 - as Jinja
        """Call a function for a template; texts are passed only to functions known to leave them alone."""
        passes = type(__function) is Strip or __function in (checked, __self._join, Namespace)
        if not passes and may_hold((args, keywords), _HARMLESS):
            __self.watch.notice()
        return super().call(__context, __function, *args, **keywords)

    def read_form(self, written: str) -> Form:
        """Return the form of a rendering in which marks stand for the texts."""
        pieces = re.split(f"\ue000{self._mark}:([0-9]+):([a-z]*)\ue001", written)
        slots = tuple(TextSlot(int(n), method) for n, method in zip(pieces[1::3], pieces[2::3], strict=True))
        constants = pieces[::3]
        parts = [""] * (2 * len(constants) - 1)
        parts[::2] = constants
        return Form(tuple(parts), slots)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for node in tree.find_all(nodes.Node):
            if not isinstance(node, (*_EXPRESSIONS, *_STATEMENTS)) or getattr(node, "recursive", False):
                raise SeenError(f"{type(node).__name__} may turn output into a value")
            if isinstance(node, nodes.Name) and node.name == "strftime_now":
                raise SeenError("the time changes")
        tree = _JoinByName(self._join_name).visit(tree)
        tree.set_environment(self)
        return tree

    def _refuse(self, *_: Any) -> NoReturn:
        """Replace what differs each time: a random choice, or whether equal texts are one object."""
        self.watch.notice()

    def _guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def guarded(*args: Any, **keywords: Any) -> Any:
            if may_hold((args, keywords), _HARMLESS):
                self.watch.notice()
            return function(*args, **keywords)

        return guarded

    def _write(self, value: Any) -> Any:
        """Return the output for a value; for a text, its marks."""
        if type(value) is not StandIn:
            return value
        return "".join(
            f"\ue000{self._mark}:{part.number}:{part.method}\ue001" if isinstance(part, TextSlot) else part
            for part in parts_of(value)
        )

    def _join(self, *values: Any) -> StandIn | str:
        """Do what ``~`` does, for stand-ins too."""
        joined: StandIn | str = ""
        for value in values:
            joined = joined + (value if type(value) is StandIn else str(value))
        return joined


class _JoinByName(NodeTransformer):
    """Replaces ``~`` by a call, because Jinja's own would join the output for each value."""

    def __init__(self, name: str) -> None:
        self._name = name

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - Jinja's name of the node
        """Return the call."""
        node = self.generic_visit(node)
        return nodes.Call(nodes.Name(self._name, "load"), node.nodes, [], None, None)


def _shape_of(messages: Messages, prompt: bool) -> tuple[Shape | None, list[str]]:
    """Return the shape of a conversation and its texts; shape None if its messages hold more than plain texts."""
    shape, texts = [prompt], []
    for message in messages:
        if type(message) is not dict or (keys := tuple(message)) not in _PLAIN:
            return None, []
        role, text = message["role"], message["content"]
        if type(role) is not str or type(text) is not str:
            return None, []
        shape += keys[0], role
        texts.append(text)
    return tuple(shape), texts
