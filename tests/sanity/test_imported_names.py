"""What a file imports from another file of this repository is there, also in files that few tests import."""

from __future__ import annotations

import ast
import subprocess
from functools import cache
from pathlib import Path

PACKAGES = ("alignment", "benchmarks", "tests", "tools")


@cache
def _bound_names(path: Path) -> frozenset[str]:
    """Names that the module at ``path`` binds at its top level, in any branch."""
    names: set[str] = set()
    pending = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        pending.extend(ast.iter_child_nodes(node))
    return frozenset(names)


def _find_module(root: Path, name: str, beside: Path) -> Path | None:
    """The file or folder of the module ``name``: of the repository, or a script beside the importing one."""
    base = root if name.partition(".")[0] in PACKAGES else beside
    path = base / name.replace(".", "/")
    return next((found for found in (path, path.with_suffix(".py")) if found.exists()), None)


def _has(module: Path, name: str) -> bool:
    if module.is_file():
        return name in _bound_names(module)
    return any(child.exists() for child in (module / name, module / f"{name}.py")) or (
        (module / "__init__.py").is_file()
        and not {name, "__getattr__"}.isdisjoint(_bound_names(module / "__init__.py"))
    )


def _missing_names(root: Path, path: Path) -> list[str]:
    missing = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        module = _find_module(root, node.module, path.parent)
        if module is None and node.module.partition(".")[0] in PACKAGES:
            missing.append(f"{path.relative_to(root)}:{node.lineno}: no module {node.module}")
        elif module is not None:
            names = [alias.name for alias in node.names if not _has(module, alias.name)]
            missing += [f"{path.relative_to(root)}:{node.lineno}: {node.module} has no {name}" for name in names]
    return missing


def test_imported_names_exist(repo_root):
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=repo_root, capture_output=True, text=True, check=True)
    paths = [repo_root / name for name in listed.stdout.split() if (repo_root / name).is_file()]
    assert len(paths) > 500
    assert [problem for path in paths for problem in _missing_names(repo_root, path)] == []
