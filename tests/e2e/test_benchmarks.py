"""The benchmark runs on the tiny model, both sides compute the same, and its files are as promised."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest


@pytest.mark.e2e
@pytest.mark.interop
@pytest.mark.slow
def test_one_ppo_step_of_the_tiny_model(repo_root, tmp_path):
    command = [sys.executable, str(repo_root / "benchmarks" / "ppo_step.py"), "--models", "tiny", "--steps", "1"]
    run = subprocess.run(
        [*command, "--write", "--results", str(tmp_path)], capture_output=True, text=True, cwd=tmp_path, timeout=500
    )
    assert run.returncode == 0, run.stderr[-4000:]
    assert "the sides agree within 0.001" in run.stdout
    for phase in ("rollout", "scoring", "update", "total"):
        assert phase in run.stdout
    written = {path.suffix: path for path in tmp_path.iterdir()}
    assert written.keys() == {".md", ".json"}
    assert all(re.match(r"\d{4}-\d\d-\d\d-ppo-step-[a-z0-9-]+$", path.stem) for path in written.values())
    outcome = json.loads(written[".json"].read_text())["outcomes"][0]
    assert {column: len(records) for column, records in outcome["seconds"].items()} == {
        "torch/full": 1,
        "paddle/library": 1,
        "torch/response": 1,
    }
    assert str(tmp_path) not in written[".json"].read_text() + written[".md"].read_text()


def test_sides_that_differ_fail(repo_root, monkeypatch):
    monkeypatch.syspath_prepend(str(repo_root / "benchmarks"))
    import ppo_step_report as report

    same = {"old_logprobs": [[-1.0, -2.0]], "policy_gradient_norm": 10.0}
    other = {"old_logprobs": [[-1.0, -2.01]], "policy_gradient_norm": 10.2}
    found = report.Comparison.of(other, same).differences
    assert found == pytest.approx({"old_logprobs": 0.01, "policy_gradient_norm": 0.02})
    for comparison, agrees in ((report.Comparison.of(same, same), True), (report.Comparison.of(other, same), False)):
        outcome = report.Outcome(work=None, comparison=comparison, seconds={}, settings={}, tolerance=1e-3)
        assert outcome.agrees is agrees
