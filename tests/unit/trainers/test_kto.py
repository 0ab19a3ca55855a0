"""Short runs of KTO on the tiny model: first loss, micro-batches, what is kept of the reference, going on."""

from __future__ import annotations

import json
import shutil

import pytest

from alignment.errors import ArgumentError, DataError
from alignment.runs.offline import models
from alignment.trainers.registered import TRAINERS
from tests.contract.keys.assembled import make_models
from tests.tiny_runs import train_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds the tiny model ``policy``."""
    place = tmp_path_factory.mktemp("kto")
    make_models(place)
    return place


def train(folder, name, **keys):
    """Run KTO on 24 rows, 12 updates and two evaluations on the same rows; return the metrics of both."""
    own = {
        **{"model_name_or_path": str(folder / "policy"), "eval_datasets": "packing-kto/train:24/-1"},
        **{"evaluation_strategy": "epoch", "num_train_epochs": 2, "overwrite_output_dir": True},
    }
    return train_tiny("kto", folder, name, **{**own, **keys})


@pytest.fixture(scope="module")
def plain(folder):
    return train(folder, "plain")


def nearly(found, expected):
    assert [record.keys() for record in found] == [record.keys() for record in expected]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=2e-5)


def test_the_first_loss_is_one_half_and_it_falls(plain):
    first, *_, last = plain
    assert first["kto/loss"] == 0.5, "the policy is its reference: sigmoid(0)"
    assert first["kto/kl"] == first["rewards/chosen"] == first["rewards/rejected"] == first["rewards/margins"] == 0.0
    assert last["eval/loss"] < 0.5 and last["eval/rewards/margins"] > 0
    kept = [record[key] for record in plain for key in ("kto/kl", "eval/kl") if key in record]
    assert min(kept) == 0.0 < max(kept), "never negative"
    assert last["eval/rewards/margins"] == pytest.approx(last["eval/rewards/chosen"] - last["eval/rewards/rejected"])


@pytest.mark.parametrize(
    "keys",
    [
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
        {"packing_samples": True, "max_tokens_per_batch": 40, "max_length": 40},
    ],
)
def test_micro_batches_change_nothing(folder, plain, keys):
    """Also those of a token budget, which take the rows of an update in another order."""
    nearly(train(folder, "micro", **keys), plain)


def test_the_reference_of_an_adapter_is_its_base(folder):
    first, *_, last = train(folder, "adapter", lora=True, lora_rank=2)
    assert (first["kto/loss"], first["kto/kl"]) == (0.5, 0.0) and last["eval/loss"] < 0.5


def test_the_reference_of_all_updates_is_computed_ahead(folder, plain, monkeypatch):
    seen, original = [], models.load_causal_lm
    monkeypatch.setattr(models, "load_causal_lm", lambda *given, **named: seen.append(0) or original(*given, **named))
    apart = {"precompute_ref_logprobs": True, "reference_from_policy": False}
    kept = train(folder, "kept", **apart)
    nearly(kept, plain)
    assert len(seen) == 2, "policy and reference"
    assert train(folder, "kept", precompute_ref_logprobs=True) == kept and len(seen) == 3, "not loaded again"
    train(folder, "kept", **apart, data_seed=7)
    assert len(seen) == 5, "another order gives other answers to each prompt"


@pytest.mark.parametrize("loss_type", ["kto", "vanilla"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(folder, loss_type):
    keys = {"loss_type": loss_type, "save_strategy": "steps", "save_steps": 4}
    whole = train(folder, f"whole-{loss_type}", **keys)
    shutil.copytree(folder / f"whole-{loss_type}" / "checkpoint-4", folder / f"half-{loss_type}" / "checkpoint-4")
    rest = train(folder, f"half-{loss_type}", **keys, overwrite_output_dir=False, resume_from_checkpoint=True)
    assert rest == whole[-len(rest) :] and rest[0]["step"] == 5
    half, all_at_once = (folder / f"{name}-{loss_type}" / "policy" / "model.safetensors" for name in ("half", "whole"))
    assert half.read_bytes() == all_at_once.read_bytes()


def test_weights_move_what_is_learned(folder, plain):
    liked = train(folder, "liked", undesirable_weight=0.0)
    assert liked[0]["kto/loss"] < plain[0]["kto/loss"]
    assert liked[-1]["eval/logps/rejected"] > plain[-1]["eval/logps/rejected"]


def test_an_update_without_a_label_reports_what_it_has(folder):
    records = train(folder, "single", per_device_train_batch_size=2, num_train_epochs=1)
    sides = [{key for key in record if key.startswith("rewards/")} for record in records]
    assert {"rewards/chosen"} in sides and {"rewards/chosen", "rewards/rejected", "rewards/margins"} in sides


@pytest.mark.parametrize(
    ("keys", "error", "says"),
    [
        ({"loss_type": "sigmoid"}, ArgumentError, "loss_type: expected one of .kto., .apo_zero_unpaired., .vanilla."),
        ({"beta": 0}, ArgumentError, "beta"),
        ({"desirable_weight": -1}, ArgumentError, "desirable_weight"),
        (
            {"desirable_weight": 0, "undesirable_weight": 0}, ArgumentError,
            "desirable_weight=0 and undesirable_weight=0 train nothing; one of them must be above 0",
        ),
        ({"label_smoothing": 0.1}, ArgumentError, "unknown argument 'label_smoothing'"),
        ({"per_device_train_batch_size": 1}, DataError, "24 rows in updates of 1 one update has a single row"),
        ({"train_datasets": "packing-kto/train:1/-1"}, DataError, "train_datasets: 1 row, all of them"),
        ({"train_datasets": "packing-sft/train:8/-1"}, DataError, "missing 'desirable'"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_before_training(folder, keys, error, says):
    with pytest.raises(error, match=says):
        train(folder, "declined", **keys)
    assert not (folder / "declined" / "policy").exists() and not (folder / "declined" / "metrics.jsonl").exists()


OPENRLHF = """--save_path ./kto --save_steps -1 --logging_steps 1 --eval_steps -1 --micro_train_batch_size 2
 --pretrain ./policy --bf16 --max_len 8192 --zero_stage 3 --learning_rate 5e-7 --dataset ./rows.jsonl
 --input_key instruction --output_key response --label_key score --flash_attn --beta 0.1 --gradient_checkpointing
 --ref_offload"""
"""The page's command but for --train_batch_size 256, --max_epochs 1, --use_wandb and --input_template."""


