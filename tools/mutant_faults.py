"""Single faults of a Python file: comparisons, arithmetic, constants, conditions, calls, arguments, defaults.

Left alone is what only a reader sees or a programmer checks: docstrings, annotations, decorators, texts, what is
raised or logged, and asserts. A fault is one replaced piece of the text, so that it can be shown and found again.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
}  # fmt: skip
OTHER_CALLS = {
    "min": "max", "max": "min", "any": "all", "all": "any", "math.ceil": "math.floor", "math.floor": "math.ceil",
    "sorted": "", "sum": "max", "abs": "", "round": "", "np.abs": "", "np.exp": "", "np.log": "", "math.exp": "",
    "math.sqrt": "", "np.minimum": "np.maximum", "np.maximum": "np.minimum", "reversed": "", "np.isfinite": "np.isnan",
    "zip": "", "np.zeros": "np.ones", "np.ones": "np.zeros", "np.full": "",
}  # fmt: skip
"""Functions that hand on another value: the one that takes their place, or nothing where they are left out."""
LONGEST = 60
"""Characters of a piece that is shown whole."""
AROUND = 24
TEXTUAL = (ast.Constant, ast.JoinedStr, ast.List, ast.Tuple)


@dataclass(frozen=True)
class Fault:
    """One replaced piece of a file."""

    path: str
    scope: str
    """The class and function it is in, joined by dots; empty at module level."""
    operator: str
    line: int
    start: int
    """Place of the first character that is replaced."""
    end: int
    before: str
    after: str
    is_outside: bool
    """Whether it is in no function, so that it runs when the file is imported."""
    number: int = 0
    """How many equal ones come before it in its scope."""

    @property
    def name(self) -> str:
        """What it is called in the table: it does not change when lines above it do."""
        place = f"{self.path}::{self.scope}" if self.scope else self.path
        again = f" #{self.number + 1}" if self.number else ""
        return f"{place} {self.operator}: {_difference(self.before, self.after)}{again}"

    def apply(self, text: str) -> str:
        """Return the file with the fault in it."""
        assert text[self.start : self.end] == self.before
        return text[: self.start] + self.after + text[self.end :]


def find_faults(path: str, text: str) -> list[Fault]:
    """Return every fault of ``text`` in the order of the file."""
    assert text.isascii(), path
    finder = _Finder(path, text)
    finder.walk(ast.parse(text), scope="", is_outside=True)
    counts: dict[tuple[str, ...], int] = {}
    faults = []
    for fault in sorted(finder.found, key=lambda f: (f.start, f.end, f.operator, f.after)):
        key = (fault.scope, fault.operator, _difference(fault.before, fault.after))
        numbered = Fault(**{**vars(fault), "number": counts.get(key, 0)})
        counts[key] = counts.get(key, 0) + 1
        faults.append(numbered)
    return faults


class _Finder:
    """Walks a tree and notes the faults of each node."""

    def __init__(self, path: str, text: str) -> None:
        self.found: list[Fault] = []
        self._path, self._text = path, text
        self._starts = [0]
        for line in text.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def walk(self, node: ast.AST, *, scope: str, is_outside: bool) -> None:
        """Note the faults of ``node`` and of everything below it that is looked at."""
        if _is_left_alone(node):
            return
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            scope = f"{scope}.{node.name}".lstrip(".")
            is_outside = is_outside and isinstance(node, ast.ClassDef)
        for operator, target, after in _faults_of(node):
            self._note(operator, target, after, scope, is_outside)
        for child in _children(node):
            self.walk(child, scope=scope, is_outside=is_outside)

    def _note(self, operator: str, target: ast.AST, after: str, scope: str, is_outside: bool) -> None:
        start = self._starts[target.lineno - 1] + target.col_offset
        end = self._starts[target.end_lineno - 1] + target.end_col_offset
        before = self._text[start:end]
        if before != after:
            place = (target.lineno, start, end)
            self.found.append(Fault(self._path, scope, operator, *place, before, after, is_outside))


def _is_left_alone(node: ast.AST) -> bool:
    if isinstance(node, (ast.JoinedStr, ast.Raise, ast.Assert, ast.Import, ast.ImportFrom)):
        return True
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return True
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        return name.startswith("log.") or name.endswith(("Error", "TypeVar"))
    return False


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what is below ``node``, without annotations and decorators; defaults are handled with their function."""
    skipped = {"annotation", "returns", "decorator_list", "type_comment", "slice" if _is_type(node) else ""}
    for name, value in ast.iter_fields(node):
        if name not in skipped:
            yield from (item for item in (value if isinstance(value, list) else [value]) if isinstance(item, ast.AST))


