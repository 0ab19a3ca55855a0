"""PPO on the emulated CUDA kernels makes the run that the CPU kernels make."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignment.models.decoder.score_model import ScoreOptions
from alignment.models.folders.hub import random_causal_lm, random_score_model
from alignment.models.folders.saving import save_model
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.ops.native.library import find_core
from alignment.runs.on_policy import engines
from alignment.trainers.registered import TRAINERS
from tests.emulated import emulated_kernels

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "alignment" / "data" / "shipped" / "packing" / "tokenizer"
CONFIG = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 128,
}
KEYS = {
    "train_datasets": "packing-prompts/train:24/-1",
    "chat_template": "tokenizer",
    "report_to": "none",
    "save_strategy": "no",
    "max_length": 96,
    "max_dec_len": 6,
    "top_p": 1.0,
    "max_steps": 2,
    "logging_steps": 1,
    "per_device_train_batch_size": 4,
    "per_device_prompt_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "device": "cpu",
}


def make_models(folder: Path) -> dict[str, str]:
    """Return the keys that name a new policy and reward model in ``folder``."""
    path, tokenizer = folder / "config.json", load_tokenizer(TOKENIZER)
    path.write_text(json.dumps(CONFIG))
    save_model(folder / "policy", random_causal_lm(path, seed=1, tokenizer=tokenizer), tokenizer)
    reward = random_score_model(path, ScoreOptions(score_type="reward"), seed=2, tokenizer=tokenizer)
    save_model(folder / "reward", reward, tokenizer)
    return {
        "actor_model_name_or_path": str(folder / "policy"),
        "reward_model_name_or_path": str(folder / "reward"),
    }


def run(folder: Path, models: dict[str, str]) -> tuple[list[dict], str]:
    """Return the metrics of two updates and the log."""
    folder.mkdir()
    path = folder / "ppo_argument.json"
    path.write_text(json.dumps({**KEYS, **models, "output_dir": str(folder / "out")}))
    TRAINERS["ppo"].train([str(path)], host="test")
    lines = (folder / "out" / "metrics.jsonl").read_text().splitlines()
    (log,) = (folder / "out").glob("*.log")
    return [json.loads(line) for line in lines], log.read_text()


def test_two_updates_of_ppo_are_those_of_the_cpu_kernels(tmp_path, monkeypatch):
    if find_core().core is None:
        pytest.skip(find_core().reason)
    models = make_models(tmp_path)
    wanted, log = run(tmp_path / "cpu", models)
    assert "rollouts: fused engine (" in log and "CUDA" not in log
    monkeypatch.setattr(engines, "device_kernels", emulated_kernels)
    found, log = run(tmp_path / "cuda", models)
    assert "rollouts: fused engine (CUDA kernels: emulated, " in log and "weights in float32" in log
    compared = 0
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() & {key for key in other if key.startswith(("train/", "rollout/", "loss/", "reward/"))}:
            if "seconds" not in name and "per_second" not in name and isinstance(one[name], float):
                assert one[name] == pytest.approx(other[name], abs=1e-4, rel=1e-3), name
                compared += 1
    assert compared >= 20
