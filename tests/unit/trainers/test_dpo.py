"""Short runs of DPO on the tiny model: the first loss, what is kept of the reference, and going on after a stop."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest

from alignment.errors import ArgumentError, CheckpointError, DataError
from alignment.models.folders.hub import random_causal_lm
from alignment.models.folders.saving import save_model
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.runs import frozen
from alignment.runs.offline import models
from alignment.telemetry.jsonl import read_json_lines
from alignment.trainers.registered import TRAINERS
from alignment.training.learner import Learner
from tests.contract.keys.assembled import TOKENIZER, make_models
from tests.tiny_runs import train_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds ``policy`` and ``reference``, two tiny models with other weights."""
    place = tmp_path_factory.mktemp("dpo")
    make_models(place)
    tokenizer = load_tokenizer(TOKENIZER)
    other = random_causal_lm(place / "config" / "config.json", seed=9, tokenizer=tokenizer)
    save_model(place / "reference", other, tokenizer)
    return place


def train(folder, name, **keys):
    """Run DPO on 24 pairs, 6 updates and an evaluation on the same pairs; return the metrics of both."""
    own = {
        **{"model_name_or_path": str(folder / "policy"), "eval_datasets": "packing-preference/train:24/-1"},
        "evaluation_strategy": "epoch",
    }
    return train_tiny("dpo", folder, name, **{**own, **keys})


@pytest.fixture(scope="module")
def plain(folder):
    return train(folder, "plain")


@pytest.fixture
def loads(monkeypatch):
    """The folders that language models are loaded from."""
    seen, original = [], models.load_causal_lm

    def noted(place, **options):
        seen.append(place)
        return original(place, **options)

    monkeypatch.setattr(models, "load_causal_lm", noted)
    return seen


def weights(folder, name):
    return (folder / name / "policy" / "model.safetensors").read_bytes()


def nearly(found, expected):
    assert [record.keys() for record in found] == [record.keys() for record in expected]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=2e-5)


def test_the_first_loss_is_log_two_and_it_falls(plain):
    first, *_, last = plain
    assert first["dpo/loss"] == np.float32(math.log(2))
    assert first["rewards/chosen"] == first["rewards/rejected"] == first["rewards/margins"] == 0.0
    assert first["rewards/accuracies"] == 0.0, "a tie is wrong"
    assert last["eval/loss"] < math.log(2) and last["eval/rewards/accuracies"] > 0.5
    assert last["eval/rewards/margins"] == pytest.approx(last["eval/rewards/chosen"] - last["eval/rewards/rejected"])


def test_numbers_of_the_reference_are_computed_once_and_the_run_is_the_same(folder, plain, loads):
    kept = train(folder, "kept", precompute_ref_logprobs=True, reference_from_policy=False)
    nearly(kept, plain)
    assert len(loads) == 2, "policy and reference"
    again = train(folder, "kept", precompute_ref_logprobs=True, overwrite_output_dir=True)
    assert again == kept
    assert len(loads) == 3, "the reference is not loaded again"
    shutil.rmtree(folder / "kept" / "reference_logprobs")
    assert train(folder, "kept", precompute_ref_logprobs=True, overwrite_output_dir=True) == kept
    assert len(loads) == 4, "the policy computed its own numbers"
    loads.pop()
    other = train(folder, "kept", precompute_ref_logprobs=True, overwrite_output_dir=True, data_seed=7)
    assert len(loads) == 4 and other != kept, "another order of the same rows"
    train(folder, "kept", precompute_ref_logprobs=True, overwrite_output_dir=True, max_length=48)
    assert len(loads) == 5, "the same rows with another limit"


