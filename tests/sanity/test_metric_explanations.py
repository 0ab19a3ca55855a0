"""Every metric that the package emits is explained in the report's metrics.yaml, and nothing else is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from alignment.telemetry.report.explanations import explain, explanations

NAME = re.compile(r"[a-z0-9_*]+/[a-z0-9_*]+")
NOT_METRICS = {
    "tokenizer/*": "data/sources/packing_generate.py: a file of the generated data",
    "rows/s": "data/encoded/build.py: shown while rows are encoded",
    "supervised/loss": "algorithms/supervised_losses.py: an objective reports it under its own name",
}


def test_every_metric_of_the_package_is_explained_and_every_explanation_has_its_metric(repo_root):
    """Names are read from the code: keys of dictionaries, with a star for what an f-string fills in."""
    emitted = {name for path in (repo_root / "alignment").rglob("*.py") for name in keys(path.read_text("utf-8"))}
    assert set(NOT_METRICS) <= emitted
    emitted -= set(NOT_METRICS)
    known = {entry.name for entry in explanations()}
    unexplained = {name for name in emitted if not any(meets(name, other) for other in known)}
    assert unexplained == set(), "add them to alignment/telemetry/report/metrics.yaml"
    left_over = {name for name in known if not any(meets(other, name) for other in emitted)}
    assert left_over == set(), "no code emits them: delete them from alignment/telemetry/report/metrics.yaml"


def test_how_names_are_read_from_code():
    code = 'm = {"a/b": 1, f"c/{x}_d": 2, "no slash": 3}\nm[f"{self.x}/e"] = 1\nm["f/g"] += 1\n'
    code += '{f"l/{k}": k for k in m}\nprint(m["h/i"], "j/k")\n'
    assert set(keys(code)) == {"a/b", "c/*_d", "*/e", "f/g", "l/*"}
    assert meets("*/gradient_norm", "{model}/gradient_norm") and meets("time/*_seconds", "time/{stage}_seconds")
    assert not meets("time/*_seconds", "time/{stage}_tokens") and not meets("a/b", "a/{x}_b")


def keys(source: str) -> Iterator[str]:
    """Yield the keys that ``source`` writes into dictionaries and that look like metrics."""
    for node in ast.walk(ast.parse(source)):
        written = node.keys if isinstance(node, ast.Dict) else [node.key] if isinstance(node, ast.DictComp) else []
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            written = [node.slice]
        yield from (name for name in map(text_of, written) if NAME.fullmatch(name))


def text_of(node: ast.AST | None) -> str:
    """Return the text of a constant or an f-string, a star for each part that is filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "*" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def meets(emitted: str, entry: str) -> bool:
    """Return whether what is ``emitted`` (stars for words) can be what ``entry`` (with placeholders) explains."""
    words = re.escape(emitted).replace(r"\*", r"[\w{}/]*")
    return re.fullmatch(words, entry) is not None or ("*" not in emitted and explain(emitted).name == entry)
