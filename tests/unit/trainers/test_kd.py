"""Short runs of distillation on the tiny model: what the teacher changes, and going on after a stop."""

from __future__ import annotations

import json
import shutil
from functools import partial
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

from alignment.errors import ArgumentError, CheckpointError, NumericalError
from alignment.generation.engine import GenerationOptions
from alignment.models.folders.hub import load_causal_lm
from alignment.models.folders.saving import save_model
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.records import Completion
from alignment.rollout.gate import LogprobGate
from alignment.runs.offline.own_answers import OwnAnswers
from alignment.telemetry.jsonl import read_json_lines
from alignment.trainers.registered import TRAINERS
from tests.contract.keys.assembled import TOKENIZER, make_models
from tests.tiny_runs import train_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds ``policy`` and ``teacher``, two tiny models of different width."""
    place = tmp_path_factory.mktemp("kd")
    make_models(place)
    return place


def train(folder, name, **keys):
    """Run 6 updates on 24 rows and an evaluation on the same rows; return the metrics of both."""
    own = {
        **{"model_name_or_path": str(folder / "policy"), "teacher_model_name_or_path": str(folder / "teacher")},
        **{"eval_datasets": "packing-sft/train:24/-1", "evaluation_strategy": "epoch"},
    }
    return train_tiny("kd", folder, name, **{**own, **keys})


@pytest.fixture(scope="module")
def plain(folder):
    return train(folder, "plain")


def weights(folder, name):
    return (folder / name / "policy" / "model.safetensors").read_bytes()


def test_the_loss_is_the_weighted_sum_of_its_parts_and_falls(plain):
    first, *_, last = plain
    for record, prefix in ((first, "kd"), (last, "eval")):
        parts = 0.6 * record[f"{prefix}/ce"] + 0.4 * record[f"{prefix}/divergence"]
        assert record[f"{prefix}/loss"] == pytest.approx(parts, rel=1e-5)
    assert last["eval/loss"] < first["kd/loss"] and last["eval/ce"] < first["kd/ce"]


def test_without_weight_of_the_teacher_it_is_supervised_training(folder):
    found = train(folder, "alone", kd_coef=0.0)
    keys = {"output_dir": str(folder / "sft"), "save_strategy": "no"}
    arguments = json.loads((folder / "alone.json").read_text()) | keys
    del arguments["teacher_model_name_or_path"], arguments["kd_coef"]
    (folder / "sft.json").write_text(json.dumps(arguments))
    TRAINERS["sft"].train([str(folder / "sft.json")], host="test")
    supervised = list(read_json_lines(folder / "sft" / "metrics.jsonl"))
    for one, other in zip(found[:-1], supervised, strict=False):
        assert one["kd/loss"] == one["kd/ce"] == pytest.approx(other["sft/loss"], rel=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_student_comes_nearer_to_its_teacher(folder, beta):
    first, *_, last = train(folder, f"near-{beta}", kd_coef=1.0, beta=beta, num_train_epochs=4, learning_rate=3e-2)
    assert last["eval/divergence"] < 0.5 * first["kd/divergence"]


def test_a_model_that_is_its_own_teacher_diverges_by_nothing(folder):
    first = train(folder, "self", teacher_model_name_or_path=str(folder / "policy"), max_steps=1, beta=0.5)[0]
    assert first["kd/divergence"] == pytest.approx(0, abs=1e-6)
    assert first["kd/ce"] == pytest.approx(first["kd/teacher_ce"], rel=1e-6)


@pytest.mark.parametrize("keys", [{"teacher_offload": True}, {"offload_level": "freeze_model"}])
def test_a_teacher_in_host_memory_gives_the_same_bits(folder, plain, keys):
    name = next(iter(keys))
    assert train(folder, name, **keys) == plain
    assert weights(folder, name) == weights(folder, "plain")


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(folder):
    keys = {"save_strategy": "steps", "save_steps": 3}
    whole = train(folder, "whole", **keys)
    shutil.copytree(folder / "whole" / "checkpoint-3", folder / "half" / "checkpoint-3")
    rest = train(folder, "half", **keys, resume_from_checkpoint=True)
    assert rest == whole[-len(rest) :] and rest[0]["step"] == 4
    assert weights(folder, "half") == weights(folder, "whole")


def test_a_teacher_that_changed_since_the_stop_is_refused_by_name(folder, tmp_path):
    shutil.copytree(folder / "teacher", tmp_path / "teacher")
    keys = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    keys |= {"model_name_or_path": str(folder / "policy"), "teacher_model_name_or_path": str(tmp_path / "teacher")}
    train(tmp_path, "out", **keys)
    model = load_causal_lm(tmp_path / "teacher")
    model.lm_head.weight.set_value(model.lm_head.weight * 2)
    save_model(tmp_path / "teacher", model, load_tokenizer(TOKENIZER))
    with pytest.raises(CheckpointError, match=rf"the teacher \({tmp_path}/teacher\) has changed since"):
        train(tmp_path, "out", **keys | {"resume_from_checkpoint": True, "max_steps": 2})


def test_a_teacher_with_other_tokens_is_refused_with_the_first_difference(folder):
    strange = folder / "strange"
    shutil.copytree(folder / "teacher", strange)
    made = json.loads((strange / "tokenizer.json").read_text())
    words = made["model"]["vocab"]
    first, second = sorted(words, key=words.get)[-2:]
    number = words[first]
    words[first], words[second] = words[second], words[first]
    (strange / "tokenizer.json").write_text(json.dumps(made))
    with pytest.raises(ArgumentError) as raised:
        train(folder, "refused", teacher_model_name_or_path=str(strange))
    size = len(load_tokenizer(TOKENIZER))
    assert str(raised.value) == (
        f"teacher_model_name_or_path={strange} has another tokenizer ({size} tokens) than the student ({size}): "
        f"it reads the student's token ids, so both must be the same, but id {number} is {second!r} there and "
        f"{first!r} here"
    )


OWN = {"lmbda": 1.0, "kd_coef": 1.0, "max_dec_len": 6}


def test_the_students_own_answers_do_not_depend_on_micro_batches(folder):
    """Two updates: after the first rounding may draw another token."""
    whole = train(folder, "own", **OWN, max_steps=2)
    cut = train(folder, "own-cut", **OWN, max_steps=2, per_device_train_batch_size=1, gradient_accumulation_steps=4)
    for one, other in zip(whole, cut, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


def sample(folder, name, **keys):
    """Run two updates; return the rows that they are trained on, and the metrics."""
    renew, rows = OwnAnswers.__call__, []

    def noting(own, *given):
        found = renew(own, *given)
        rows.append([part["input_ids"].tolist() for part in found[0]])
        return found

    with mock.patch.object(OwnAnswers, "__call__", noting):
        metrics = train(folder, name, **OWN, max_steps=2, **keys)
    return rows, metrics


def test_both_engines_sample_the_same_tokens_and_the_log_names_the_engine(folder, capfd):
    fused, metrics = sample(folder, "fused", temperature=2.0)
    assert "rollouts: fused engine (" in capfd.readouterr().err
    eager, plain = sample(folder, "eager", temperature=2.0, use_fusemt=False)
    assert "rollouts: eager engine (use_fusemt is false)" in capfd.readouterr().err
    assert fused == eager and len({tuple(row) for rows in fused for row in rows}) > 4
    for one, other in zip(metrics, plain, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
    assert 0 < metrics[0]["rollout/logprob_gap_max"] < 1e-4


def test_an_engine_that_is_too_far_from_the_student_ends_the_run(folder):
    """Weights in int8 move log-probs by about a hundredth."""
    keys = {"rollout_weight_type": "int8", "logprob_gap_limit": 1e-6, "on_logprob_gap": "stop"}
    with pytest.raises(NumericalError, match="differ at update 0 by p99 .*logprob_gap_limit=1e-06 is for p99"):
        train(folder, "far", **OWN, **keys)


def test_a_gap_that_distillation_cannot_correct_is_refused(folder):
    with pytest.raises(ArgumentError, match=r"on_logprob_gap=correct is refused: .*\(allowed: warn, stop\)"):
        train(folder, "correct", **OWN, on_logprob_gap="correct")


def test_a_run_that_samples_resumes_to_the_same_bits(folder):
    keys = {"save_strategy": "steps", "save_steps": 3, **OWN, "lmbda": 0.5}
    whole = train(folder, "own-whole", **keys)
    shutil.copytree(folder / "own-whole" / "checkpoint-3", folder / "own-half" / "checkpoint-3")
    rest = train(folder, "own-half", **keys, resume_from_checkpoint=True)
    assert rest == whole[-len(rest) :] and rest[0]["step"] == 4
    assert weights(folder, "own-half") == weights(folder, "own-whole")


def test_stages_or_sharding_of_a_teacher_alone_are_refused_with_what_works(folder):
    for key in ("teacher_pipeline_parallel_degree", "teacher_sharding_parallel_degree"):
        with pytest.raises(ArgumentError, match=f"{key}.*without stages and sharding: give teacher_tensor_parallel_"):
            train(folder, "declined", **{key: 2})


def test_the_data_gives_the_prompts_alone(folder, plain):
    """With answers of its own the student's entropy is what a token costs it, not the surprise of the data."""
    own = train(folder, "own-only", **OWN)
    data = train(folder, "own-never", **{**OWN, "lmbda": 0.0})
    assert own[0]["kd/divergence"] != data[0]["kd/divergence"] and own[-1]["eval/loss"] < data[0]["kd/loss"]