PACKED = {"packing_samples": True, "max_tokens_per_batch": 100}


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("plain", {}),
        ("kept", {"precompute_ref_logprobs": True}),
        ("packed", PACKED),
        ("mean-of-all-updates", {"loss_type": "bco_pair"}),
    ],
)
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(folder, name, keys):
    keys = {**keys, "save_strategy": "steps", "save_steps": 3}
    whole = train(folder, f"whole-{name}", **keys)
    shutil.copytree(folder / f"whole-{name}" / "checkpoint-3", folder / f"half-{name}" / "checkpoint-3")
    rest = train(folder, f"half-{name}", **keys, resume_from_checkpoint=True)
    assert rest == whole[-len(rest) :] and rest[0]["step"] == 4
    assert weights(folder, f"half-{name}") == weights(folder, f"whole-{name}")


def test_micro_batches_by_tokens_train_the_same(folder, plain, monkeypatch):
    sizes, original = [], Learner.accumulate

    def noted(learner, batches, objective):
        sizes.append([int(batch.lengths.sum()) for batch in batches])
        return original(learner, batches, objective)

    monkeypatch.setattr(Learner, "accumulate", noted)
    nearly(train(folder, "packed", **PACKED, share_prefixes=False), plain)
    assert len(sizes) == 6 and all(1 < len(update) < 4 for update in sizes), sizes
    assert 60 < max(map(max, sizes)) <= 100, sizes


def test_a_pair_over_the_budget_is_refused_before_training(folder):
    with pytest.raises(DataError, match=r"^max_tokens_per_batch=30: training row \d+ .* has \d+ tokens"):
        train(folder, "too-long", packing_samples=True, max_tokens_per_batch=30, share_prefixes=False)


@pytest.mark.parametrize(
    "keys",
    [
        {"ref_model_update_steps": 2},
        {"sync_ref_model": True, "ref_model_sync_steps": 2, "offload_level": "freeze_model train_model"},
    ],
    ids=["copied", "mixed and offloaded"],
)
def test_a_run_whose_reference_moves_goes_on_to_the_same_bits(folder, plain, keys):
    name, keys = "-".join(keys)[:12], {**keys, "save_strategy": "steps", "save_steps": 3}
    whole = train(folder, f"moved-{name}", **keys)
    assert whole[:2] == plain[:2] and whole[2] != plain[2], "it moves after the second update"
    gained = [record["rewards/chosen"] for record in whole if "rewards/chosen" in record]
    if "ref_model_update_steps" in keys:
        assert gained[2] == gained[4] == 0.0 != gained[3], "the reference is the policy again"
    shutil.copytree(folder / f"moved-{name}" / "checkpoint-3", folder / f"rest-{name}" / "checkpoint-3")
    rest = train(folder, f"rest-{name}", **keys, resume_from_checkpoint=True)
    assert rest == whole[-len(rest) :] and rest[0]["step"] == 4
    assert weights(folder, f"rest-{name}") == weights(folder, f"moved-{name}")
    assert not (folder / f"moved-{name}" / "reference").exists(), "it is not exported"


def test_a_checkpoint_is_resumed_with_a_reference_that_moves_or_stays_as_it_did(folder):
    keys = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    train(folder, "fixed", **keys)
    train(folder, "moving", **keys, ref_model_update_steps=1)
    keys |= {"max_steps": 2, "resume_from_checkpoint": True}
    with pytest.raises(CheckpointError, match="fixed.checkpoint-1: it holds no reference, so the run"):
        train(folder, "fixed", **keys, ref_model_update_steps=1)
    with pytest.raises(CheckpointError, match="this run trains policy and would drop its reference"):
        train(folder, "moving", **keys)


def scored(folder, **changes):
    """Write 24 pairs with scores 2 and 0.5 (and what ``changes`` says of the last one); return their dataset."""
    rows = [
        {"prompt": f"pack rope {n}", "chosen": "rope done", "rejected": "rope", "up": 2, "down": 0.5, "gap": 1.5}
        for n in range(24)
    ]
    rows[-1] = {key: value for key, value in {**rows[-1], **changes}.items() if value != "absent"}
    path = folder / f"scored-{'-'.join(map(str, changes.values())) or 'whole'}.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return f"jsonl:1.0:{path}"


