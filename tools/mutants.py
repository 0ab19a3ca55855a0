"""Put single faults into the package and see which ones no test notices: ``python tools/mutants.py`` (make mutants).

Faults are drawn by seed, spread over files and kinds. For each one the tests that run its lines are run, those of its
own folder first, until one fails. ``docs/mutants.md`` is written from the results; what lives has its reason in
``tools/mutants.json``. The exit status is 1 when a survivor has no reason, or too many live that are not equivalent.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import json
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from mutant_faults import Fault, find_faults  # noqa: E402
from mutant_report import limit_is_kept, write_report  # noqa: E402
from mutant_trials import BROKEN, Copy, LinePlugin, prepare_server  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("loops", "runs", "trainers", "ppo", "rm", "sft", "rollout", "training", "data", "telemetry")
MIRRORS = tuple(f"tests/unit/{name}" for name in (*PACKAGES, "arguments"))
SUITES = (*MIRRORS, "tests/contract", "tests/golden", "tests/e2e/test_options.py", "tests/e2e/test_invariance.py")
"""Tests that could notice: of these packages, of what they are assembled to, and whole runs in one process."""
CACHE = ROOT / "build" / "mutants"
SECONDS = 40.0
"""Of tests, as measured, that are run at most for one fault."""
SCRIPTS = (
    "tests/e2e/test_options.py::test_the_readme_dataset_through_the_trainer",
    "tests/e2e/test_invariance.py::test_the_first_update_of_ppo",
    "tests/e2e/test_bad_arguments.py::test_the_scripts_themselves",
)
"""Tests that start the entry scripts, for lines that no test runs in its own process."""
SHARED = "tests/contract/keys/test_keys.py::test_a_key_arrives"
"""Tests that look at runs which the first of them assembles: where one runs a line, all of them may notice."""
FIRST = 12
"""Tests of a module that are run before those of the next; of modules that are near to the fault all are."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the faults, try them, write the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=220, help="faults in all, about (220)")
    parser.add_argument("--seed", type=int, default=9, help="of the drawing (9)")
    parser.add_argument("--only", default="", help="files whose path contains this; no table is written")
    parser.add_argument("--tests", default="", help="test files whose path contains this; no table is written")
    parser.add_argument("--again", action="store_true", help="only the survivors of the last run")
    options = parser.parse_args(argv)
    faults = draw_faults(options.count, options.seed, only=options.only)
    is_part, last = bool(options.only or options.tests), CACHE / "last.json"
    known = json.loads(last.read_text(encoding="utf-8")) if options.again else {}
    results = {f.name: known[f.name] for f in faults if known.get(f.name, {"outcome": "alive"})["outcome"] != "alive"}
    with contextlib.ExitStack() as stack:
        if not is_part:
            stack.callback(lambda: last.write_text(json.dumps(results, indent=1), encoding="utf-8"))
        for fault, result in try_faults([f for f in faults if f.name not in results], tests=options.tests):
            results[fault.name] = result
    if is_part:
        return 0
    write_report(ROOT, faults, results, seed=options.seed)
    return 0 if limit_is_kept(ROOT, results) else 1


def draw_faults(count: int, seed: int, *, only: str = "") -> list[Fault]:
    """Return ``count`` faults: of each file its share (at least one), of each kind as many as can be."""
    files = [p for name in PACKAGES for p in sorted((ROOT / "alignment" / name).rglob("*.py"))]
    by_file = {str(p.relative_to(ROOT)): p.read_text(encoding="utf-8") for p in files}
    found = {path: find_faults(path, text) for path, text in by_file.items()}
    found = {path: faults for path, faults in found.items() if faults}
    total = sum(map(len, found.values()))
    used: dict[str, int] = defaultdict(int)
    drawn: list[Fault] = []
    for path, faults in found.items():
        # A stream a file: a change of one file does not change what is drawn of the others.
        order = random.Random(f"{seed} {path}")
        shuffled = order.sample(faults, len(faults))
        wanted = max(1, round(count * len(faults) / total))
        while wanted and shuffled:
            rarest = min(shuffled, key=lambda fault: used[fault.operator])
            shuffled.remove(rarest)
            if _compiles(rarest, by_file[path]):
                used[rarest.operator] += 1
                drawn.append(rarest)
                wanted -= 1
    return [fault for fault in drawn if only in fault.path]


def _compiles(fault: Fault, text: str) -> bool:
    try:
        compile(fault.apply(text), fault.path, "exec")
    except SyntaxError:
        return False
    return True


