"""Check that a parallel layout gives the numbers of one process: ``alignment verify ppo_argument.json``.

Runs a few updates of the trainer on a small random model, in one process and in the file's layout (other ``--key
value`` pairs override its keys; without a layout, in the basic ones), on this machine's CPU, and prints the largest
differences, after the keys of the file that were not used. ``--table`` checks every trainer in every layout of
docs/parity.md, and in the basic ones also its variants, adapters and algorithms.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alignment.algorithms.on_policy.registered import ALGORITHMS
from alignment.arguments.command_line import ToolParser, number
from alignment.arguments.files import read_file
from alignment.arguments.groups import declare
from alignment.arguments.peers.presets import PRESETS, choose, find_problems
from alignment.errors import ArgumentError, ProcessError, UserError, why_unreadable
from alignment.models.config import read_config
from alignment.parity.asked import AskedLayout, asked_layouts, read_value, refuse_tensor_degree, tensor_problems
from alignment.parity.check import References, check_layout
from alignment.parity.comparison import TOLERANCE, Difference
from alignment.parity.layouts import BASIC, LAYOUTS, num_batch_ranks, num_processes
from alignment.parity.subjects import ADAPTER, COMMON, LAYOUT_KEYS, SMALL_MODEL, SUBJECTS, Subject, make_models
from alignment.telemetry import log
from alignment.telemetry.files import replace_file
from alignment.telemetry.tables import print_table
from alignment.trainers.recognise import recognise_trainer
from alignment.trainers.registered import TRAINERS

COLUMNS = (
    "layout",
    "processes",
    "trainer",
    "loss",
    "grad norm",
    "log-prob",
    "value",
    "weights",
    "element",
    "tokens",
    "result",
)
TIMEOUT = 900.0
ALGORITHM_KEYS = dict.fromkeys(
    item.name for name in ALGORITHMS for item in dataclasses.fields(ALGORITHMS[name].hyperparameters)
)
LOSS_KEYS = dict.fromkeys(
    key
    for name in TRAINERS
    for changes in TRAINERS[name].variants.values()
    if not changes.keys() & TRAINERS[name].small_run.keys() & {*TRAINERS[name].model_keys, "train_datasets"}
    for key in changes
)
"""What the variants of trainers change, if they need no other data or models."""
KEPT_KEYS = (
    *LAYOUT_KEYS,
    "update_iters",
    "rl_algorithm",
    *ALGORITHM_KEYS,
    *LOSS_KEYS,
    "weight_decay",
    "max_grad_norm",
    "aux_loss_coef",
    "recompute_granularity",
    "critic_recompute",
    "use_native_ops",
)
"""Keys taken from the user's file; models, data and lengths are replaced by small ones."""


def main(argv: Sequence[str]) -> int:
    """Check what the command line names; return 0 if everything agrees, else 1."""
    log.configure(output_dir=None, is_main=True)
    options = _parse(argv)
    with tempfile.TemporaryDirectory() as name:
        results = _check_table(Path(name), options) if options.table else _check_file(Path(name), options)
    limits = f"pass: loss and weights within {TOLERANCE:g}, same tokens; other columns have no limit"
    print_table(f"layouts against one process ({limits})", COLUMNS, map(_row, results))
    for result in results:
        if isinstance(result.found, UserError):
            print(f"{result.layout}, {result.subject.label}: {result.found}")
    if options.write:
        _write_markdown(Path(options.write), results)
    return 0 if all(isinstance(r.found, Difference) and r.found.passes() for r in results) else 1


