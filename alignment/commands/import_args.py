"""Turn commands of other suites into argument files: ``alignment import-args train.sh`` or ``-- COMMAND ...``.

Understood are OpenRLHF, RLHFlow's Online-RLHF (RAPO) and RLHF-Reward-Modeling, safe-rlhf and SheepRLHF. A script is
read, not run: quotes, line continuations, variables and ``read -d '' NAME <<EOF`` are understood, a loop is read once.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alignment.arguments.command_line import ToolParser, number
from alignment.arguments.importing.commands import PeerCommand, describe_programs, find_commands, nearest
from alignment.arguments.importing.convert import MISSING, Commands, Converted, convert
from alignment.arguments.importing.shell import ShellCommand, read_commands
from alignment.arguments.peers.programs.program import Flags, PeerStep, stage_of
from alignment.errors import ArgumentError, why_unreadable
from alignment.telemetry import log
from alignment.telemetry.files import replace_file
from alignment.telemetry.tables import print_table
from alignment.trainers.registered import TRAINERS

_CALLED = " (in the call from Python)"
"""The place in messages of the parser, which says nothing here."""


class Imported(NamedTuple):
    """An argument file for one command of another suite, or for a part of it."""

    command: PeerCommand
    converted: Converted
    processes: int


def main(argv: Sequence[str]) -> None:
    """Import what the command line names, print what became of each flag, and write the files."""
    log.configure(output_dir=None, is_main=True)
    options = _parse(argv)
    imported, others = import_commands(_commands(options), processes=options.processes)
    paths = _paths(imported, Path(options.output_dir))
    present = [str(path) for path in paths if path.exists()]
    if present and not options.overwrite:
        raise ArgumentError(f"{', '.join(present)} exists: --overwrite replaces it")
    for item, path in zip(imported, paths, strict=True):
        _print(item, path)
        note = {"_imported_from": f"{item.command.program.suite}, {item.command.program.name}"}
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps({**note, **item.converted.keys}, indent=2, ensure_ascii=False) + "\n")
        print(f"written: {path}\n  {_start(item, path)}")
    for command in others:
        print(_tell_unread(command))


def import_commands(
    commands: Sequence[ShellCommand], *, processes: int | None = None
) -> tuple[list[Imported], list[ShellCommand]]:
    """Return the arguments for every command of another suite, and the commands that start something unknown.

    ``processes``: those with rows of their own; None: as the launcher says, else 1. ArgumentError for an unknown flag.
    """
    found, others = find_commands(commands)
    if not found:
        unread = "".join(f"\n{_tell_unread(command)}" for command in others)
        raise ArgumentError(f"no command of another suite is in it (understood: {describe_programs()}){unread}")
    imported: list[Imported] = []
    for command in found:
        number_of = processes or command.processes or 1
        for item in _convert(command, number_of):
            same = next(
                (i for i in imported if (i.converted.target, i.converted.keys) == (item.target, item.keys)), None
            )
            if same is None:
                imported.append(Imported(command, item, number_of))
    return imported, others


def _tell_unread(command: ShellCommand) -> str:
    text = f"not read, line {command.line}: {' '.join(command.words)[:100]}"
    return f"{text}\n  nearest: {nearest(command)}" if nearest(command) else text


def _convert(command: PeerCommand, processes: int) -> list[Converted]:
    try:
        steps = command.program.steps(command.flags)
        taken = frozenset(name for step in steps for name in step.takes or ())
        return [_convert_step(command, step, taken, processes) for step in steps]
    except ArgumentError as error:
        place = f"line {command.line}, {command.program.suite}'s {command.program.name}"
        raise ArgumentError(f"{place}: {str(error).replace(_CALLED, '')}") from None


def _convert_step(command: PeerCommand, step: PeerStep, taken: frozenset[str], processes: int) -> Converted:
    """Return one step; flags in ``taken`` belong to a step that takes them alone."""
    known = set(step.answers)
    given = {
        name: value
        for name, value in command.flags.items()
        if (name in step.takes if step.takes is not None else name not in taken or name in known)
    }
    flags = Flags(_negated(given, step), step.defaults, processes=processes)
    return convert(_launched(step, command, flags), flags, commands_of(step.target))


def _negated(given: Mapping[str, Any], step: PeerStep) -> dict[str, Any]:
    """Read ``--no_x`` as ``--x false`` where ``x`` is on by default, as the parser of transformers does."""
    return {
        (name[3:] if name.startswith("no_") and step.defaults.get(name[3:]) is True else name): (
            "false" if name.startswith("no_") and step.defaults.get(name[3:]) is True else value
        )
        for name, value in given.items()
    }


def _launched(step: PeerStep, command: PeerCommand, flags: Flags) -> PeerStep:
    """Return ``step`` with what the launcher's file says about sharding."""
    named = command.launcher.get("config_file")
    if named is None or not step.target.startswith("train") or "zero" not in str(named):
        return step
    note = f"a mixed_precision in {named} is not read: give bf16 as it says"
    notes = step.notes if flags.get("bf16") is not None else {**step.notes, "config_file": note}
    try:
        return step._replace(keys={**step.keys, **stage_of(named, flags)}, notes=notes)
    except ValueError as error:
        raise ArgumentError(f"--config_file {named}: {error}") from None