SCORES = {"chosen_score_key": "up", "rejected_score_key": "down"}


@pytest.mark.parametrize("columns", [SCORES, {"margin_key": "gap"}], ids=["scores", "margin"])
def test_the_first_loss_with_margins_is_that_of_the_margin(folder, columns):
    keys = {"train_datasets": scored(folder), "eval_datasets": None, "evaluation_strategy": "no", "max_steps": 1}
    first = train(folder, "margins", **keys, **columns, margin_scale=0.4, overwrite_output_dir=True)[0]
    assert first["dpo/loss"] == pytest.approx(math.log1p(math.exp(0.6)), abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "keys", "says"),
    [
        ({"up": "absent"}, SCORES, "line 24.*missing column 'up'"),
        ({"up": "high"}, SCORES, "line 24.*score 'high' must be a number"),
        ({"gap": "absent"}, {"margin_key": "gap"}, "line 24.*missing column 'gap'"),
        ({"gap": float("nan")}, {"margin_key": "gap"}, "line 24.*'margin' must be a finite number, got float nan"),
        (
            {"gap": -1},
            {"margin_key": "gap", "margin_scale": 0, "offset_alpha": 1},
            "line 24.*margin is -1, but",
        ),
        ({}, {"ignored_columns": "up,down,gap"}, "missing column 'margin'"),
    ],
)
def test_rows_without_their_margin_end_the_run_before_it_trains(folder, changes, keys, says):
    given = {"train_datasets": scored(folder, **changes), "eval_datasets": None, "evaluation_strategy": "no"}
    with pytest.raises(DataError, match=says):
        train(folder, "no-margin", **{**given, "margin_scale": 0.4, "overwrite_output_dir": True, **keys})
    assert not (folder / "no-margin" / "metrics.jsonl").exists()


def test_a_pair_whose_score_is_null_or_nan_is_left_out_and_counted(folder):
    keys = {"eval_datasets": None, "evaluation_strategy": "no", "max_steps": 1, "margin_scale": 0.4}
    for value in (None, float("nan")):
        name = f"unscored-{value}"
        train(folder, name, **keys, **SCORES, train_datasets=scored(folder, up=value))
        account = json.loads((folder / name / "ledger.json").read_text())["train"]
        assert {row["reason"]: row["count"] for row in account["rows"]}["null_field"] == 1


@pytest.mark.parametrize("keep", [False, True])
def test_a_reference_that_changed_since_the_stop_is_refused_by_name(folder, tmp_path, keep):
    """The rest of such a run would be measured against another model, and its numbers would look as ever."""
    shutil.copytree(folder / "reference", tmp_path / "reference")
    keys = {"precompute_ref_logprobs": keep, "save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    keys |= {"model_name_or_path": str(folder / "policy"), "ref_model_name_or_path": str(tmp_path / "reference")}
    train(tmp_path, "out", **keys)
    resume = {**keys, "resume_from_checkpoint": True, "max_steps": 2}
    shutil.copytree(tmp_path / "out", tmp_path / "moved")
    (tmp_path / "reference" / "notes.txt").write_text("no part of the model")
    train(tmp_path, "moved", **resume)
    shutil.copyfile(folder / "policy" / "model.safetensors", tmp_path / "reference" / "model.safetensors")
    with pytest.raises(CheckpointError) as raised:
        train(tmp_path, "out", **resume)
    assert str(raised.value) == (
        f"cannot resume: the reference ({tmp_path}/reference) has changed since {tmp_path}/out/checkpoint-1 was "
        "written. Restore it, or start a new run from the checkpoint's policy"
    )
    with pytest.raises(CheckpointError, match=f"with the reference {tmp_path}/reference, this run names {folder}/pol"):
        train(tmp_path, "out", **{**resume, "ref_model_name_or_path": str(folder / "policy")})


def test_a_run_that_only_evaluates_may_name_another_reference(folder, monkeypatch):
    keys = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1, "learning_rate": 0.0}
    train(folder, "judged", **keys, ref_model_name_or_path=str(folder / "reference"))
    monkeypatch.setattr(frozen, "hash_files", None)
    keys |= {"do_train": False, "resume_from_checkpoint": True, "ref_model_name_or_path": str(folder / "policy")}
    last = train(folder, "judged", **keys)[-1]
    assert last["eval/loss"] == pytest.approx(math.log(2), abs=1e-6), "the policy is its own reference"


