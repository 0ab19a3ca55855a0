"""The benchmarks run on tiny models, sides that compute the same agree, and their files are as promised."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from statistics import mean

import pytest


def run_benchmark(repo_root, tmp_path, script: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repo_root / "benchmarks" / script), *options, "--write", "--results", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=500)
    assert run.returncode == 0, run.stderr[-4000:]
    return run


@pytest.mark.e2e
@pytest.mark.interop
@pytest.mark.slow
def test_one_ppo_step_of_the_tiny_model(repo_root, tmp_path):
    run = run_benchmark(repo_root, tmp_path, "ppo_step.py", "--models", "tiny", "--steps", "1")
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
        "paddle/plain": 1,
    }
    assert "engine" in outcome["settings"]["alignment"]
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


@pytest.mark.e2e
@pytest.mark.slow
def test_rollouts_of_the_tiny_model_without_peers(repo_root, tmp_path):
    sizes = ("--models", "tiny", "--batches", "2", "--prompt-tokens", "8", "--new-tokens", "4", "--repeats", "2")
    # A folder without environments: paddlenlp is not among what the tests need, so it is absent.
    run = run_benchmark(repo_root, tmp_path, "rollout.py", *sizes, "--sides", "fused-f32", "eager", "paddlenlp")
    assert "Absent: paddlenlp: no paddlenlp here" in run.stdout
    written = {path.suffix: path for path in tmp_path.iterdir()}
    assert written.keys() == {".md", ".json"}
    record = json.loads(written[".json"].read_text())
    (workload,) = record["workloads"]
    sides = {side["side"]: side for side in workload["records"]}
    assert sides.keys() | workload["absent"].keys() == {"fused-f32", "eager", "paddlenlp"}
    assert "eager" in sides
    assert all(len(side["prefill"]) == len(side["total"]) == 2 for side in sides.values())
    assert all(side["same_tokens"] == 1 for side in sides.values())
    assert str(tmp_path) not in written[".json"].read_text() + written[".md"].read_text()


def test_rollout_numbers_and_shares(repo_root, monkeypatch):
    monkeypatch.syspath_prepend(str(repo_root / "benchmarks"))
    import rollout_report as report

    record = report.Record("torch-f32", total=[(5.0, 9.0), (4.0, 8.0), (7.0, 7.0)], prefill=[(1.0, 1.0)] * 3)
    assert record.numbers(0, new_tokens=5) == [1.0, 1.0, 5.0]
    assert record.numbers(1, new_tokens=3) == [1.0, 3.5, 8.0]
    record.compare([[[1, 2], [3, 4]], [[5, 6], [7]]], [[[1, 2], [3, 0]], [[5, 6], [0]]])
    assert (record.same_tokens, record.same_first) == (5 / 7, 3 / 4)

    def agrees(side: str) -> bool:
        found = report.Record(side, [(1.0, 1.0)], [(1.0, 1.0)], same_tokens=0.5, same_first=0.5)
        return report.Workload("title", 2, "fused-f32", [found], {}, 0.0).agrees

    assert not agrees("eager")
    assert agrees("torch-bf16")


def test_longtail_lengths_are_what_is_said_of_them(repo_root, monkeypatch):
    monkeypatch.syspath_prepend(str(repo_root / "benchmarks"))
    import rollout_work as work

    lengths = work.longtail_lengths()
    assert len(lengths) == work.NUM_PROMPTS
    assert max(lengths) <= work.MAX_TOKENS
    assert mean(lengths) == pytest.approx(work.MEAN_TOKENS, rel=0.1)
    assert lengths != sorted(lengths)


def test_an_environment_of_a_peer_is_preferred(repo_root, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(repo_root / "benchmarks"))
    import rollout_team as team

    python = tmp_path / "torch" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    assert team.find_python("torch", tmp_path) == str(python)
    assert team.find_python("llama", tmp_path) == team.find_python("llama", None) == sys.executable
