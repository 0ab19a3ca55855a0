"""SIGKILL a PPO run at random moments, saving included, until it gets through: the weights equal the unbroken run's."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time

import pytest
import runs

KILLS = int(os.environ.get("ALIGNMENT_TEST_KILLS", "10"))
pytestmark = pytest.mark.e2e


def _weights(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for name in ("policy", "value")
        for path in sorted((folder / name).glob("*.safetensors"))
    }


def _watch_and_kill(process, output_dir, *, delay, in_save):
    """Kill ``process`` ``delay`` seconds after its first sign of life, or in the middle of writing a checkpoint."""
    deadline = time.monotonic() + 120
    started = time.monotonic()
    while process.poll() is None and time.monotonic() < deadline:
        writing = list(output_dir.glob(".writing-checkpoint-*"))
        if (in_save and writing) or (not in_save and time.monotonic() - started > delay):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return "while saving" if writing else "between saves"
        time.sleep(0.001)
    return "too late"


def test_killed_and_resumed_equals_uninterrupted(tmp_path, ppo_arguments):
    arguments = {
        **ppo_arguments,
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": 2,
        "eval_datasets": "packing-prompts/test:8/-1",
        "evaluation_strategy": "steps",
        "eval_steps": 1,
        "load_best_model_at_end": True,
        "logging_steps": 5,
    }
    straight = {**arguments, "output_dir": tmp_path / "straight"}
    start = time.monotonic()
    runs.run_ok("ppo", straight, tmp_path / "a")
    duration = time.monotonic() - start

    broken = {**arguments, "output_dir": tmp_path / "broken", "resume_from_checkpoint": True}
    generator = random.Random(20261120)
    kills: list[str] = []
    while len(kills) < KILLS:
        process = subprocess.Popen(
            runs.command("ppo", broken, tmp_path / "b"),
            cwd=tmp_path,
            env=runs.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        where = _watch_and_kill(
            process,
            tmp_path / "broken",
            delay=generator.uniform(0.2, 1.0) * duration,
            in_save=len(kills) % 2 == 0,
        )
        if where == "too late":
            assert process.returncode == 0
            # The run is over: start it anew from nothing, so that every kill hits a working process.
            subprocess.run(["rm", "-rf", str(tmp_path / "broken")], check=True)
        else:
            kills.append(where)
    runs.run_ok("ppo", broken, tmp_path / "b")

    assert kills.count("while saving") >= KILLS // 2, kills
    expected, found = _weights(tmp_path / "straight"), _weights(tmp_path / "broken")
    assert expected.keys() == found.keys()
    assert len(expected) >= 2
    assert all(expected[name] == found[name] for name in expected), "resumed weights differ from the unbroken run's"
    assert runs.computed(tmp_path / "straight") == runs.computed(tmp_path / "broken")
    assert not list((tmp_path / "broken").glob(".*-checkpoint-*"))
