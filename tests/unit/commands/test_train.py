"""``alignment.train`` runs a trainer in this process: the numbers are those of the script, errors are raised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import alignment
from alignment.errors import ArgumentError
from alignment.parity.subjects import COMMON, SMALL_MODEL, make_models
from alignment.trainers.registered import TRAINERS

SHAPE = {**SMALL_MODEL, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
         "num_key_value_heads": 2}  # fmt: skip


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    make_models(tmp_path, SHAPE)
    monkeypatch.chdir(tmp_path)
    return {**COMMON, **TRAINERS["sft"].small_run, "max_steps": 2, "eval_datasets": ["packing-sft/test:4/-1"],
            "evaluation_strategy": "steps", "eval_steps": 2}  # fmt: skip


NOTEBOOK = """
import json, pathlib, alignment
done = alignment.train("sft", json.loads(pathlib.Path("sft.json").read_text()) | {"output_dir": pathlib.Path("here")})
print("found", json.dumps([str(done.folder), [record for record in done.metrics]]))
"""


def test_it_returns_what_the_script_writes(arguments, tmp_path):
    """Both in processes of their own: Paddle reads the settings of the host once, when it is first imported."""
    root = Path(alignment.__file__).parents[1]
    (tmp_path / "sft.json").write_text(json.dumps({**arguments, "output_dir": "there"}))
    script = [sys.executable, str(root / TRAINERS["sft"].door), "sft.json"]
    subprocess.run(script, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    environment = {**os.environ, "PYTHONPATH": str(root)}
    notebook = [sys.executable, "-c", NOTEBOOK]
    done = subprocess.run(
        notebook, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=120, env=environment
    )
    folder, metrics = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("found"))[6:])
    assert Path(folder) == tmp_path / "here"
    there = [json.loads(line) for line in (tmp_path / "there" / "metrics.jsonl").read_text().splitlines()]
    losses = [[record[key] for record in records for key in ("sft/loss", "eval/loss") if key in record]
              for records in (metrics, there)]  # fmt: skip
    assert losses[0] == losses[1] and len(losses[0]) == 3
    weights = [(tmp_path / name / "policy" / "model.safetensors").read_bytes() for name in ("here", "there")]
    assert weights[0] == weights[1]
    assert "imported before" not in done.stderr and "ccache" not in done.stderr


EARLY = """
import paddle, alignment
from alignment.device import host
host._read_cpu_info = lambda: ("AuthenticAMD", frozenset({"avx2"}))
for _ in range(2):
    try:
        alignment.train("sft", {})
    except alignment.errors.ArgumentError:
        pass
"""


def test_paddle_imported_too_early_is_said_once():
    """MKL has then chosen its path for the processor, and the last bits of a product are those of another one."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MKL_DEBUG")}
    environment |= {"PYTHONPATH": str(Path(alignment.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", EARLY], check=True, capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.stderr.count("Paddle was imported before alignment.train") == 1
    assert "sets MKL_DEBUG_CPU_TYPE=5 too late: training is slower, and its numbers differ" in done.stderr


def test_what_is_wrong_is_raised(arguments, tmp_path):
    with pytest.raises(ArgumentError, match="grpo is an algorithm of the trainer ppo: .* rl_algorithm=grpo"):
        alignment.train("grpo", {})
    with pytest.raises(ArgumentError, match="expected a dict of keys and values, got 'x.json'"):
        alignment.train("sft", "x.json")
    with pytest.raises(ArgumentError, match="unknown trainer 'pp'"):
        alignment.train("pp", {})
    with pytest.raises(ArgumentError, match="learning_rat"):
        alignment.train("sft", {**arguments, "output_dir": tmp_path / "o", "learning_rat": 1e-3})
    assert not (tmp_path / "o").exists()


def test_a_message_says_that_the_value_came_from_a_call():
    given = {"train_datasets": "a", "learning_rate": -1, "device": object, "output_dir": "--x", "nonsense": 1}
    with pytest.raises(ArgumentError) as raised:
        alignment.train("sft", given)
    said = str(raised.value)
    assert "learning_rate: expected a value >= 0, got -1.0 (in the call from Python)" in said
    assert "unknown argument 'nonsense' (in the call from Python)" in said
    assert "device: expected one of" in said and "<class 'object'>" in said
    assert "command line" not in said and "output_dir" not in said
