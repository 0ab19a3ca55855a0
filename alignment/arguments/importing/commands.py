"""Find the commands of other suites in a script, with their flags and the processes that they ask for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from alignment.arguments.importing.shell import ShellCommand
from alignment.arguments.importing.text import COMPUTED
from alignment.arguments.peers.programs.program import Program
from alignment.arguments.peers.programs.registered import PROGRAMS, find_program
from alignment.arguments.peers.programs.rlhflow import MERGED, NEAREST
from alignment.arguments.sources import BARE
from alignment.errors import ArgumentError

_STARTERS = re.compile(r"(.*/)?(python[\d.]*|deepspeed|accelerate|torchrun|trl|llamafactory-cli|(ba|z)?sh)")
_WRAPPERS = frozenset(["env", "timeout", "sudo", "srun", "mpirun", "ray", "conda", "stdbuf", "nice"])
_PROCESSES = ("num_processes", "nproc_per_node", "nproc-per-node", "num_gpus")
_NODES = ("nnodes", "num_nodes")
_HOSTS = re.compile(r"(?:[\w.-]+:)?([\d,]+)")
_VARIABLE = re.compile(r"\$(\{[^}]*\}?|\w+)")
_READING = frozenset(
    ["echo", "printf", "cat", "cp", "mv", "rm", "ls", "chmod", "pkill", "kill", "grep", "sed", "vim", "vi", "nano"]
    + ["git", "wget", "curl", "pip", "tee"]
)
"""Commands that do not start what they name."""


class PeerCommand(NamedTuple):
    """A command of another suite."""

    program: Program
    flags: dict[str, Any]
    launcher: dict[str, Any]
    """The flags of what starts it, such as ``accelerate launch``."""
    line: int

    @property
    def processes(self) -> int | None:
        """The processes that the launcher is told to start; None: it is not told."""
        told = [int(self.launcher[key]) for key in _PROCESSES if str(self.launcher.get(key, "")).isdigit()]
        hosts = re.fullmatch(rf"{_HOSTS.pattern}(?:@{_HOSTS.pattern})*", str(self.launcher.get("include", "")))
        if hosts:
            return sum(len(host.split(",")) for host in _HOSTS.findall(hosts[0]))
        is_total = "num_processes" in self.launcher
        nodes = [int(self.launcher[key]) for key in _NODES if str(self.launcher.get(key, "")).isdigit()]
        return told[0] * (1 if is_total or not nodes else nodes[0]) if told else None


def find_commands(commands: Sequence[ShellCommand]) -> tuple[list[PeerCommand], list[ShellCommand]]:
    """Return the commands that are understood, and those that start another program.

    The parts that several ``get_hf2.py`` answer are one command, which writes what ``merge_data.py`` joins.
    """
    found, others = [], []
    for command in commands:
        match = None if command.words[0] in _READING else find_program(command.words)
        if match:
            found.append(_read(command, *match))
        elif _is_started(command.words):
            others.append(command)
    merges = [_flags(command.words, command.line) for command in others if _is_merge(command)]
    return _joined(found, merges), [command for command in others if not _is_merge(command)]


def describe_programs() -> str:
    """Return the names of all commands that are understood."""
    return ", ".join(program.name for program in PROGRAMS)


def nearest(command: ShellCommand) -> str:
    """Return what comes nearest to a command that is not read; empty if nothing is known."""
    found = (text for pattern, text in NEAREST.items() if any(re.fullmatch(pattern, word) for word in command.words))
    return next(found, "")


def _is_started(words: Sequence[str]) -> bool:
    """Tell whether a command starts another program, or a script."""
    wrapped = words if words[0] in _WRAPPERS else words[:1]
    return any(_STARTERS.fullmatch(word) for word in wrapped)


def _is_merge(command: ShellCommand) -> bool:
    return any(re.fullmatch(MERGED, word) for word in command.words)


def _read(command: ShellCommand, program: Program, after: int) -> PeerCommand:
    words = command.words[after:]
    flags = _overrides(words, command.line) if program.first_word else _flags(words, command.line, is_strict=True)
    for name, value in flags.items():
        text = " ".join(map(str, value if isinstance(value, list) else [value]))
        variable = _VARIABLE.search(text)
        if variable:
            raise ArgumentError(
                f"line {command.line}: --{name} {text}: {_advise(variable[0], variable[1].strip('{}'))}"
            )
    place = after - 1 - bool(program.first_word)
    return PeerCommand(program, flags, _flags(command.words[:place], command.line), command.line)


def _advise(variable: str, name: str) -> str:
    """Say what to do about a variable without a value."""
    if variable == COMPUTED:
        return "what $(...) gives is known only when the script runs; write its value"
    if name.isdigit():
        return (
            f"{variable} is an argument of a function or of the script; write its value (a script of rounds becomes a "
            "file of alignment loop)"
        )
    if not name.isidentifier():
        return f"{variable} is not understood; write its value"
    return f"{variable} has no value in the script; put {name}=value on a line before the command"


def _flags(words: Iterable[str], line: int, *, is_strict: bool = False) -> dict[str, Any]:
    """Return ``--name value ...`` by name: one value, a list of several, or BARE; the last of equal names wins."""
    flags: dict[str, Any] = {}
    name = None
    for word in words:
        if re.match(r"--?[A-Za-z]", word):
            name, equals, value = word.lstrip("-").partition("=")
            name = name.replace("-", "_")
            flags[name] = value if equals else BARE
        elif name is not None:
            before = flags[name]
            flags[name] = word if before is BARE else [*(before if isinstance(before, list) else [before]), word]
        elif is_strict:
            hint = " (its keys must be given as flags)" if word.endswith((".yaml", ".yml", ".json")) else ""
            raise ArgumentError(f"line {line}: expected --flag value, got {word!r}{hint}")
    return flags


def _overrides(words: Iterable[str], line: int) -> dict[str, Any]:
    """Return ``group.field=value`` by name."""
    flags = {}
    for word in words:
        name, equals, value = word.lstrip("+").partition("=")
        if not equals:
            raise ArgumentError(f"line {line}: expected name=value, got {word!r}")
        flags[name] = value
    return flags


def _joined(found: Sequence[PeerCommand], merges: Sequence[Mapping[str, Any]]) -> list[PeerCommand]:
    """Return ``found`` with one command for the parts of equal flags beside ``local_index``."""
    kept: list[PeerCommand] = []
    seen: list[dict[str, Any]] = []
    for command in found:
        if "local_index" not in command.flags:
            kept.append(command)
            continue
        rest = {name: value for name, value in command.flags.items() if name != "local_index"}
        if rest in seen:
            continue
        seen.append(dict(rest))
        target = next((m.get("output_dir") for m in merges if m.get("base_path") == rest.get("output_dir")), None)
        kept.append(command._replace(flags={**rest, **({"output_dir": target} if target else {})}))
    return kept
