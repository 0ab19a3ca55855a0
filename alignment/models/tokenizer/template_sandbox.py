"""Where foreign Jinja runs: nothing of the machine is reachable, and loops, recursion and sizes have an end.

A template is watched from inside, so the limit holds in every thread and process: each turn of a loop and each call of
a macro, function or filter looks at the clock. What a single operation makes is limited in size.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.filters import do_format
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.visitor import NodeTransformer

REFUSALS = (
    TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError,
    SyntaxError,
)  # fmt: skip
"""What a template may raise: its own refusal, a mistake in it, or a limit."""
LONGEST_RENDERING = 10.0
"""Seconds of one thread's processor time that a template has for one conversation."""
LARGEST_TEXT = 16_000_000
"""Characters of a text, and items of a list, that one operation may make."""
LARGEST_POWER = 4096
"""Bits of a power."""
_SMALL = frozenset(
    ["trim", "default", "d", "length", "count", "string", "upper", "lower", "first", "last", "int", "float", "tojson"]
)
"""Filters that take no longer and make no more than what they are given."""
_SIZED = (str, list, tuple, bytes)
_TICK, _CHECK = "__tick", "__checked"
_WIDTH = re.compile(r"\d{7}")


class GenerationTag(Extension):
    """``{% generation %}`` marks what the assistant writes; the text inside is rendered as it is."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the body of the tag."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with an end to everything; SecurityError is raised at a limit."""

    intercepted_binops = frozenset(["*", "**", "%"])

    def __init__(self, *, functions: Mapping[str, Callable], filters: Mapping[str, Callable]) -> None:
        """``functions`` and ``filters`` come to those of Jinja, by name."""
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, "jinja2.ext.loopcontrols"])
        self._clock = threading.local()
        self.globals.pop("lipsum")
        self.globals |= {_TICK: _say_nothing, _CHECK: checked, **functions}
        every = {**self.filters, **filters}
        self.filters = {name: f if name in _SMALL else self._watched(f) for name, f in every.items()}
        self.filters[_CHECK] = checked
        self.filters["format"] = self._watched(_format)

    def start_clock(self) -> None:
        """Begin to compile or to render in this thread."""
        self._clock.earliest = time.monotonic() + LONGEST_RENDERING
        self._clock.end = None

    def call(__self, __context: Context, __function: Any, *args: Any, **keywords: Any) -> Any:  # noqa: N805 - as Jinja
        """Call a function for a template, as every loop does at its every turn."""
        __self._look()
        for value in args:
            checked(value)
        owner = getattr(__function, "__self__", None)
        if isinstance(owner, str):
            _check_numbers(args, keywords, owner)
        return checked(super().call(__context, __function, *args, **keywords))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute an operation whose result could be of any size."""
        _check_operands(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def _look(self) -> None:
        if time.monotonic() < self._clock.earliest:
            return
        # The thread's own time is dear to ask for: it counts from here on, where a free processor would have ended.
        now = time.thread_time()
        self._clock.end = now + LONGEST_RENDERING if self._clock.end is None else self._clock.end
        if now > self._clock.end:
            raise SecurityError(f"it did not end within {LONGEST_RENDERING:g} s")

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def watched(*args: Any, **keywords: Any) -> Any:
            self._look()
            _check_numbers(args, keywords)
            return checked(function(*args, **keywords))

        return watched

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Return the tree with a call at the head of every loop and macro, and around all that is assigned."""
        tree = super()._parse(source, name, filename)
        for node in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
            node.body.insert(0, nodes.ExprStmt(_call(_TICK)))
        tree = _CheckAssigned().visit(tree)
        tree.set_environment(self)
        return tree


class _CheckAssigned(NodeTransformer):
    """Puts a check around what is assigned: only there can sums and joined texts grow from turn to turn."""

    def visit_Assign(self, node: nodes.Assign) -> nodes.Node:  # noqa: N802 - Jinja's name of the node
        """Return the node with its value checked."""
        node.node = _call(_CHECK, node.node)
        return node

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.Node:  # noqa: N802 - as above
        """Return the node with its text checked."""
        node = self.generic_visit(node)
        node.filter = nodes.Filter(node.filter, _CHECK, [], [], None, None)
        return node


def _call(name: str, *args: nodes.Expr) -> nodes.Call:
    return nodes.Call(nodes.Name(name, "load"), list(args), [], None, None)


def _say_nothing() -> str:
    return ""


def _format(value: Any, *args: Any, **keywords: Any) -> str:
    """Jinja's filter of this name, behind the check of ``%``."""
    _check_operands("%", str(value), args)
    return do_format(value, *args, **keywords)


def checked(value: Any) -> Any:
    """Return ``value`` if it is not too large."""
    if issubclass(type(value), _SIZED) and len(value) > LARGEST_TEXT:
        raise SecurityError(f"it makes a text or list of {len(value)} (allowed: {LARGEST_TEXT})")
    return value


def _check_numbers(args: Sequence[Any], keywords: Mapping[str, Any], pattern: str = "") -> None:
    """Refuse arguments that are widths or counts beyond reason; ``pattern`` is what ``str.format`` fills."""
    if any(isinstance(value, int) and value > LARGEST_TEXT for value in (*args, *keywords.values())):
        raise SecurityError(f"it asks for more than {LARGEST_TEXT} of something")
    if _WIDTH.search(pattern) and "{" in pattern:
        raise SecurityError(f"it formats a number to a width beyond {LARGEST_TEXT}")


def _check_operands(operator: str, left: Any, right: Any) -> None:
    """Refuse an operation before its result is made."""
    size, largest = 0, LARGEST_TEXT
    if operator == "%" and isinstance(left, str):
        size = LARGEST_TEXT + 1 if _WIDTH.search(left) or "*" in left else 0
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        size, largest = left.bit_length() * max(right, 1), LARGEST_POWER
    elif operator == "*" and isinstance(left, _SIZED) != isinstance(right, _SIZED):
        sized, times = (left, right) if isinstance(left, _SIZED) else (right, left)
        size = len(sized) * times if isinstance(times, int) else 0
    if size > largest:
        raise SecurityError(f"{operator} makes something of size {size} (allowed: {largest})")