def test_the_kto_command_of_openrlhf_is_understood(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "rows.jsonl").write_text("{}")
    parsed = TRAINERS["kto"].parse(OPENRLHF.split())
    assert (parsed.columns.input_key, parsed.columns.output_key, parsed.columns.label_key) == (
        "instruction", "response", "score",
    )  # fmt: skip
    assert (parsed.loss.loss_type, parsed.loss.beta, parsed.reference.ref_offload) == ("kto", 0.1, True)
    older = f"{OPENRLHF} --vanilla_loss --desirable_loss_weight 2 --undesirable_loss_weight 0.5"
    loss = TRAINERS["kto"].parse(older.split()).loss
    assert (loss.loss_type, loss.desirable_weight, loss.undesirable_weight) == ("vanilla", 2.0, 0.5)


PADDLENLP_KTO = {
    "model_name_or_path": "meta-llama/Meta-Llama-3-8B", "train_dataset_path": "./data/train.jsonl",
    "dev_dataset_path": "./data/dev.jsonl", "output_dir": "./checkpoints/kto_ckpts", "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 8, "per_device_eval_batch_size": 1, "num_train_epochs": 1, "max_steps": 100,
    "learning_rate": 2e-06, "warmup_steps": 10, "logging_steps": 1, "evaluation_strategy": "steps",
    "save_strategy": "steps", "eval_steps": 100, "save_steps": 500, "max_seq_len": 4096, "max_prompt_len": 2048,
    "bf16": True, "fp16_opt_level": "O2", "do_train": True, "do_eval": True, "disable_tqdm": True,
    "load_best_model_at_end": True, "tensor_parallel_degree": 8, "sharding": "stage1", "use_flash_attention": True,
    "flash_mask": True, "recompute": False, "recompute_granularity": "full", "beta": 0.1, "benchmark": False,
    "unified_checkpoint": True, "autotuner_benchmark": False, "lazy": False, "seed": 42,
}  # fmt: skip
"""The keys and values of llm/config/llama/kto_argument.json, in full."""


def test_the_kto_file_of_paddlenlp_is_understood(tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("train.jsonl", "dev.jsonl"):
        (tmp_path / "data" / name).write_text("{}")
    path = tmp_path / "kto_argument.json"
    path.write_text(json.dumps(PADDLENLP_KTO))
    parsed = TRAINERS["kto"].parse([str(path)])
    assert (parsed.loss.beta, parsed.loss.loss_type, parsed.training.learning_rate) == (0.1, "kto", 2e-6)
    assert parsed.offline.train_datasets == f"jsonl:1.0:{tmp_path}/data/train.jsonl"