def try_faults(faults: Sequence[Fault], *, tests: str = "") -> Iterator[tuple[Fault, dict[str, Any]]]:
    """Yield (fault, outcome, seconds and failing test) by fault; only tests whose path has ``tests`` are run."""
    prepare_server()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Copy(ROOT, Path(folder).resolve())
        known = measure_tests(tree, tests)
        begin = time.monotonic()
        for number, fault in enumerate(faults, 1):
            start = time.monotonic()
            outcome, detail = try_fault(tree, fault, known)
            seconds = round(time.monotonic() - start, 1)
            yield fault, {"outcome": outcome, "seconds": seconds, "test": detail}
            print(f"{number}/{len(faults)} {outcome:7} {seconds:5.1f} s {fault.line} {fault.name}", flush=True)
        if faults:
            print(f"{(time.monotonic() - begin) / len(faults):.1f} s a fault")


def try_fault(tree: Copy, fault: Fault, known: Mapping[str, Any]) -> tuple[str, str]:
    """Return (outcome, test that failed) of the tests that run the lines of ``fault``."""
    text = (tree.folder / fault.path).read_text(encoding="utf-8")
    tests = choose_tests(fault, known)
    patience = 20 + 4 * sum(known["seconds"].get(test, 1.0) for test in tests)
    with tree.holding(fault.path, fault.apply(text)):
        outcome, detail = tree.run(tests, timeout=patience)
        if outcome == BROKEN:
            whole = list(dict.fromkeys(test.partition("[")[0] for test in tests))
            outcome, detail = tree.run(whole, timeout=patience)
    # What cannot even be collected is noticed, too.
    return "killed" if outcome == BROKEN else outcome, detail


def choose_tests(fault: Fault, known: Mapping[str, Any]) -> list[str]:
    """Return the tests that run a line of ``fault``, those of its mirror folder and quick ones first.

    A line that runs when its file is imported says nothing of who uses what it made: then these are the tests of the
    modules that name the file in an import, those of its package, and all that run any other line of it.
    """
    covering = _tests_of_lines(fault, known)
    if not covering:  # it may run in a process that a test starts
        own = f"/test_{Path(fault.path).stem}.py::"
        covering = _tests_of_file(fault, known) | {test for test in known["seconds"] if own in test}
    near = {test.partition("::")[0] for test in covering if _runs_at_import(fault, known)}
    if _runs_at_import(fault, known):
        mirror = f"tests/unit/{Path(fault.path).parts[1]}/"
        users = {module for module in known["modules"] if module.startswith(mirror) or _names(module, fault, known)}
        covering |= {test for test in known["seconds"] if test.partition("::")[0] in users}
        covering |= _tests_of_file(fault, known)
    if any(test.startswith(SHARED) for test in covering):
        covering |= {test for test in known["seconds"] if test.startswith(SHARED)}
    if not covering:  # an entry script that no test runs in its own process
        return list(SCRIPTS)
    modules: dict[str, list[str]] = defaultdict(list)
    for test in sorted(covering, key=known["seconds"].__getitem__):
        modules[test.partition("::")[0]].append(test)
    ranks = {module: _rank(module, fault, known, near) for module in modules}
    ranked = sorted(modules.items(), key=lambda item: ranks[item[0]])
    order = [test for module, tests in ranked for test in (tests[:FIRST] if ranks[module][0] > 1 else tests)]
    order += sorted(test for test in covering if test.startswith(SHARED))
    order += [test for _, tests in ranked for test in tests[FIRST:]]
    return list(_within_budget(dict.fromkeys(order), known["seconds"]))


def _tests_of_lines(fault: Fault, known: Mapping[str, Any]) -> set[str]:
    """Return the tests that run a line of ``fault``; where its file has changed since, all that run any line."""
    found: set[str] = set()
    last = fault.line + fault.before.count("\n")
    for lines, is_current in known["lines"].get(fault.path, ()):
        if is_current:
            found |= {test for n in range(fault.line, last + 1) for test in lines.get(str(n), ())}
        else:
            found |= {test for tests in lines.values() for test in tests}
    return found


def _tests_of_file(fault: Fault, known: Mapping[str, Any]) -> set[str]:
    return {test for lines, _ in known["lines"].get(fault.path, ()) for tests in lines.values() for test in tests}