def _is_type(node: ast.AST) -> bool:
    return isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("Literal", "tuple", "dict", "list")


def _faults_of(node: ast.AST) -> Iterator[tuple[str, ast.AST, str]]:
    """Yield (operator, node that is replaced, new text)."""
    yield from _of_operators(node)
    yield from _of_conditions(node)
    if isinstance(node, ast.Constant):
        yield from (("constant", node, repr(value)) for value in _other_constants(node.value))
    if isinstance(node, ast.Call):
        yield from _of_calls(node)
    is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and not _is_left_alone(node.value)
    if is_call or isinstance(node, ast.AugAssign):
        yield "removed statement", node, "pass"


def _of_operators(node: ast.AST) -> Iterator[tuple[str, ast.AST, str]]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield "comparison", node, _changed(node, ops=[COMPARISONS[type(node.ops[0])]()])
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC and not _is_text(node):
        yield "arithmetic", node, _changed(node, op=ARITHMETIC[type(node.op)]())
    if isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC and not isinstance(node.value, TEXTUAL[1:]):
        yield "arithmetic", node, ast.unparse(_with(node, op=ARITHMETIC[type(node.op)]()))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        yield "sign" if isinstance(node.op, ast.USub) else "condition", node, f"({ast.unparse(node.operand)})"
    if isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "and/or", node, _changed(node, op=other)


def _of_conditions(node: ast.AST) -> Iterator[tuple[str, ast.AST, str]]:
    tests = list(getattr(node, "ifs", []))
    if isinstance(node, (ast.If, ast.While, ast.IfExp)):
        tests.append(node.test)
    for test in tests:
        if not (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)) and not isinstance(test, ast.Compare):
            yield "condition", test, f"(not ({ast.unparse(test)}))"


def _of_calls(node: ast.Call) -> Iterator[tuple[str, ast.AST, str]]:
    keywords, positional = node.keywords, node.args
    for number, keyword in enumerate(keywords):
        if keyword.arg is not None:
            yield "dropped argument", node, _changed(node, keywords=keywords[:number] + keywords[number + 1 :])
    for number, (first, second) in enumerate(zip(keywords, keywords[1:], strict=False)):
        if first.arg and second.arg:
            pair = [_with(first, value=second.value), _with(second, value=first.value)]
            yield "swapped arguments", node, _changed(node, keywords=keywords[:number] + pair + keywords[number + 2 :])
    for number, (first, second) in enumerate(zip(positional, positional[1:], strict=False)):
        if not isinstance(first, ast.Starred) and not isinstance(second, ast.Starred):
            order = [*positional[:number], second, first, *positional[number + 2 :]]
            yield "swapped arguments", node, _changed(node, args=order)
    other = OTHER_CALLS.get(ast.unparse(node.func))
    if other:
        yield "other function", node, _changed(node, func=ast.parse(other, mode="eval").body)
    elif other == "" and len(positional) == 1 and not isinstance(positional[0], (ast.Starred, ast.GeneratorExp)):
        yield "dropped call", node, f"({ast.unparse(positional[0])})"


def _other_constants(value: object) -> list[object]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1]
    return [value * 2 if value else 1.0] if isinstance(value, float) else []


def _with(node: ast.AST, **fields: object) -> ast.AST:
    other = copy.copy(node)
    vars(other).update(fields)
    return other


def _changed(node: ast.AST, **fields: object) -> str:
    text = ast.unparse(_with(node, **fields))
    return text if isinstance(node, ast.Call) else f"({text})"


def _is_text(node: ast.BinOp) -> bool:
    """Return whether ``node`` joins texts or lists, which have no difference."""
    sides = (node.left, node.right)
    return any(isinstance(side, TEXTUAL[1:]) or isinstance(getattr(side, "value", None), str) for side in sides)


def _difference(before: str, after: str) -> str:
    """Return ``before -> after`` in one line; of long texts only what differs, with some characters around it."""
    old, new = map(_one_line, (before, after))
    if max(len(old), len(new)) > LONGEST:
        first = len(os.path.commonprefix([old, new]))
        last = len(os.path.commonprefix([old[first:][::-1], new[first:][::-1]]))
        first, last = max(0, first - AROUND), max(0, last - AROUND)
        old, new = (f"...{text[first : len(text) - last]}..." for text in (old, new))
    return f"{old} -> {new}"


def _one_line(text: str) -> str:
    with contextlib.suppress(SyntaxError):  # of a statement
        text = ast.unparse(ast.parse(f"({text})", mode="eval"))
    return " ".join(text.split())
