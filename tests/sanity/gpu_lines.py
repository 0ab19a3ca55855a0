"""The rule by which lines that only a GPU takes are found in the package.

Such are the branches of a condition on the device, and whole modules and classes that are for a device alone. Planner,
parity and arguments only speak about devices: their lines run on a CPU.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PLAIN = ("planner", "parity", "arguments", "commands/plan.py", "trainers", "fields.py")
"""Not looked at."""
WHOLE = ("device/determinism.py", "ops/device_kernels.py", "generation/cuda/paddle_device.py", "DeviceGauge")
"""Modules and classes that are for a device alone."""
ON = re.compile(r"is_gpu_place\(\)|device_kernels\.has_\w+\(|on_device\b|== 'gpu'|!= 'cpu'|startswith\('gpu'\)")
"""A condition that holds on a GPU only."""
OFF = re.compile(
    r"== 'cpu'|is_gloo|_pairs is not None|isinstance\(host, np|not paddle\.device\.is_compiled_with_cuda\(\)"
)
"""A condition that holds on a CPU only."""

Lines = Counter[tuple[str, str]]
"""(file below the package, function) and the number of its lines."""


def find_gpu_lines(package: Path) -> Lines:
    """Return the lines of the package that only a GPU takes."""
    found: Lines = Counter()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if not name.startswith(PLAIN):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for function, lines in _functions(tree.body, "", whole=name in WHOLE):
                found[name, function] += len(lines)
    return +found


def _functions(body: list[ast.stmt], place: str, *, whole: bool) -> Iterator[tuple[str, set[int]]]:
    """Yield (qualified name, GPU-only lines) of every function in ``body``."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _functions(node.body, f"{node.name}.", whole=whole or node.name in WHOLE)
        elif isinstance(node, ast.FunctionDef):
            yield place + node.name, _lines(_without_docstring(node)) if whole else _branches(node)


def _without_docstring(node: ast.FunctionDef) -> list[ast.stmt]:
    return node.body[1:] if ast.get_docstring(node) is not None else node.body


def _lines(nodes: list[ast.stmt] | list[ast.expr]) -> set[int]:
    return {line for node in nodes for line in range(node.lineno, node.end_lineno + 1)}


def _branches(function: ast.FunctionDef) -> set[int]:
    """Return the lines of the branches that a GPU takes; where a CPU's branch returns, all that follows."""
    lines: set[int] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.IfExp):
            test = ast.unparse(node.test)
            lines |= _lines([node.body] if ON.search(test) else [node.orelse] if OFF.search(test) else [])
        for block in (getattr(node, name, None) for name in ("body", "orelse")):
            if isinstance(block, list):
                lines |= _lines_of_block(block)
    return lines


def _lines_of_block(block: list[ast.stmt]) -> set[int]:
    lines: set[int] = set()
    for index, node in enumerate(block):
        if isinstance(node, ast.If):
            test, leaves = ast.unparse(node.test), isinstance(node.body[-1], (ast.Return, ast.Raise))
            if ON.search(test):
                lines |= _lines(node.body)
            elif OFF.search(test):
                lines |= _lines(node.orelse) | (_lines(block[index + 1 :]) if leaves else set())
    return lines