def test_a_copy_of_the_policy_gives_the_numbers_of_a_reference_that_is_read(folder, plain, loads):
    assert train(folder, "read", reference_from_policy=False) == plain and len(loads) == 2
    named = {"ref_model_name_or_path": str(folder / "policy"), "reference_from_policy": True}
    assert train(folder, "named", **named) == plain and len(loads) == 3
    with pytest.raises(ArgumentError, match="reference_from_policy=true cannot be: ref_model_name_or_path=.* is not"):
        train(folder, "refused", ref_model_name_or_path=str(folder / "reference"), reference_from_policy=True)


def test_another_reference_is_another_start(folder, loads):
    first = train(folder, "other", ref_model_name_or_path=str(folder / "reference"), max_steps=1)[0]
    assert loads[0].endswith("policy") and loads[1].endswith("reference")
    assert first["dpo/loss"] != pytest.approx(math.log(2), abs=1e-5)


def test_without_a_reference_none_is_loaded(folder, loads):
    first = train(folder, "free", reference_free=True, max_steps=1)[0]
    assert len(loads) == 1
    assert first["rewards/chosen"] == pytest.approx(0.1 * first["logps/chosen"], rel=1e-5)


def test_a_reference_with_other_tokens_is_refused(folder):
    strange = folder / "strange"
    shutil.copytree(folder / "policy", strange)
    made = json.loads((strange / "tokenizer.json").read_text())
    words = made["model"]["vocab"]
    first, second = list(words)[-2:]
    words[first], words[second] = words[second], words[first]
    (strange / "tokenizer.json").write_text(json.dumps(made))
    with pytest.raises(ArgumentError, match="ref_model_name_or_path=.*strange has another tokenizer"):
        train(folder, "refused", ref_model_name_or_path=str(strange))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"beta": 0}, "beta"),
        ({"label_smoothing": 0.5}, "label_smoothing"),
        ({"sft_loss_ratio": -1}, "sft_loss_ratio"),
        ({"ref_model_update_steps": 0}, "ref_model_update_steps"),
        (
            {"ref_model_update_steps": 10, "precompute_ref_logprobs": True},
            "precompute_ref_logprobs=true is refused: ref_model_update_steps is given",
        ),
        (
            {"sync_ref_model": True, "precompute_ref_logprobs": True},
            "precompute_ref_logprobs=true is refused: sync_ref_model is given",
        ),
        ({"ref_model_update_steps": 10, "sync_ref_model": True}, "ref_model_update_steps=10 is refused: sync_ref"),
        (
            {"normalize_logps": True, "average_logps": True},
            "normalize_logps=true is refused: loss_type=sigmoid",
        ),
        ({"sft_loss_ratio": 1, "nll_loss_coef": 1}, "nll_loss_coef=1.0 is refused: sft_loss_ratio is given too"),
        ({"sft_loss_ratio": 1, "rpo_alpha": 2}, "sft_loss_ratio.*rpo_alpha"),
        ({"margin_scale": 1, "offset_alpha": 1}, "offset_alpha=1.0 is refused: margin_scale is given too"),
        (
            {"margin_scale": 1, "loss_type": "ipo"},
            "margin_scale=1.0 is refused: loss_type=ipo has no margin .allowed: sigmoid, sigmoid_norm, robust, hinge",
        ),
        (
            {"ref_model_update_steps": 5, "lora": True},
            "ref_model_update_steps=5 is refused: the reference of a policy wi",
        ),
        ({"ref_model_update_steps": 5, "loss_type": "simpo"}, "loss_type=simpo reads no reference; leave the key out"),
        ({"regularization": 0.1}, "unknown argument 'regularization'"),
    ],
)
def test_what_is_not_built_is_refused_by_name(folder, keys, says):
    with pytest.raises(ArgumentError, match=says):
        train(folder, "declined", **keys)
    assert not (folder / "declined").exists()