def commands_of(target: str) -> Commands:
    """Return the arguments of one of our commands, ``train TRAINER`` or another."""
    verb, _, trainer = target.partition(" ")
    if verb == "train":
        return Commands(TRAINERS[trainer].groups, TRAINERS[trainer].checks)
    return Commands(importlib.import_module(f"alignment.commands.{verb}").GROUPS, ())


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = ToolParser(prog="alignment import-args", description=__doc__)
    parser.add_argument("script", nargs="?", help="a shell script")
    parser.add_argument("--output_dir", default=".", help="folder for the argument files (default: the current one)")
    parser.add_argument("--overwrite", action="store_true", help="replace argument files that exist")
    parser.add_argument(
        "--processes",
        type=number(int, minimum=1, maximum=100_000),
        help="processes with rows of their own, among which global batches are divided (default: as the launcher says)",
    )
    words = list(argv)
    place = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:place])
    options.command = words[place + 1 :]
    if bool(options.script) == bool(options.command):
        parser.error("name a script, or give a command after --")
    return options


def _commands(options: argparse.Namespace) -> list[ShellCommand]:
    if options.command:
        return [ShellCommand(tuple(options.command), 1)]
    try:
        return read_commands(Path(options.script).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"{options.script} cannot be read: {why_unreadable(error)}") from None


def _paths(imported: Sequence[Imported], folder: Path) -> list[Path]:
    """Return the files: named after the trainer or command, numbered if there are several."""
    names = [f"{item.converted.target.split()[-1]}_argument.json" for item in imported]
    return [folder / (name if len(names) == 1 else f"{n}_{name}") for n, name in enumerate(names, 1)]


def _print(item: Imported, path: Path) -> None:
    program = item.command.program
    title = f"{program.suite}, {program.name} (line {item.command.line}) -> {path.name}"
    print_table(title, ("flag", "value", "outcome", "here"), item.converted.rows)
    missing = [
        row.flag if row.flag.startswith("(") else f"--{row.flag}"
        for row in item.converted.rows
        if row.outcome == MISSING
    ]
    if missing:
        print(f"without counterpart: {', '.join(missing)}")
    for problem in item.converted.absent:
        print(f"not there yet: {problem.removesuffix(_CALLED)}")


def _start(item: Imported, path: Path) -> str:
    """Return the command that starts the file."""
    target, keys = item.converted.target, item.converted.keys
    verb, _, trainer = target.partition(" ")
    door = TRAINERS[trainer].door if trainer else None
    ranks = _ranks(keys.get("placement")) or item.processes
    if door and ranks > 1:
        return f"python -m paddle.distributed.launch --nproc_per_node {ranks} {door} {path}"
    return f"alignment {target} {path}"


def _ranks(placement: Mapping[str, Any] | None) -> int:
    """Return the ranks that ``placement`` needs: those of every role that shares none with another."""
    counts = [item.get("ranks") if isinstance(item, Mapping) else item for item in (placement or {}).values()]
    return sum(count for count in counts if isinstance(count, int))