class Result(NamedTuple):
    """One row of the table."""

    layout: str
    processes: int
    subject: Subject
    found: Difference | UserError
    """The difference, or the error that prevented the comparison."""


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = ToolParser(prog="alignment verify", description=__doc__)
    parser.add_argument("arguments", nargs="?", help=f"argument file of a trainer ({', '.join(TRAINERS)})")
    parser.add_argument(
        "--trainer", choices=list(TRAINERS), help="the file's trainer (default: inferred from its keys)"
    )
    processes, steps = number(int, minimum=1, maximum=1024), number(int, minimum=1, maximum=100_000)
    parser.add_argument("--processes", type=processes, help="processes to start (default: the product of the degrees)")
    parser.add_argument("--steps", type=steps, default=5, help="updates per run (default 5)")
    parser.add_argument("--table", action="store_true", help="check every layout of docs/parity.md")
    parser.add_argument("--only", default="", help="with --table: layouts whose name contains this")
    parser.add_argument("--write", help="write the table as Markdown to this file, between its parity markers")
    options, rest = parser.parse_known_args(argv)
    if len(rest) % 2 or not all(word.startswith("--") for word in rest[::2]):
        parser.error(f"expected pairs of --key value, got {' '.join(rest)}")
    options.changes = {key[2:]: value for key, value in zip(rest[::2], rest[1::2], strict=True)}
    unknown = [key for key in options.changes if key not in KEPT_KEYS]
    if unknown:
        parser.error(f"--{unknown[0]} is not relevant to a layout (allowed: {', '.join(KEPT_KEYS)})")
    if not any(options.only in name for name in LAYOUTS):
        parser.error(f"--only {options.only}: no layout has that in its name ({', '.join(LAYOUTS)})")
    if bool(options.arguments) == options.table:
        parser.error("name an argument file, or use --table")
    if options.write:
        _split_at_marks(Path(options.write))  # fail now, not after hours of work
    return options


def _check_table(folder: Path, options: argparse.Namespace) -> list[Result]:
    make_models(folder)
    references = References(folder, timeout=TIMEOUT)
    results: list[Result] = []
    for name, changes in LAYOUTS.items():
        if options.only not in name:
            continue
        start, processes = time.monotonic(), num_processes(name)
        subjects = [s for s in SUBJECTS.values() if name in BASIC or s.label == TRAINERS[s.trainer].label]
        found = check_layout(
            folder,
            references,
            {**changes, "max_steps": options.steps},
            world_size=processes,
            batch_ranks=num_batch_ranks(name),
            timeout=TIMEOUT,
            subjects=subjects,
        )
        results += [Result(name, processes, SUBJECTS[label], result) for label, result in found.items()]
        good = sum(isinstance(r, Difference) and r.passes() for r in found.values())
        log.info(f"{name}: {good} of {len(found)} runs agree ({time.monotonic() - start:.0f} s)")
    return results


def _check_file(folder: Path, options: argparse.Namespace) -> list[Result]:
    path = Path(options.arguments)
    given = {**_read(path), **options.changes}
    trainer = options.trainer or recognise_trainer(given, path)
    given = _spelled(given, trainer)
    given = {**_of_preset(given, trainer), **given}
    subject = _subject(given, trainer)
    layouts = asked_layouts(given, processes=options.processes)
    shape = _shape(given, path.parent, layers=max(layout.layers for layout in layouts))
    if len(layouts) == 1:
        refuse_tensor_degree(shape, layouts[0].degrees.tensor)
    else:
        layouts = [layout for layout in layouts if not tensor_problems(shape, layout.degrees.tensor)]
        print(f"the file has no layout for several processes: compared in {', '.join(x.name for x in layouts)}")
    _tell_unused(given, subject)
    make_models(folder, shape)
    kept = {key: given[key] for key in KEPT_KEYS if key in given} | {"max_steps": options.steps}
    references = References(folder, timeout=TIMEOUT)
    return [
        Result(asked.name, asked.processes, subject, _compare(folder, references, kept, asked, subject))
        for asked in layouts
    ]


def _compare(
    folder: Path, references: References, kept: Mapping[str, Any], asked: AskedLayout, subject: Subject
) -> Difference | UserError:
    found = check_layout(
        folder,
        references,
        {**kept, **asked.changes},
        world_size=asked.processes,
        batch_ranks=asked.batch_ranks,
        timeout=TIMEOUT,
        subjects=[subject],
    )
    return found[subject.label]


def _spelled(given: Mapping[str, Any], trainer: str) -> dict[str, Any]:
    """Return the keys under our names, and the algorithm too, as the parser understands them."""
    slots = {name: slot for slot in declare(TRAINERS[trainer].groups) for name in slot.names}
    found = {slots[key].name if key in slots else key: value for key, value in given.items()}
    if "rl_algorithm" in found and "rl_algorithm" in slots:
        spellings = slots["rl_algorithm"].constraint.spellings or {}
        found["rl_algorithm"] = spellings.get(found["rl_algorithm"], found["rl_algorithm"])
    return found