def _runs_at_import(fault: Fault, known: Mapping[str, Any]) -> bool:
    """Return whether a test module has run the line of ``fault`` before its tests began."""
    return fault.is_outside or any(
        lines.get(str(fault.line)) == [] for lines, is_current in known["lines"].get(fault.path, ()) if is_current
    )


def _names(module: str, fault: Fault, known: Mapping[str, Any]) -> bool:
    return ".".join(Path(fault.path).with_suffix("").parts) in known["imports"][module]


def _rank(module: str, fault: Fault, known: Mapping[str, Any], near: Collection[str]) -> tuple[int, float]:
    path, seconds = Path(fault.path), known["modules"][module]
    if Path(module).stem == f"test_{path.stem}":
        return 0, 0.0
    if f"/{path.parent.name}/" in module or module in near or _names(module, fault, known):
        return 1, seconds
    return (2 if f"/{path.parts[1]}/" in module else 4 if "/e2e/" in module else 3), seconds


def _within_budget(tests: Iterable[str], seconds: Mapping[str, float]) -> Iterator[str]:
    spent = 0.0
    for test in tests:
        if not spent or spent + seconds[test] <= SECONDS:
            yield test
            spent += seconds[test]


def measure_tests(tree: Copy, chosen: str) -> dict[str, Any]:
    """Return the seconds of every test and module, and the tests of every line.

    A module is measured again when it or a file beside it that is no test has changed, or a file that it ran has
    another name. Of the package each file is known by its content: {"lines": {file: [(tests of its lines, whether it
    is still the same), ...]}}. "imports" has what each module imports by name.
    """
    known: dict[str, Any] = {"seconds": {}, "modules": {}, "imports": {}, "lines": defaultdict(list)}
    CACHE.mkdir(parents=True, exist_ok=True)
    files = sorted(tree.folder.glob("alignment/**/*.py"))
    package = {str(p.relative_to(tree.folder)): _digest(tree.folder, [p]) for p in files}
    for module in _test_modules(tree.folder):
        if chosen not in module:
            continue
        helpers = (p for p in (tree.folder / module).parent.rglob("*.py") if not p.name.startswith("test_"))
        kept = CACHE / f"{_digest(tree.folder, [*helpers, tree.folder / module])}.json"
        measured = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else None
        if measured is None or not set(measured["lines"]) <= set(package):
            measured = {**_measure(tree, module), "package": package}
            kept.write_text(json.dumps(measured), encoding="utf-8")
        if measured["failed"]:
            print(f"not used, they fail without a fault: {measured['failed']}", flush=True)
        known["seconds"] |= measured["seconds"]
        known["imports"][module] = _imported(tree.folder / module)
        known["modules"][module] = sum(measured["seconds"].values())
        for file, by_line in measured["lines"].items():
            known["lines"][file].append((by_line, measured["package"].get(file) == package.get(file)))
    return known


def _imported(module: Path) -> set[str]:
    """Return the names of all that a test module imports: ``package.file`` and ``package.file.name``."""
    nodes = [n for n in ast.walk(ast.parse(module.read_text(encoding="utf-8"))) if isinstance(n, ast.ImportFrom)]
    return {name for node in nodes for name in (node.module, *(f"{node.module}.{item.name}" for item in node.names))}


def _measure(tree: Copy, module: str) -> dict[str, Any]:
    result = tree.folder / "lines.json"
    result.unlink(missing_ok=True)

    def plugin() -> LinePlugin:
        return LinePlugin(tree.folder / "alignment", result)

    outcome, detail = tree.run([module, "--maxfail=1000"], timeout=600, plugin=plugin)
    if not result.exists():
        return {"seconds": {}, "lines": {}, "failed": [f"{module}: {outcome} {detail}"]}
    measured = json.loads(result.read_text(encoding="utf-8"))
    measured["lines"] = {str(Path(f).relative_to(tree.folder)): by for f, by in measured["lines"].items()}
    return measured


def _digest(root: Path, files: Iterable[Path], *more: str) -> str:
    content = [str(p.relative_to(root)).encode() + p.read_bytes() for p in sorted(files)]
    return hashlib.sha256(b"\0".join([*content, *(text.encode() for text in more)])).hexdigest()[:24]


def _test_modules(folder: Path) -> list[str]:
    paths = [folder / suite for suite in SUITES if suite.endswith(".py")]
    paths += [path for suite in SUITES for path in (folder / suite).rglob("test_*.py")]
    return sorted(str(path.relative_to(folder)) for path in paths)


if __name__ == "__main__":
    raise SystemExit(main())