def test_updates_are_drawn_by_seed_and_number_whatever_came_before():
    """A share of 0.5 with seed 3; prompts end at the first target, and no sequence has the number of another."""
    asked = []

    class Engine:
        def load_weights(self, weights, version):
            asked.append(("weights", version))

        def generate(self, prompts, options, *, seed, sequence_ids):
            asked.append(([prompt.tolist() for prompt in prompts], seed, list(sequence_ids)))
            answers = [np.array([9, 2])] * len(prompts)
            return [Completion(answer, np.zeros(2, np.float32), "stop") for answer in answers]

    def update(own, number):
        model = SimpleNamespace(model=SimpleNamespace(dtype="float32"), named_sublayers=list, sublayers=list)
        learner = SimpleNamespace(
            num_updates=number, offloaded_model=None, kept_weights=list, runner=SimpleNamespace(model=model)
        )
        with mock.patch("alignment.runs.offline.own_answers.measure_logprobs", lambda *_, **__: (zeros, None)):
            return own(rows, learner, None)[0]

    rows = [{"input_ids": np.array([1, 5, 6, 7]), "labels": np.array([-100, -100, 6, 7])}] * 3
    zeros = np.zeros((3, 2), np.float32)
    own = {"options": GenerationOptions(max_new_tokens=2), "make_engine": lambda learner: Engine()}
    gate = LogprobGate(limit=1.0, action="warn", weight_cap=1.0)
    make = partial(OwnAnswers, share=0.5, seed=3, rows=4, rows_at_once=2, gate=gate, **own)
    with mock.patch("alignment.loops.rollout_engine.unpacked_weights", lambda model, dtype: []):
        once, again = make(), make()
        drawn = [number for number in range(200) if update(once, number) is not rows]
        assert 80 < len(drawn) < 120
        assert [number for number in reversed(range(200)) if update(again, number) is not rows] == drawn[::-1]
        asked.clear()
        [first, *_] = update(again, drawn[1])
    assert first["input_ids"].tolist() == [1, 5, 9, 2] and first["labels"].tolist() == [-100, -100, 9, 2]
    start = 4 * drawn[1]
    assert asked == [("weights", drawn[1]), ([[1, 5]] * 3, 3, [start, start + 1, start + 2])]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"kd_coef": 1.5}, "kd_coef"),
        ({"beta": -0.1}, "beta"),
        ({"temperature": 0}, "temperature"),
        ({"lmbda": 1.5}, "lmbda"),
        ({"lmbda": 0.5}, "lmbda=0.5 with kd_coef=0.4: .*Give kd_coef=1, or lmbda=0"),
        (
            {"lmbda": 0.5, "kd_coef": 1.0, "packing_samples": True, "max_tokens_per_batch": 95},
            "max_tokens_per_batch=95 is below max_length=96: .*Give 96 or more",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(folder, keys, says):
    with pytest.raises(ArgumentError, match=says):
        train(folder, "declined", **keys)
    assert not (folder / "declined").exists()


def test_a_run_without_a_teacher_is_refused():
    given = {"train_datasets": "d", "model_name_or_path": "m", "output_dir": "o"}
    with pytest.raises(ArgumentError, match="missing required argument 'teacher_model_name_or_path'"):
        TRAINERS["kd"].parse(given)


def test_the_keys_of_openrlhf_are_understood(tmp_path):
    """Of ``openrlhf.cli.train_kd``."""
    (tmp_path / "teacher").mkdir()
    given = ["--train_datasets", "d", "--model_name_or_path", "m", "--output_dir", "o"]
    own = ["--teacher_model", str(tmp_path / "teacher"), "--teacher_offload", "--kd_coef", "0.4"]
    parsed = TRAINERS["kd"].parse([*given, *own])
    assert parsed.teacher.teacher_model_name_or_path == str(tmp_path / "teacher")
    assert parsed.teacher.teacher_offload and parsed.loss.kd_coef == 0.4