PADDLENLP_DPO = {
    "model_name_or_path": "meta-llama/Meta-Llama-3-8B", "train_dataset_path": "./data/train.jsonl",
    "dev_dataset_path": "./data/dev.jsonl", "output_dir": "./checkpoints/dpo_ckpts", "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 8, "per_device_eval_batch_size": 1, "num_train_epochs": 1, "max_steps": 100,
    "learning_rate": 1e-06, "warmup_steps": 10, "logging_steps": 1, "evaluation_strategy": "steps",
    "save_strategy": "steps", "eval_steps": 100, "save_steps": 500, "max_seq_len": 4096, "max_prompt_len": 2048,
    "bf16": True, "fp16_opt_level": "O2", "do_train": True, "do_eval": True, "disable_tqdm": True,
    "load_best_model_at_end": True, "tensor_parallel_degree": 8, "sharding": "stage1", "use_flash_attention": True,
    "recompute": False, "recompute_granularity": "full", "beta": 0.1, "benchmark": False, "loss_type": "sigmoid",
    "label_smoothing": 0.0, "unified_checkpoint": True, "autotuner_benchmark": False, "lazy": False, "seed": 42,
}  # fmt: skip
"""The keys and values of llm/config/llama/dpo_argument.json, but for flash_mask."""


def test_the_dpo_file_of_paddlenlp_is_understood(tmp_path):
    path = tmp_path / "dpo_argument.json"
    (tmp_path / "data").mkdir()
    for name in ("train.jsonl", "dev.jsonl"):
        (tmp_path / "data" / name).write_text("{}")
    path.write_text(json.dumps(PADDLENLP_DPO))
    parsed = TRAINERS["dpo"].parse([str(path)])
    assert (parsed.loss.beta, parsed.loss.loss_type, parsed.data.max_length) == (0.1, ("sigmoid",), 4096)
    assert parsed.offline.train_datasets == f"jsonl:1.0:{tmp_path}/data/train.jsonl"
    path.write_text(json.dumps({**PADDLENLP_DPO, "flash_mask": True, "zero_padding": True}))
    parsed = TRAINERS["dpo"].parse([str(path)])
    assert parsed.training.packing_samples


def test_the_dpo_file_of_paddlenlp_trains_on_its_rows(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    answers = {"tgt": [], "response": [["rope"], ["rope done"]], "sort": [0, 1]}
    rows = [{"src": [f"pack rope {number}"], **answers} for number in range(4)]
    for name in ("train.jsonl", "dev.jsonl"):
        (tmp_path / "data" / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    asked = {**PADDLENLP_DPO, "flash_mask": True, "model_name_or_path": str(folder / "policy")}
    asked |= {"max_steps": 2, "warmup_steps": 0}
    path = tmp_path / "dpo_argument.json"
    path.write_text(json.dumps(asked))
    TRAINERS["dpo"].train([str(path)], host="test")
    *updates, last = read_json_lines(tmp_path / "checkpoints" / "dpo_ckpts" / "metrics.jsonl")
    assert [record["step"] for record in updates] == [1, 2] and "eval/loss" in last
    assert updates[0]["dpo/loss"] == pytest.approx(math.log(2), abs=1e-6)
