"""The doctor: what it prints, and when it says that the suite cannot run."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import paddle
import pytest

from alignment.commands import doctor
from alignment.commands.doctor import Finding
from alignment.ops.native import build, library
from alignment.ops.native.cuda import kinds
from alignment.ops.native.cuda import library as cuda_library
from alignment.ops.native.cuda.library import CudaSearch
from alignment.ops.native.library import Search
from alignment.selfcheck.children import TrialOutcome
from alignment.telemetry.exit_status import describe_exit


def look(findings: list[Finding]) -> dict[str, str]:
    return {finding.what: finding.value for finding in findings}


@pytest.fixture(autouse=True)
def trials(monkeypatch):
    """Set what came of the trials (they have tests of their own); all went well until something else is set."""
    found = [TrialOutcome(name, None) for name in (doctor.PADDLE_IMPORT, "an operator", "an engine")]
    monkeypatch.setattr(doctor, "run_trials", lambda: found)
    return found


class FakeCore:
    """A library that was found."""

    reason, isa = "cached build somewhere", "avx2"


@pytest.fixture
def found(monkeypatch):
    """Set what the search for kernels finds; nothing is compiled."""

    def set_found(core, reason="the reason"):
        monkeypatch.setattr(library, "find_core", lambda: Search(core, reason))

    set_found(FakeCore())
    return set_found


def test_every_question_has_an_answer(found):
    findings = doctor.examine()
    values = look(findings)
    expected = {"python", "paddle", "numpy", "safetensors", "tokenizers", "host settings", "paddle computes on"}
    expected |= {"GPU", "processor", "kernels", "generation", "training", "compiler", "free memory", "build cache"}
    expected |= {"trials", "CUDA kernels"}
    assert set(values) == expected
    assert values["paddle"] == "3.3.1"
    assert values["kernels"] == "cached build somewhere; instruction set avx2"
    assert values["trials"] == "3 of 3 passed (operators, engines, updates)"
    assert "fused engine" in values["generation"]
    assert "compiled operators" in values["training"]
    assert "OMP_NUM_THREADS" in values["host settings"]
    assert re.fullmatch(r"\d+\.\d GiB", values["free memory"])
    assert [finding.problem for finding in findings if finding.problem] == []


@pytest.mark.parametrize(
    ("cuda", "says"),
    [
        (
            CudaSearch(SimpleNamespace(is_emulated=False), "cached build"),
            "fused engine with CUDA kernels (cached build)",
        ),
        (CudaSearch(None, "no nvcc"), "eager engine: no CUDA kernels: no nvcc"),
    ],
)
def test_on_a_gpu_the_cuda_kernels_generate_where_they_can_be_had(found, monkeypatch, cuda, says):
    monkeypatch.setattr(paddle.device, "get_device", lambda: "gpu:0")
    monkeypatch.setattr(paddle.version, "cuda", lambda: "12.6")
    monkeypatch.setattr(paddle.device.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(cuda_library, "find_cuda", lambda: cuda)
    for core in (FakeCore(), None):
        found(core)
        assert look(doctor._examine_kernels())["generation"] == says


def test_the_compiler_of_the_cuda_kernels_is_named(monkeypatch):
    monkeypatch.setattr(kinds, "_NVCC_PLACES", ("nvcc-is-not-here",))
    (row,) = doctor._examine_nvcc()
    assert row.value == "no nvcc: none of nvcc-is-not-here runs; no prebuilt library beside the package"
    assert row.problem is None, "nobody needs it"


def test_without_kernels_the_eager_engine_is_named_and_it_can_run(found):
    found(None, "no C++ compiler")
    findings = doctor.examine()
    assert look(findings)["kernels"] == "none: no C++ compiler"
    assert "eager" in look(findings)["generation"]
    assert "Paddle's operators" in look(findings)["training"]
    assert doctor.print_findings(findings) == 0


def test_on_a_gpu_the_eager_engine_is_named(found, monkeypatch):
    monkeypatch.setattr("paddle.device.get_device", lambda: "gpu:0")
    values = look(doctor.examine())
    assert "eager" in values["generation"] and "Paddle's operators" in values["training"]


def test_a_missing_package_is_a_reason(monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tokenizers" else find_spec(name))
    findings = doctor.examine()
    assert doctor.print_findings(findings) == 1
    printed = capsys.readouterr().out
    assert "pip install tokenizers" in printed
    assert "cannot run" in printed
    assert "kernels" not in look(findings), "nothing is imported when a package is missing"


def test_it_prints_without_rich(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert doctor.print_findings(doctor.examine()) == 1
    printed = capsys.readouterr().out
    assert "pip install rich" in printed
    assert "pip install paddlepaddle" in printed


def test_an_old_python_is_a_reason(monkeypatch):
    monkeypatch.setattr(doctor, "PYTHONS", ((3, 98), (3, 99)))
    assert "use 3.98 to 3.99" in doctor.examine()[0].problem


def test_another_paddle_is_pointed_out(found, monkeypatch):
    monkeypatch.setattr(doctor, "PADDLE", "9.9")
    assert look(doctor.examine())["paddle"] == "3.3.1 (tested with 9.9 only)"


def test_a_surprise_is_a_reason_and_hides_nothing(found, monkeypatch):
    def fail():
        raise OSError("disk on fire")

    monkeypatch.setattr(build, "cache_folder", fail)
    findings = doctor.examine()
    assert [finding.problem for finding in findings if finding.problem] == ["room: OSError: disk on fire"]
    assert "kernels" in look(findings)


def test_a_trial_that_ends_its_process_is_a_reason_with_the_name_of_the_signal(found, trials, capsys):
    trials[1] = TrialOutcome("the eager engine", describe_exit(-signal.SIGILL))
    findings = doctor.examine()
    assert doctor.print_findings(findings) == 1
    printed = capsys.readouterr().out
    assert "problem: the eager engine was ended by SIGILL (Illegal instruction): the processor lacks" in printed
    assert "the suite cannot run here" in printed and "can run here" not in printed.replace("cannot run here", "")
    assert look(findings)["trials"] == "2 of 3 passed (operators, engines, updates)"
    assert "kernels" not in look(findings), "this process does not load what another may have died of"


def test_where_paddle_cannot_be_imported_it_is_not_imported_here(found, trials, capsys):
    trials[:] = [TrialOutcome(doctor.PADDLE_IMPORT, describe_exit(-signal.SIGILL))]
    findings = doctor.examine()
    assert "paddle computes on" not in look(findings) and "processor" in look(findings)
    assert doctor.print_findings(findings) == 1


def test_the_trials_run_in_children(monkeypatch):
    """The real ones, with an operator in front that ends its process."""
    monkeypatch.undo()
    make = doctor._make_trials
    bad = ("a bad operator", lambda: os.kill(os.getpid(), signal.SIGILL))
    monkeypatch.setattr(doctor, "_make_trials", lambda: [bad, *make()])
    found = {outcome.name: outcome.problem for outcome in doctor.run_trials()}
    assert found.pop("a bad operator").startswith("was ended by SIGILL ")
    assert len(found) > 60 and set(found.values()) == {None}
    assert {"the eager engine", "an update with Paddle's operators", "Paddle's matmul"} <= set(found)


def test_what_it_requires_is_what_is_installed(repo_root):
    setup = (repo_root / "setup.py").read_text(encoding="utf-8")
    core = re.search(r"CORE = \[(.*?)\]", setup, re.DOTALL).group(1)
    installed = {re.match(r"[\w-]+", name).group() for name in re.findall(r'"([^"]+)"', core)}
    assert set(doctor.REQUIRED.values()) <= installed
    assert f'"paddlepaddle=={doctor.PADDLE}"' in core
    low, high = re.search(r'python_requires=">=3\.(\d+),<3\.(\d+)"', setup).groups()
    assert ((3, int(low)), (3, int(high) - 1)) == doctor.PYTHONS


def test_the_command_runs_where_there_is_no_compiler(tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path), "PATH": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "alignment", "doctor"]
    root = Path(doctor.__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "the suite can run here" in done.stdout
    assert "generation" in done.stdout


@pytest.mark.parametrize(
    ("count", "says"), [(0, "none found (Paddle has CUDA 12.6)"), (8, "8 x NVIDIA H100 80GB HBM3, CUDA 12.6")]
)
def test_gpus_are_counted_and_named(count, says, monkeypatch):
    monkeypatch.setattr(paddle.device, "is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: count)
    monkeypatch.setattr(paddle.device.cuda, "get_device_name", lambda index: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(paddle.version, "cuda", lambda: "12.6")
    assert doctor._describe_gpus(paddle) == says
