"""Short runs of reward models that are not Bradley-Terry alone: what they learn and keep, and how they resume."""

from __future__ import annotations

import json
import shutil

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

from alignment.algorithms.length_debiasing import spearman
from alignment.errors import ArgumentError, DataError, ModelFolderError
from alignment.models.folders.attribute_heads import StoredHead
from alignment.models.folders.hub import load_score_model
from alignment.models.folders.saving import save_model
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.records import Rollout, TokenBatch
from alignment.runs.offline.pairs import REWARD_PAIRS, pair_batch
from alignment.trainers.registered import TRAINERS
from tests.contract.keys.assembled import BASE, TOKENIZER, assemble, filled, make_models
from tests.tiny_runs import train_tiny

REGRESSION = {
    "objective": "regression", "train_datasets": "packing-attributes/train:24/-1",
    "attributes": ["coverage", "excess", "closed", "chatter"],
}  # fmt: skip
GATING = {"objective": "gating", "gating_hidden_size": 8, "gating_temperature": 1.0, "per_device_eval_batch_size": 4}
PROCESS = {
    "objective": "process", "placeholder_token": "and", "train_datasets": "packing-steps/train:24/-1",
}  # fmt: skip
KINDS = {
    "regression": REGRESSION,
    "head": {**REGRESSION, "train_head_only": True},
    "gating": GATING,
    "process": PROCESS,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds ``policy``, ``reward`` and ``two scores``, tiny models with other weights."""
    place = tmp_path_factory.mktemp("kinds")
    make_models(place)
    return place


def train(folder, name, **keys):
    """Make 6 updates; return their metrics."""
    start = "two scores" if keys.get("objective") == "gating" else "policy"
    return train_tiny("rm", folder, name, **{"model_name_or_path": str(folder / start), **keys})


def tensors(folder, name):
    return load_file(folder / name / "reward" / "model.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(folder, kind):
    rows = KINDS[kind].get("train_datasets", BASE["rm"]["train_datasets"])
    keys = {
        "eval_datasets": rows,
        "evaluation_strategy": "epoch",
        **KINDS[kind],
        "save_strategy": "steps",
        "save_steps": 3,
    }
    whole = train(folder, f"whole-{kind}", **keys)
    shutil.copytree(folder / f"whole-{kind}" / "checkpoint-3", folder / f"half-{kind}" / "checkpoint-3")
    rest = train(folder, f"half-{kind}", **keys, resume_from_checkpoint=True)
    assert rest == whole[-len(rest) :] and rest[0]["step"] == 4
    files = [folder / f"{name}-{kind}" / "reward" for name in ("half", "whole")]
    for file in ("model.safetensors", "config.json"):
        assert (files[0] / file).read_bytes() == (files[1] / file).read_bytes()


@pytest.mark.parametrize(
    ("kind", "start", "trained"), [("gating", "two scores", "gating."), ("head", "policy", "score.")]
)
def test_all_that_is_below_stays_as_it_is(folder, kind, start, trained):
    keys = {**KINDS[kind], "weight_decay": 0.5}
    train(folder, f"frozen-{kind}", **keys)
    before, after = load_file(folder / start / "model.safetensors"), tensors(folder, f"frozen-{kind}")
    kept = {name for name in after if not name.startswith(trained)}
    assert len(kept) > 8
    for name in kept:
        np.testing.assert_array_equal(after[name], before[name])
    fresh = train(folder, f"still-{kind}", **keys, learning_rate=0.0) and tensors(folder, f"still-{kind}")
    for name in set(after) - kept:
        assert name.endswith("bias") or not np.array_equal(after[name], fresh[name])


@pytest.mark.parametrize("correlation", ["spearman", "pearson"])
def test_length_is_worth_what_makes_it_uncorrelated_with_every_attribute(folder, correlation):
    train(folder, correlation, **GATING, debias_length=correlation, max_steps=1)
    model = load_score_model(folder / correlation / "reward")
    run = assemble("rm", {**GATING, "model_name_or_path": "{two scores}", "gating_hidden_size": 4}, folder)
    batch = pair_batch([run.dataset[i] for i in range(24)], REWARD_PAIRS)
    scores, lengths = model.read_attributes(batch).numpy(), batch.lengths - batch.fields["answer_starts"]
    for column, penalty in zip(scores.T, model.options.gating.length_penalties, strict=True):
        rest = column - penalty * lengths
        if correlation == "pearson":
            assert penalty == pytest.approx(np.polyfit(lengths, column, 1)[0], rel=1e-4)
            assert abs(np.corrcoef(rest, lengths)[0, 1]) < 1e-5
        assert abs(spearman(rest, lengths)) < min(0.05, abs(spearman(column, lengths))) or correlation == "pearson"


def test_without_debiasing_there_are_no_penalties(folder):
    train(folder, "biased", **GATING, debias_length=None, max_steps=1)
    assert load_score_model(folder / "biased" / "reward").options.gating.length_penalties == ()


def test_ppo_is_rewarded_by_the_gated_score(folder):
    train(folder, "gated", **GATING)
    run = assemble("ppo", {"reward_model_name_or_path": str(folder / "gated")}, folder)
    rows = [(np.array([5, 6, 7]), np.array([8, 2])), (np.array([5, 9]), np.array([10, 11, 12, 2]))]
    rollout = Rollout(
        prompts=tuple(p for p, _ in rows), responses=tuple(r for _, r in rows), finish_reasons=("stop",) * 2,
        group_ids=np.zeros(2, np.int64), inputs=("", ""),
    )  # fmt: skip
    model = load_score_model(folder / "gated" / "reward")
    ids = run.loop.judge.scorer._sequences(rollout)
    batch = TokenBatch.build(ids, [np.empty(0, np.int64)] * 2, {"answer_starts": np.array([3, 2])})
    expected = model.read_end_scores(batch).numpy()
    np.testing.assert_allclose(run.loop.judge.scorer.score(rollout).values, expected, rtol=1e-5)
    assert run.critic.runner.model.gating is None


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_on_policy_runs_are_rewarded_by_the_least_probable_step(folder, algorithm):
    """From the sampled answers of two updates to what the algorithm gets; an answer without the token is one step."""
    train(folder, "steps", **PROCESS, overwrite_output_dir=True)
    keys = {"actor_model_name_or_path": "{policy}", "reward_model_name_or_path": str(folder / "steps")}
    keys |= {"rl_algorithm": algorithm, "num_return_sequences": 2, "per_device_prompt_batch_size": 8}
    sizes = {"max_steps": 2, "temperature": 2.0, "max_dec_len": 24, "output_dir": str(folder / algorithm)}
    given = {key: filled(value, folder) for key, value in {**BASE["ppo"], **keys, **sizes}.items()}
    (folder / f"{algorithm}.json").write_text(json.dumps(given))
    seen = []
    TRAINERS["ppo"].train([str(folder / f"{algorithm}.json")], host="test", observe=seen.append)
    model, tokenizer = load_score_model(folder / "steps" / "reward"), load_tokenizer(TOKENIZER)
    (end,) = tokenizer("and", add_special_tokens=False)["input_ids"]
    num_inner = 0
    for rollout in [experience.rollout for experience in seen]:
        for prompt, response, score in zip(rollout.prompts, rollout.responses, rollout.raw_scores, strict=True):
            ids = np.concatenate([prompt, response])
            scores = model(TokenBatch.build([ids], [np.empty(0, np.int64)])).numpy()[0]
            places = [place for place in np.flatnonzero(ids == end) if place >= len(prompt)]
            num_inner += any(place < len(ids) - 1 for place in places)
            assert score == pytest.approx(min(1 / (1 + np.exp(-scores[places or [-1]]))), rel=1e-4)
    assert num_inner > 0, "some answer has a step before its end"


def test_an_evaluation_of_steps_writes_what_it_knows(folder):
    rows = "packing-steps/test:40/-1"
    keys = {"eval_datasets": rows, "evaluation_strategy": "epoch", "learning_rate": 1e-3}
    *_, last = train(folder, "judged", **PROCESS, **keys)
    found = json.loads((folder / "judged" / "readiness.json").read_text())
    titles = [table["title"].partition(" (")[0] for table in found["tables"]]
    assert titles == ["Accuracy", "Calibration", "Whole answers"]
    shares = {row[0]: row[1:] for row in found["tables"][0]["rows"]}
    assert shares["all"][1] == pytest.approx(last["eval/accuracy"], abs=1e-4)
    assert (
        shares["good"][0] + shares["bad"][0]
        == shares["all"][0]
        == sum(shares[name][0] for name in shares if name.startswith("step "))
    )
    assert any("rendered with the template" in name for name in shares)
    assert {"eval/train_accuracy", "eval/answers_ranked"} <= set(last)


def test_an_evaluation_of_attributes_has_each_ones_accuracy_and_template(folder):
    keys = {"eval_datasets": "packing-attributes/test:40/-1", "evaluation_strategy": "epoch"}
    train(folder, "rated", **REGRESSION, **keys)
    found = json.loads((folder / "rated" / "readiness.json").read_text())
    assert [row[0] for row in found["tables"][0]["rows"]] == REGRESSION["attributes"]
    assert all(len(row) == 9 and row[3] == 40 for row in found["tables"][0]["rows"])
    assert {row[0].partition(":")[0] for row in found["tables"][1]["rows"]} <= set(REGRESSION["attributes"])
    assert sum(row[1] for row in found["tables"][2]["rows"] if row[0] == "coverage") == 40


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"model_name_or_path": "{reward}"}, ModelFolderError, "one score or none; train its attributes first"),
        ({"model_name_or_path": "{policy}"}, ModelFolderError, "one score or none; train its attributes first"),
        (
            {"model_name_or_path": None, "model_config_name_or_path": "{policy}"}, ArgumentError,
            "objective=gating needs model_name_or_path",
        ),
        ({"lora": True}, ArgumentError, "lora=true has nothing to adapt"),
        ({"num_labels": 3}, ArgumentError, "num_labels=3, but the model in .* has 2 scores"),
        ({"loss_type": "token-wise"}, ArgumentError, "loss_type=token-wise is refused: a gating network weighs"),
        ({"gating_temperature": 0}, ArgumentError, "gating_temperature"),
        ({"train_datasets": "packing-attributes/train:8/-1"}, DataError, "missing 'other_answer', 'better'"),
        ({"train_datasets": "jsonl:1.0:{even.jsonl}"}, DataError, "all 4 answers looked at in .* have 4 tokens"),
        ({"model_name_or_path": "{flat}"}, DataError, "'two' of the model has the score 0 for all 48 answers"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_training(folder, keys, error, message):
    rows = [
        {"prompt": "pack rope", "chosen": "rope map done", "rejected": f"{word} map done"} for word in ("tent", "coat")
    ]
    (folder / "even.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flat = load_score_model(folder / "two scores", stored_head=StoredHead(keeps_attributes=True))
    flat.score.weight.set_value(flat.score.weight * paddle.to_tensor([1.0, 0.0]))
    save_model(folder / "flat", flat, load_tokenizer(TOKENIZER))
    keys = {key: filled(value, folder) for key, value in keys.items()}
    with pytest.raises(error, match=message):
        train(folder, "refused", **{**GATING, "overwrite_output_dir": True, **keys})
    assert not list((folder / "refused").glob("reward*"))


def test_an_adapter_and_a_trained_head_alone_are_one_too_many(folder):
    with pytest.raises(ArgumentError, match="train_head_only=true is refused: an adapter is what changes the model"):
        train(folder, "both", **KINDS["head"], lora=True)


def test_a_head_alone_is_not_trained_on_random_weights(folder):
    random = {"model_name_or_path": None, "model_config_name_or_path": str(folder / "policy")}
    message = "train_head_only=true is refused: weights below a head must be trained ones; give model"
    with pytest.raises(ArgumentError, match=message):
        train(folder, "random", **KINDS["head"], **random, tokenizer_name_or_path=str(TOKENIZER))
    assert not (folder / "random").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"placeholder_token": None}, "objective=process needs placeholder_token"),
        ({"reward_tokens": ["+"]}, "reward_tokens=.* .allowed: two texts"),
        ({"placeholder_token": "and also"}, "placeholder_token='and also' is 2 token.s. of the tokenizer"),
    ],
)
def test_steps_without_one_end_or_two_labels_are_refused(folder, keys, message):
    with pytest.raises(ArgumentError, match=message):
        train(folder, "no-steps", **{**PROCESS, "overwrite_output_dir": True, **keys})