def _of_preset(given: Mapping[str, Any], trainer: str) -> dict[str, Any]:
    """Return the values of the file's preset for the keys that are compared; batches and learning rates are small."""
    if (preset := given.get("preset")) is None or not TRAINERS[trainer].is_on_policy:
        return {}
    algorithm = given.get("rl_algorithm", "ppo")
    if preset not in PRESETS:
        raise ArgumentError(f"preset={preset!r} (allowed: {', '.join(PRESETS)})")
    problems = list(find_problems(preset, algorithm, given))
    if problems:
        raise ArgumentError("; ".join(problems))
    chosen = choose(preset, algorithm, given)
    return {key: value for key, value in chosen.items() if key in (*ALGORITHM_KEYS, "update_iters")}


def _subject(given: Mapping[str, Any], trainer: str) -> Subject:
    """Return the run to compare: with the algorithm that is ``given``, and with an adapter if the file has LoRA."""
    algorithm = given.get("rl_algorithm") if TRAINERS[trainer].is_on_policy else None
    label = TRAINERS[trainer].label if algorithm is None else ALGORITHMS[algorithm].title
    if read_value(given, "lora", False, bool):
        return Subject(f"LoRA {label}", trainer, {**SUBJECTS[label].changes, **ADAPTER})
    return SUBJECTS[label]


def _tell_unused(given: Mapping[str, Any], subject: Subject) -> None:
    """Print which of the ``given`` keys have another value in the runs that are compared."""
    used = {**COMMON, **TRAINERS[subject.trainer].small_run, **subject.changes}
    unused = [
        key
        for key, value in given.items()
        if key not in KEPT_KEYS and key != "preset" and (key not in used or used[key] != value)
    ]
    if unused:
        print(f"compared is a small run of {subject.label}, without these keys of the file: {', '.join(unused)}")


def _read(path: Path) -> dict[str, Any]:
    source = read_file(path)
    if source.problems:
        raise ArgumentError("; ".join(source.problems))
    return {item.key: item.value for item in source.given}


def _shape(given: Mapping[str, Any], folder: Path, *, layers: int) -> dict[str, Any]:
    """Return the shape of the small model, with family, heads and biases of the file's model if that is available."""
    named = given.get("actor_model_name_or_path") or given.get("model_name_or_path")
    shape = {**SMALL_MODEL, "num_hidden_layers": max(4, layers)}
    places = [Path(named).expanduser(), folder / named] if named else []
    for place in places:
        if (place / "config.json").is_file():
            config = read_config(place)
            kept = {**config.to_dict(), **shape}
            heads = {
                "num_attention_heads": config.num_attention_heads,
                "num_key_value_heads": config.num_key_value_heads,
            }
            return {
                **kept,
                **heads,
                "model_type": config.model_type,
                "hidden_size": 8 * config.num_attention_heads,
                "head_dim": 8,
            }
    return shape


def _row(result: Result) -> list[Any]:
    found, first = result.found, [result.layout, result.processes, result.subject.label]
    if isinstance(found, UserError):
        return [*first, *[""] * 7, "FAILED" if isinstance(found, ProcessError) else "refused"]
    numbers = [None if math.isnan(x) else f"{x:.1e}" for x in found[:6]]
    tokens = "" if not TRAINERS[result.subject.trainer].is_on_policy else "same" if found.tokens_equal else "DIFFER"
    return [*first, *numbers, tokens, "pass" if found.passes() else "FAIL"]


def _split_at_marks(path: Path) -> tuple[str, str]:
    """Return the text before and after the parity markers."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"--write: {path} cannot be read: {why_unreadable(error)}") from None
    found = re.fullmatch("(.*<!-- parity -->\n)(?:.*\n)?(<!-- /parity -->.*)", text, re.DOTALL)
    if found is None:
        raise ArgumentError(f"{path} needs lines <!-- parity --> and <!-- /parity --> to put the table between")
    return found[1], found[2]


def _write_markdown(path: Path, results: Iterable[Result]) -> None:
    """Replace the text between ``<!-- parity -->`` and ``<!-- /parity -->`` in ``path`` by the table."""
    rows = [["" if cell is None else str(cell) for cell in _row(result)] for result in results]
    table = "\n".join("| " + " | ".join(row) + " |" for row in [list(COLUMNS), ["---"] * len(COLUMNS), *rows])
    before, after = _split_at_marks(path)
    replace_file(path, f"{before}{table}\n{after}")
