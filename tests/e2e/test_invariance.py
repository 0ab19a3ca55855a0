"""What must not change the result: micro-batches, recompute, where a run is started from; and PPO's first update."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import runs
from refusals import train_here
from safetensors.numpy import load_file

from alignment.models.folders.hub import SCORE_STATE
from alignment.runs.on_policy import run as assembly

pytestmark = pytest.mark.e2e

MODELS = ("policy", "value", "reward")


def _weights(output_dir):
    return {
        f"{name}/{key}": value
        for name in MODELS
        if (output_dir / name).is_dir()
        for key, value in load_file(str(output_dir / name / "model.safetensors")).items()
    }


def _bytes(output_dir):
    return {
        name: (output_dir / name / "model.safetensors").read_bytes() for name in MODELS if (output_dir / name).is_dir()
    }


CASES = {
    "sft": ("sft", {"max_steps": 6}),
    "rm-sequence": ("rm", {"max_steps": 6, "loss_type": "sequence-wise", "regularization": 0.01}),
    "rm-token": ("rm", {"max_steps": 6, "loss_type": "token-wise", "regularization": 0.01}),
    "rm-normalized": ("rm", {"max_steps": 6, "normalize_score_during_training": True}),
    # 60 supervised rows: their epochs end in the middle of an update.
    "ppo": ("ppo", {"ptx_datasets": "packing-sft/train:60/-1"}),
    "ppo-sequence": ("ppo", {"policy_loss_reduction": "sequence", "entropy_coeff": 0.01, "max_steps": 8}),
    "grpo": ("ppo", {"rl_algorithm": "grpo", "kl_coeff": 0.05, "kl_loss_coeff": 0.1, "entropy_coeff": 0.01}),
}


@pytest.mark.parametrize("case", CASES)
def test_micro_batches_change_nothing(case, request, tmp_path):
    trainer, changes = CASES[case]
    results, statistics = [], []
    packed = {"packing_samples": True, "max_tokens_per_batch": 64}
    for micro, steps, more in ((8, 1, {}), (4, 2, packed), (1, 8, {})):
        made = {**request.getfixturevalue(f"{trainer}_arguments"), **changes, "output_dir": tmp_path / f"out-{micro}"}
        made |= {"per_device_train_batch_size": micro, "gradient_accumulation_steps": steps, **more}
        train_here(trainer, made, tmp_path)
        results.append((_weights(made["output_dir"]), runs.computed(made["output_dir"])))
        if trainer == "rm":
            config = json.loads((made["output_dir"] / "reward" / "config.json").read_text())
            statistics.append(config[SCORE_STATE])
    for learned in statistics:
        assert learned["count"] == 6 * 8 * 2, "two scores a pair"
        assert learned["mean"] != 0.0 and learned == pytest.approx(statistics[0], abs=1e-5)
    (weights, metrics), *others = results
    for other_weights, other_metrics in others:
        for name, value in weights.items():
            np.testing.assert_allclose(other_weights[name], value, atol=1e-5, err_msg=name)
        for record, other in zip(metrics, other_metrics, strict=True):
            assert other == pytest.approx(record, abs=1e-5, rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [{}, {"temperature": 0.7}, {"temperature": 0.7, "repetition_penalty": 1.2, "top_k": 5}],
    ids=["plain", "cooler", "filtered"],
)
def test_the_first_update_of_ppo(changes, ppo_arguments, tmp_path):
    """Policy, reference and engine are still one model: every difference between them is zero."""
    made = {**ppo_arguments, "update_iters": 1, "per_device_train_batch_size": 8, "max_steps": 2, **changes}
    train_here("ppo", {**made, "output_dir": tmp_path / "out"}, tmp_path)
    first, second = runs.metrics(tmp_path / "out")
    for name in (
        "train/kl_divergence",
        "kl/k1",
        "kl/k2",
        "kl/k3",
        "policy/approx_kl",
        "policy/approx_kl_k3",
        "train/kl_reward",
    ):
        assert first[name] == pytest.approx(0, abs=1e-5), name
    for name in ("policy/ratio_mean", "policy/ratio_max"):
        assert first[name] == pytest.approx(1, abs=1e-5), name
    for name in ("policy/clip_fraction", "critic/clip_fraction"):
        assert first[name] == 0, name
    assert first["rollout/logprob_gap_max"] < 1e-4
    assert second["rollout/logprob_gap_max"] < 1e-4, "the engine has the new weights"
    assert second["train/kl_divergence"] != pytest.approx(0, abs=1e-4), "the policy moved away from its reference"


@pytest.mark.parametrize("trainer", ["sft", "rm", "ppo"])
def test_recompute_gives_the_same_bits(trainer, request, tmp_path):
    made = request.getfixturevalue(f"{trainer}_arguments")
    for name in ("false", "true"):
        train_here(trainer, {**made, "max_steps": 4, "recompute": name, "output_dir": tmp_path / name}, tmp_path)
    assert _bytes(tmp_path / "false") == _bytes(tmp_path / "true")
    assert _bytes(tmp_path / "true")


class _Noting:
    """The run's engine; it keeps the prompts and the answers of every call."""

    def __init__(self, engine, calls):
        self._engine, self._calls = engine, calls

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def generate(self, prompts, options, **addresses):
        completions = self._engine.generate(prompts, options, **addresses)
        self._calls.append(([list(map(int, p)) for p in prompts], [c.token_ids.tolist() for c in completions]))
        return completions


