"""Report what this machine has and what the suite will use: ``alignment doctor``; exit status 1: unusable."""

# Only the standard library is imported at the top, because missing packages must be reported too.
from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from alignment.arguments.command_line import ToolParser

if TYPE_CHECKING:
    from alignment.selfcheck.children import TrialOutcome, Trials

PYTHONS = ((3, 10), (3, 12))
"""Oldest and newest supported version."""
PADDLE = "3.3.1"
"""The version that the suite is tested with."""
REQUIRED = {
    "paddle": "paddlepaddle", "numpy": "numpy", "safetensors": "safetensors", "tokenizers": "tokenizers",
    "sentencepiece": "sentencepiece", "jinja2": "jinja2", "huggingface_hub": "huggingface_hub",
    "datasets": "datasets", "pyarrow": "pyarrow", "rich": "rich",
}  # fmt: skip
"""Required module to the package that provides it."""
SHOWN_VERSIONS = ("paddle", "numpy", "safetensors", "tokenizers")
PADDLE_IMPORT = "the import of Paddle"
TRIAL_SECONDS = 300.0
"""Time limit of one trial, including the compilation of the kernels."""


class Finding(NamedTuple):
    """One line of the table."""

    what: str
    value: str
    problem: str | None = None
    """Why the suite cannot run; None: no problem."""


def examine() -> list[Finding]:
    """Examine everything; call it before anything imports paddle."""
    findings = [_examine_python(), *_examine_packages()]
    if any(finding.problem for finding in findings):
        return findings
    from alignment.device.host import prepare_host

    findings.append(Finding("host settings", prepare_host()))
    trials = run_trials()
    failed = [outcome.name for outcome in trials if outcome.problem]
    findings += _summarise(trials)
    looks = [_examine_processor, _examine_compiler, _examine_nvcc, _examine_room]
    if PADDLE_IMPORT not in failed:
        looks.insert(0, _examine_paddle)
    if not failed:
        looks.insert(2, _examine_kernels)
    return findings + [finding for look in looks for finding in _guard(look)]


def run_trials() -> list[TrialOutcome]:
    """Try every operator, both engines and an update in child processes, which may crash."""
    from alignment.selfcheck.children import try_in_children

    return try_in_children(_make_trials, start=PADDLE_IMPORT, timeout=TRIAL_SECONDS)


def _make_trials() -> Trials:
    import paddle

    # Paddle's handler would print a page of text and, under an emulator, never finish.
    paddle.disable_signal_handler()
    from alignment.selfcheck.suite import all_trials

    return all_trials()


def _summarise(trials: list[TrialOutcome]) -> list[Finding]:
    failed = [outcome for outcome in trials if outcome.problem]
    passed = f"{len(trials) - len(failed)} of {len(trials)} passed (operators, engines, updates)"
    lines = [Finding(outcome.name, str(outcome.problem), f"{outcome.name} {outcome.problem}") for outcome in failed]
    return [Finding("trials", passed), *lines]


def _guard(look: Callable[[], list[Finding]]) -> list[Finding]:
    """Return what ``look`` finds; an exception becomes a finding, so that the others are still shown."""
    try:
        return look()
    except Exception as error:
        name = look.__name__.removeprefix("_examine_")
        return [Finding(name, "broken", f"{name}: {type(error).__name__}: {error}")]


def _examine_python() -> Finding:
    first, last = (".".join(map(str, version)) for version in PYTHONS)
    supported = PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]
    problem = None if supported else f"Python {platform.python_version()} is not supported; use {first} to {last}"
    return Finding("python", f"{platform.python_version()} on {platform.platform()}", problem)


def _examine_packages() -> list[Finding]:
    findings = []
    for module, package in REQUIRED.items():
        if importlib.util.find_spec(module) is None:
            findings.append(Finding(module, "missing", f"{module} is missing: pip install {package}"))
        elif module in SHOWN_VERSIONS:
            version = _installed_version(module, package)
            other = module == "paddle" and version != PADDLE
            findings.append(Finding(module, f"{version} (tested with {PADDLE} only)" if other else version))
    return findings


