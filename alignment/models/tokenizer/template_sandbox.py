"""Sandbox for untrusted Jinja: no access to the machine, and limits on time and sizes.

The limits are checked inside the template, so they hold in every thread and process: each loop iteration and each call
of a macro, function or filter checks the clock, and the result of a single operation is limited in size.
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
"""What a template may raise: its own refusal, a bug in it, or a limit."""
LONGEST_RENDERING = 10.0
"""Seconds of CPU time of one thread for one conversation."""
LARGEST_TEXT = 16_000_000
"""Characters of a text, or items of a list, that one operation may produce."""
LARGEST_POWER = 4096
"""Bits of the result of ``**``."""
_SMALL = frozenset(
    ["trim", "default", "d", "length", "count", "string", "upper", "lower", "first", "last", "int", "float", "tojson"]
)
"""Filters whose time and output are bounded by their input."""
_SIZED = (str, list, tuple, bytes)
_TICK, _CHECK = "__tick", "__checked"
_WIDTH = re.compile(r"\d{7}")


class GenerationTag(Extension):
    """``{% generation %}``, which marks what the assistant writes; its body is rendered unchanged."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the body of the tag."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with limits; SecurityError is raised at a limit."""

    intercepted_binops = frozenset(["*", "**", "%"])

    def __init__(self, *, functions: Mapping[str, Callable], filters: Mapping[str, Callable]) -> None:
        """``functions`` and ``filters`` are added to Jinja's, by name."""
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, "jinja2.ext.loopcontrols"])
        self._clock = threading.local()
        self.globals.pop("lipsum")
        self.globals |= {_TICK: _say_nothing, _CHECK: checked, **functions}
        every = {**self.filters, **filters}
        self.filters = {name: f if name in _SMALL else self._watched(f) for name, f in every.items()}
        self.filters[_CHECK] = checked
        self.filters["format"] = self._watched(_format)

    def start_clock(self) -> None:
        """Start the time limit of compiling or rendering in this thread."""
        self._clock.earliest = time.monotonic() + LONGEST_RENDERING
        self._clock.end = None

    def call(__self, __context: Context, __function: Any, *args: Any, **keywords: Any) -> Any:  # noqa: N805 - as Jinja
        """Call a function for a template; every loop iteration makes such a call."""
        __self._look()
        for value in args:
            checked(value)
        owner = getattr(__function, "__self__", None)
        if isinstance(owner, str):
            _check_numbers(args, keywords, owner)
        return checked(super().call(__context, __function, *args, **keywords))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute an operation after checking the size of its result."""
        _check_operands(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def _look(self) -> None:
        if time.monotonic() < self._clock.earliest:
            return
        # Reading the thread's CPU time is slow, so it starts only when the same wall time has passed.
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
        """Return the tree with a call at the head of every loop and macro, and a check around every assignment."""
        tree = super()._parse(source, name, filename)
        for node in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
            node.body.insert(0, nodes.ExprStmt(_call(_TICK)))
        tree = _CheckAssigned().visit(tree)
        tree.set_environment(self)
        return tree


class _CheckAssigned(NodeTransformer):
    """Wraps assigned values in a check: only there can sums and joined texts grow from iteration to iteration."""

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
    """Apply Jinja's ``format`` filter after the check of ``%``."""
    _check_operands("%", str(value), args)
    return do_format(value, *args, **keywords)


def checked(value: Any) -> Any:
    """Return ``value`` if it is not too large."""
    if issubclass(type(value), _SIZED) and len(value) > LARGEST_TEXT:
        raise SecurityError(f"it makes a text or list of {len(value)} (allowed: {LARGEST_TEXT})")
    return value


def _check_numbers(args: Sequence[Any], keywords: Mapping[str, Any], pattern: str = "") -> None:
    """Refuse huge widths and counts among the arguments; ``pattern`` is the string that ``str.format`` fills."""
    if any(isinstance(value, int) and value > LARGEST_TEXT for value in (*args, *keywords.values())):
        raise SecurityError(f"it asks for more than {LARGEST_TEXT} of something")
    if _WIDTH.search(pattern) and "{" in pattern:
        raise SecurityError(f"it formats a number to a width beyond {LARGEST_TEXT}")


def _check_operands(operator: str, left: Any, right: Any) -> None:
    """Refuse an operation whose result would be too large."""
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