def test_a_run_repeats_itself_and_each_seed_changes_what_it_names(ppo_arguments, tmp_path, monkeypatch):
    """``seed`` draws the answers, ``data_seed`` the order of the prompts."""
    honest, calls = assembly.build_engine, {}
    made = {**ppo_arguments, "max_steps": 4, "train_datasets": "packing-prompts/test"}
    for name, seeds in (("one", (7, 7)), ("two", (7, 7)), ("other answers", (8, 7)), ("other order", (7, 8))):
        calls[name] = []
        noting = lambda *parts, to=calls[name], **more: _Noting(honest(*parts, **more), to)  # noqa: E731
        monkeypatch.setattr(assembly, "build_engine", noting)
        made |= dict(zip(("seed", "data_seed"), seeds, strict=True))
        train_here("ppo", {**made, "output_dir": tmp_path / name}, tmp_path)
    assert calls["one"] == calls["two"] and _bytes(tmp_path / "one") == _bytes(tmp_path / "two")
    (prompts, answers), (same_prompts, other_answers) = calls["one"][0], calls["other answers"][0]
    assert prompts == same_prompts and answers != other_answers
    assert calls["other order"][0][0] != prompts


def test_where_a_run_is_started_from_changes_nothing(sft_arguments, tmp_path):
    """Relative paths of the JSON file are looked for beside it; ``output_dir`` is made where the user stands."""
    beside, elsewhere, launched = (tmp_path / name for name in ("beside", "elsewhere", "launched"))
    for folder in (beside, elsewhere, launched):
        folder.mkdir()
    shutil.copytree(sft_arguments["model_name_or_path"], beside / "model")
    rows = runs.ROOT / "alignment/data/shipped/packing/sft_train.jsonl"
    (beside / "rows.jsonl").write_text("".join(rows.read_text().splitlines(keepends=True)[:64]))
    made = {**sft_arguments, "model_name_or_path": "model", "train_datasets": "jsonl:1:rows.jsonl", "output_dir": "out"}
    path = beside / "arguments.json"
    path.write_text(json.dumps(made))
    script = str(runs.ROOT / runs.SCRIPTS["sft"])
    launcher = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "1", script]
    commands = (
        (beside, [sys.executable, script, "arguments.json"]),
        (elsewhere, [sys.executable, script, os.path.relpath(path, elsewhere)]),
        (launched, [*launcher, str(path)]),
    )
    for folder, command in commands:
        done = subprocess.run(
            command, cwd=folder, env=runs.environment(), capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    first, *others = (_bytes(folder / "out") for folder in (beside, elsewhere, launched))
    assert first and all(other == first for other in others)