def _installed_version(module: str, package: str) -> str:
    """Return the version of ``package`` or of its GPU variant."""
    for name in (package, f"{package}-gpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"unknown ({module} is importable)"


def _examine_paddle() -> list[Finding]:
    import paddle

    return [Finding("paddle computes on", paddle.device.get_device()), Finding("GPU", _describe_gpus(paddle))]


def _describe_gpus(paddle: object) -> str:
    if not paddle.device.is_compiled_with_cuda():
        return "not used: this Paddle is built for CPUs"
    count, cuda = paddle.device.cuda.device_count(), paddle.version.cuda()
    if count == 0:
        return f"none found (Paddle has CUDA {cuda})"
    return f"{count} x {paddle.device.cuda.get_device_name(0)}, CUDA {cuda}"


def _examine_processor() -> list[Finding]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    model = _read_field(Path("/proc/cpuinfo"), "model name") or platform.machine()
    return [Finding("processor", f"{model}, {usable} cores usable")]


def _examine_kernels() -> list[Finding]:
    """Examine the kernels, compiling them if that has not been done."""
    import paddle

    from alignment.ops.native.library import find_core

    core, reason = find_core()
    device = paddle.device.get_device()
    if core is None:
        slower = "eager engine (slower, same results)"
        generation = slower if device == "cpu" else _describe_cuda_engine()
        training = "Paddle's operators (slower, same results)"
        return [Finding("kernels", f"none: {reason}"), *_describe_use(generation, training)]
    found = Finding("kernels", f"{core.reason}; instruction set {core.isa}")
    if device != "cpu":
        return [found, *_describe_use(_describe_cuda_engine(), f"Paddle's operators, Paddle computes on {device}")]
    kernels = f"with {core.isa} kernels"
    return [found, *_describe_use(f"fused engine {kernels}", f"compiled operators {kernels}")]


def _describe_cuda_engine() -> str:
    """Return what generates on a GPU, as far as it does not depend on the model."""
    from alignment.generation.cuda.paddle_device import device_obstacle
    from alignment.ops.native.cuda.library import find_cuda

    library, reason = find_cuda()
    obstacle = f"no CUDA kernels: {reason}" if library is None else device_obstacle(library)
    return f"fused engine with CUDA kernels ({reason})" if obstacle is None else f"eager engine: {obstacle}"


def _examine_nvcc() -> list[Finding]:
    """The CUDA kernels are compiled when a GPU wants them; nothing is compiled here."""
    from alignment.ops.native import build
    from alignment.ops.native.cuda import kinds

    try:
        prebuilt = build.find_prebuilt(kind=kinds.CUDA).origin
    except build.KernelBuildError as error:
        prebuilt = str(error)
    try:
        compiler = kinds.find_nvcc()
        nvcc = f"{compiler.program}: {compiler.version}"
    except build.KernelBuildError as error:
        nvcc = str(error)
    return [Finding("CUDA kernels", f"{nvcc}; {prebuilt}")]


def _describe_use(generation: str, training: str) -> list[Finding]:
    return [Finding("generation", generation), Finding("training", training)]


def _examine_compiler() -> list[Finding]:
    from alignment.ops.native import build

    try:
        compiler = build.find_compiler()
    except build.KernelBuildError as error:
        return [Finding("compiler", str(error))]
    return [Finding("compiler", f"{compiler.program}: {compiler.version}")]


def _examine_room() -> list[Finding]:
    from alignment.ops.native import build

    cache = build.cache_folder()
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 2**30
    available = _read_field(Path("/proc/meminfo"), "MemAvailable")
    memory = f"{int(available.split()[0]) / 2**20:.1f} GiB" if available else "unknown"
    return [Finding("free memory", memory), Finding("build cache", f"{cache}, {free:.1f} GiB free")]


def _read_field(path: Path, name: str) -> str | None:
    """Return the value of the first line ``name: value``; None if there is none."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() == name), None)


def print_findings(findings: list[Finding]) -> int:
    """Print the table and the verdict; return the exit status."""
    rows = [(finding.what, finding.value) for finding in findings]
    if importlib.util.find_spec("rich") is None:
        print("\n".join(f"{what}: {value}" for what, value in rows))
    else:
        from alignment.telemetry.tables import print_table

        print_table("alignment on this machine", ("what", "found"), rows)
    problems = [finding.problem for finding in findings if finding.problem]
    for problem in problems:
        print(f"problem: {problem}")
    print("the suite cannot run here" if problems else "the suite can run here")
    return 1 if problems else 0


def main(argv: Sequence[str]) -> int:
    """Examine this machine and print what was found."""
    ToolParser(prog="alignment doctor", description=__doc__).parse_args(argv)
    if importlib.util.find_spec("rich") is not None:
        from alignment.telemetry import log

        log.configure(output_dir=None, is_main=True)
    return print_findings(examine())
