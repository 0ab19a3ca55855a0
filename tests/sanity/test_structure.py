"""Sizes, docstrings and names. An exception stands in allow.json as "path" or "path::function": "reason"."""

from __future__ import annotations

import ast
import io
import json
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 50
MAX_PARAMETERS = 7
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "misc", "common"}
TEXT_SUFFIXES = {".py", ".toml", ".sh", ".md", ".jinja", ".in", ".cfg", ".yaml", ".yml", ".cc", ".cu", ".h"}
NOT_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
    tokenize.ENCODING,
}  # fmt: skip

Function = ast.FunctionDef | ast.AsyncFunctionDef


@pytest.fixture(scope="module")
def allowed(repo_root: Path) -> dict[str, str]:
    """Exceptions and their reasons."""
    return json.loads((repo_root / "tests" / "sanity" / "allow.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def trees(repo_root: Path, repo_files: list[Path]) -> dict[Path, ast.Module]:
    """Every Python file of the repository, parsed with the grammar of the oldest supported version."""
    return {
        path: ast.parse((repo_root / path).read_text(encoding="utf-8"), filename=str(path), feature_version=(3, 10))
        for path in repo_files
        if path.suffix == ".py"
    }


def code_lines(source: str, tree: ast.AST) -> set[int]:
    """Return the numbers of the lines that hold code: no blank lines, comments or docstrings."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NOT_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return lines


def functions(tree: ast.Module) -> Iterator[Function]:
    """Yield every function and method."""
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def parameters(function: Function) -> list[str]:
    """Return the names of all parameters but self and cls."""
    spec = function.args
    every = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, *filter(None, (spec.vararg, spec.kwarg))]
    return [argument.arg for argument in every if argument.arg not in ("self", "cls")]


def size_problems(path: Path, source: str, tree: ast.Module) -> dict[str, str]:
    """Return what is too large in a file, by allow-list key."""
    lines = code_lines(source, tree)
    problems = {}
    if len(lines) > MAX_FILE_LINES:
        problems[f"{path}"] = f"{len(lines)} code lines (at most {MAX_FILE_LINES})"
    for function in functions(tree):
        key = f"{path}::{function.name}"
        size = len(lines & set(range(function.lineno, function.end_lineno + 1)))
        if size > MAX_FUNCTION_LINES:
            problems[key] = f"{size} code lines (at most {MAX_FUNCTION_LINES})"
        if len(parameters(function)) > MAX_PARAMETERS:
            problems[key] = f"{len(parameters(function))} parameters (at most {MAX_PARAMETERS})"
    return problems


def test_sizes(repo_root, trees, allowed):
    problems: dict[str, str] = {}
    for path, tree in trees.items():
        problems |= size_problems(path, (repo_root / path).read_text(encoding="utf-8"), tree)
    assert {key: text for key, text in problems.items() if key not in allowed} == {}
    assert set(allowed) - set(problems) == set(), "these need no exception any more: remove them from allow.json"
    assert all(len(reason) > 20 for reason in allowed.values()), "an exception carries its reason"


def test_size_rules_count_code_only():
    source = '"""Doc.\n\nMore.\n"""\n\n# why\ndef f(\n    a,\n    b,\n):\n    """Doc."""\n    return """x\ny"""\n'
    assert sorted(code_lines(source, ast.parse(source))) == [7, 8, 9, 10, 12, 13]
    long = "def f(a, b, c, d, e, f, g, *, h):\n" + "    a = 1\n" * 50
    assert size_problems(Path("x.py"), long, ast.parse(long)) == {"x.py::f": "8 parameters (at most 7)"}
    long = "def f():\n" + "    a = 1\n" * 50
    assert size_problems(Path("x.py"), long, ast.parse(long)) == {"x.py::f": "51 code lines (at most 50)"}


def test_every_module_class_and_public_function_has_a_docstring(trees):
    missing = []
    for path, tree in trees.items():
        if not ast.get_docstring(tree):
            missing.append(str(path))
        if path.parts[0] == "alignment":
            documented = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
            public = [node for node in tree.body if isinstance(node, documented) and not node.name.startswith("_")]
            missing += [f"{path}::{node.name}" for node in public if not ast.get_docstring(node)]
    assert missing == []


def class_names(trees: dict[Path, ast.Module]) -> dict[str, list[str]]:
    """Return every class name with the modules that define it."""
    found: dict[str, list[str]] = {}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(str(path))
    return found


def test_a_class_name_stands_for_one_thing(trees):
    package = {path: tree for path, tree in trees.items() if path.parts[0] == "alignment"}
    assert {name: paths for name, paths in class_names(package).items() if len(paths) > 1} == {}


def test_the_rule_on_class_names_sees_private_and_inner_ones():
    one, two = ast.parse("class _A:\n    class B: ...\n"), ast.parse("def f():\n    class B: ...\nclass _A: ...\n")
    found = class_names({Path("one.py"): one, Path("two.py"): two})
    assert found == {"_A": ["one.py", "two.py"], "B": ["one.py", "two.py"]}


def test_names_say_what_a_module_is_for(package_modules):
    names = {part.removesuffix(".py") for path in package_modules for part in path.parts}
    assert names & FORBIDDEN_NAMES == set()


def test_no_entry_module_hides_a_standard_one(package_modules):
    # Running a script puts its own folder first on sys.path.
    entry_folders = {path.parent for path in package_modules if path.name.startswith("run_")}
    hidden = [p for p in package_modules if p.parent in entry_folders and p.stem in sys.stdlib_module_names]
    assert hidden == []


def test_the_environment_is_read_in_device_and_parallel_only(trees):
    # Where a build is kept and which compiler makes it is for the machine's owner to say, before any run.
    kernel_build = Path("alignment/ops/native/build.py")
    readers = []
    for path, tree in trees.items():
        if path.parts[0] != "alignment" or path.parts[1] in ("device", "parallel") or path == kernel_build:
            continue
        for node in ast.walk(tree):
            is_read = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
            is_import = isinstance(node, ast.ImportFrom) and node.module == "os"
            names = {node.attr} if is_read else {alias.name for alias in node.names} if is_import else set()
            if names & {"environ", "getenv", "putenv", "environb"}:
                readers.append(f"{path}:{node.lineno}")
    assert readers == []


def test_ascii_only(repo_root, repo_files):
    texts = [path for path in repo_files if path.suffix in TEXT_SUFFIXES or path.name == "Makefile"]
    found = []
    for path in texts:
        for number, line in enumerate((repo_root / path).read_text(encoding="utf-8").splitlines(), 1):
            if not line.isascii():
                found.append(f"{path}:{number}")
    assert texts
    assert found == []


def test_licence(repo_root):
    text = (repo_root / "LICENSE").read_text(encoding="ascii")
    assert "Apache License" in text
    assert "9. Accepting Warranty or Additional Liability." in text
    assert 'license="Apache-2.0"' in (repo_root / "setup.py").read_text(encoding="utf-8")
