"""Rewrite the generated parts of docs/: ``python tools/docs.py``.

They are the tree from docstrings, the keys from dataclasses, and what becomes of the commands of other suites.

A test compares them with the repository.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
KEYS = ROOT / "docs" / "keys.md"
HOW_TO = ROOT / "docs" / "how-to"
WIDTH = 30
LONGEST = 100
COMMENTS = {
    "CONTRIBUTING.md": "how to work on this repository",
    "LICENSE": "Apache-2.0",
    "MANIFEST.in": "what a source distribution holds beside the package",
    "Makefile": "demo, test, lint, bench",
    "README.md": "what a newcomer needs, in the order needed",
    "benchmarks/": "timings as ratios against peers in the same run; dated results",
    "config/": "argument files: tiny/ in minutes on a CPU, llama/ for real models",
    "csrc/": "kernels behind C ABIs: core/ for CPUs, cuda/ (compiled, never run)",
    "docs/": "how-to pages, every key, this page, parity, families, scaling, bfloat16, faults that tests notice",
    "pyproject.toml": "linter, tests, import contracts",
    "requirements-gpu.txt": "what a GPU machine installs beside paddlepaddle-gpu",
    "setup.py": "installation and pinned dependencies, each with its reason",
    "tests/": "sanity, unit, golden (oracles), contract, interop, e2e, portability, distributed",
    "tools/": "virtual environment for make; generators of docs/; faults put in (make mutants)",
}


def tree_lines() -> list[str]:
    """Return the annotated tree: top level, then packages and modules of ``alignment``."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    paths = sorted(Path(name) for name in names if (ROOT / name).exists())
    top = sorted({p.parts[0] + ("/" if len(p.parts) > 1 else "") for p in paths if not p.parts[0].startswith(".")})
    lines = []
    for entry in top:
        if entry != "alignment/":
            lines.append(_line(0, entry, COMMENTS[entry]))
            continue
        modules = [p for p in paths if p.parts[0] == "alignment" and p.suffix == ".py"]
        lines.append(_line(0, entry, summary(Path("alignment/__init__.py"))))
        lines += package_lines(Path("alignment"), modules)
    return lines


def package_lines(package: Path, modules: list[Path]) -> list[str]:
    """Return the lines below ``package``: its modules, then its sub-packages."""
    depth = len(package.parts)
    lines = [_line(depth, p.name, summary(p)) for p in modules if p.parent == package and p.name != "__init__.py"]
    inner = sorted({Path(*p.parts[: depth + 1]) for p in modules if p.parts[:depth] == package.parts} - set(modules))
    for child in inner:
        lines.append(_line(depth, f"{child.name}/", summary(child / "__init__.py")))
        lines += package_lines(child, modules)
    return lines


def summary(module: Path) -> str:
    """Return the first sentence of a module's docstring, or its first clause when that is long."""
    docstring = ast.get_docstring(ast.parse((ROOT / module).read_text(encoding="utf-8"))) or "?"
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    sentence = re.split(r"(?<! al)[.] ", paragraph)[0].rstrip(".").replace("``", "")
    return sentence if len(sentence) <= LONGEST else re.split(r"[:;] ", sentence)[0]


def replace_block(text: str, opening: str, closing: str, body: str) -> str:
    """Return ``text`` with what stands between the two markers replaced."""
    start = text.index(opening) + len(opening)
    return text[:start] + body + text[text.index(closing, start) :]


def imported_tables(text: str) -> str:
    """Return a page with the table of what becomes of each flag after every command of another suite."""
    from alignment.arguments.importing.convert import MISSING, NO_NEED, SAME
    from alignment.arguments.importing.shell import read_commands
    from alignment.commands.import_args import import_commands

    words = {SAME: "the default", NO_NEED: "not needed: ", MISSING: "**no counterpart**: "}

    def table(match: re.Match[str]) -> str:
        lines = []
        for item in import_commands(read_commands(match[1]), processes=8)[0]:
            lines += [f"\n`alignment {item.converted.target}`:\n", "| theirs | here |", "|---|---|"]
            for row in item.converted.rows:
                here = words.get(row.outcome, "") + ("" if row.outcome == SAME else row.how)
                lines.append(f"| `{f'{row.flag} {row.value}'.strip()}` | {here} |".replace("\n", " "))
        return f"```bash\n{match[1]}```\n<!-- imported -->\n" + "\n".join(lines) + "\n\n<!-- /imported -->"

    pattern = r"```bash\n(.*?)```\n<!-- imported -->\n.*?<!-- /imported -->"
    return re.sub(pattern, table, text, flags=re.DOTALL)


def render() -> dict[Path, str]:
    """Return the pages with generated parts, those parts written anew."""
    sys.path.insert(0, str(ROOT))
    from alignment.commands.keys import key_reference

    tree = "\n```\n" + "\n".join(tree_lines()) + "\n"
    architecture, keys = (page.read_text(encoding="utf-8") for page in (ARCHITECTURE, KEYS))
    imported = {page: imported_tables(page.read_text(encoding="utf-8")) for page in sorted(HOW_TO.glob("from_*.md"))}
    return {
        **imported,
        ARCHITECTURE: replace_block(architecture, "<!-- tree -->", "```\n<!-- /tree -->", tree),
        KEYS: replace_block(keys, "<!-- reference -->", "<!-- /reference -->", f"\n{key_reference()}\n"),
    }


def _line(depth: int, name: str, comment: str) -> str:
    return f"{'  ' * depth + name:<{WIDTH}}  {comment}"


if __name__ == "__main__":
    for page, text in render().items():
        page.write_text(text, encoding="utf-8")
