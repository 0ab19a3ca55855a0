"""The benchmarks run on tiny models, sides that compute the same agree, and their files are as promised."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from statistics import mean

import pytest
import runs


def run_benchmark(repo_root, tmp_path, script: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repo_root / "benchmarks" / script), *options, "--write", "--results", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=500)
    assert run.returncode == 0, run.stderr[-4000:]
    return run


@pytest.mark.e2e
@pytest.mark.interop
@pytest.mark.slow
def test_one_ppo_step_of_the_tiny_model(repo_root, tmp_path):
    run = run_benchmark(repo_root, tmp_path, "ppo_step.py", "--models", "tiny", "--steps", "0", "--skip-padded")
    assert "the sides agree within 0.001" in run.stdout
    for phase in ("rollout", "scoring", "update", "total"):
        assert phase in run.stdout
    written = {path.suffix: path for path in tmp_path.iterdir()}
    assert written.keys() == {".md", ".json"}
    assert all(re.match(r"\d{4}-\d\d-\d\d-ppo-step-[a-z0-9-]+$", path.stem) for path in written.values())
    outcome = json.loads(written[".json"].read_text())["outcomes"][0]
    assert {column: len(records) for column, records in outcome["seconds"].items()} == {
        "paddle/library": 1,
        "torch/response": 1,
        "paddle/plain": 1,
    }
    assert min(outcome["peaks"].values()) > 1 << 26
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
        found = {"case": "a", "work": None, "comparison": comparison, "seconds": {}, "peaks": {}, "settings": {}}
        outcome = report.Outcome(**found, tolerance=1e-3)
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


def _offline_outcome(repo_root, monkeypatch, **losses):
    monkeypatch.syspath_prepend(str(repo_root / "benchmarks"))
    import offline_report as report
    import offline_work

    work = offline_work.Work(model="tiny", objective="sft", shape="ragged", threads=1, steps=4)
    seconds = {"trl": [[9, 9], [9, 9], [4, 8], [2, 6]], "fixed": [[1, 4]] * 4, "packed": [[1, 2]] * 4}
    sides = {
        name: {"losses": losses.get(name, [1.0] * 4), "seconds": seconds[name], "versions": {name: "1"}}
        for name in seconds
    }
    return report, report.Outcome(work=work, sides=sides, load_before=0.5)


def test_offline_numbers_and_losses_that_differ(repo_root, monkeypatch):
    report, same = _offline_outcome(repo_root, monkeypatch)
    assert same.agrees and same.row("wall")[3:8] == ("3.000 s", "1.000 s", "1.000 s", "0.33", "0.33")
    assert same.row("CPU")[6:] == ("0.57", "0.29", "0.39", "by tokens <= 0.35", "0.0e+00")
    _, other = _offline_outcome(repo_root, monkeypatch, packed=[1.0, 1.0, 1.0002, 1.0])
    assert not other.agrees
    page = report.render_markdown({"date": "2026-11-29"}, [same])
    assert "| tiny | sft | ragged | 3.000 s | 1.000 s | 1.000 s | 0.33 | 0.33 |" in page


def test_a_token_budget_balances_the_benchmark_rows(repo_root, monkeypatch):
    report, outcome = _offline_outcome(repo_root, monkeypatch)
    shares = [(int(ranks), float(fixed), float(packed)) for ranks, fixed, packed in report.balance(outcome.work)]
    assert [ranks for ranks, _, _ in shares] == [2, 8]
    assert all(packed < 1.01 < 1.05 < fixed for _, fixed, packed in shares), shares


@pytest.mark.e2e
@pytest.mark.slow
def test_our_side_of_the_offline_benchmark(repo_root, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(repo_root / "benchmarks"))
    import offline
    import offline_work

    offline.make_models(tmp_path, "tiny")
    offline_work.Work(model="tiny", objective="dpo", shape="ragged", threads=1, steps=2).write(tmp_path)
    script = str(repo_root / "benchmarks" / "offline_ours.py")
    found = offline._run([sys.executable, script, str(tmp_path), "packed"], runs.environment())
    assert found["losses"][0] == pytest.approx(0.6931472, abs=1e-6) and len(found["losses"]) == 2
    assert len(found["seconds"]) == 1 and min(found["seconds"][0]) > 0
