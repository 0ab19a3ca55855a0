"""The annotated tree of docs/architecture.md names what exists, and nothing else.

Format: the line ``<!-- tree -->``, then a fenced block. One entry a line, two spaces of indentation a level, a folder
ends with a slash, and two or more spaces part the name from its comment, which every entry has. Several files of one
folder may share a line: ``kl.py, rewards.py   comment``.

Named must be: every top-level item that git tracks (a hidden one may be), every package of ``alignment`` and every
module in it except ``__init__.py``. Other entries may be named and must exist.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

BLOCK = re.compile(r"^<!-- tree -->\n+```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINE = re.compile(r"^(?P<indent> *)(?P<names>\S+(?:, \S+)*)(?: {2,}(?P<comment>\S.*))?$")


def parse_tree(block: str) -> dict[str, str]:
    """Return path (a folder with its slash) to comment."""
    entries: dict[str, str] = {}
    folders: list[str] = []
    for number, line in enumerate(block.splitlines(), 1):
        match = LINE.match(line)
        if match is None or len(match["indent"]) % 2 or len(match["indent"]) // 2 > len(folders):
            raise ValueError(f"line {number} of the tree cannot be read: {line!r}")
        del folders[len(match["indent"]) // 2 :]
        for name in match["names"].split(", "):
            path = "".join(folders) + name
            if path in entries:
                raise ValueError(f"{path} is named twice")
            entries[path] = match["comment"] or ""
        if match["names"].endswith("/"):
            folders.append(match["names"])
    return entries


def required_entries(repo_files: list[Path]) -> list[str]:
    """Return what the tree must name, folders before their content."""
    needed: set[str] = set()
    for path in repo_files:
        top = path.parts[0] + ("/" if len(path.parts) > 1 else "")
        if not top.startswith("."):
            needed.add(top)
        if path.parts[0] == "alignment" and path.suffix == ".py":
            needed.update(f"{parent}/" for parent in path.parents if parent != Path("."))
            if path.name != "__init__.py":
                needed.add(str(path))
    return sorted(needed)


def suggest(repo_root: Path, missing: list[str]) -> str:
    """Return lines for the page: the missing entries with the first line of their docstring."""
    lines = []
    for entry in missing:
        module = repo_root / entry / "__init__.py" if entry.endswith("/") else repo_root / entry
        is_module = module.suffix == ".py" and module.exists()
        docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) if is_module else None
        depth = entry.rstrip("/").count("/")
        name = entry.rstrip("/").rsplit("/", 1)[-1] + ("/" if entry.endswith("/") else "")
        lines.append(f"{'  ' * depth + name:<30}  {(docstring or '?').splitlines()[0]}")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def tree(repo_root: Path) -> dict[str, str]:
    """The entries of the tree."""
    page = (repo_root / "docs" / "architecture.md").read_text(encoding="utf-8")
    return parse_tree(BLOCK.search(page).group(1))


def test_the_tree_names_everything(repo_root, repo_files, tree):
    missing = [entry for entry in required_entries(repo_files) if entry not in tree]
    assert not missing, "run python tools/docs.py; docs/architecture.md lacks:\n" + suggest(repo_root, missing)


def test_the_tree_names_nothing_else(repo_root, tree):
    gone = [p for p in tree if not ((repo_root / p).is_dir() if p.endswith("/") else (repo_root / p).is_file())]
    assert gone == []


def test_every_entry_has_a_comment(tree):
    assert [path for path, comment in tree.items() if not comment] == []


def test_reading_a_tree():
    block = (
        "setup.py     install\nalignment/   package\n  data/      rows\n    a.py, b.py  both\n  c.py       c\ntests/\n"
    )
    assert parse_tree(block) == {
        "setup.py": "install",
        "alignment/": "package",
        "alignment/data/": "rows",
        "alignment/data/a.py": "both",
        "alignment/data/b.py": "both",
        "alignment/c.py": "c",
        "tests/": "",
    }
    for damaged in ("a/\n    b.py  too deep", "a.py one space", " a.py  odd", "a.py  x\na.py  y"):
        with pytest.raises(ValueError, match=r"cannot be read|named twice"):
            parse_tree(damaged)
