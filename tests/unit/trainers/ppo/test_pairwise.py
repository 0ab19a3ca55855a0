"""Short runs whose reward model compares the responses to a prompt: how it is named, used, evaluated and resumed."""

from __future__ import annotations

import json
import shutil

import pytest

from alignment.errors import ArgumentError, ModelFolderError
from alignment.models.decoder.initialise import draw_weights
from alignment.models.folders.hub import random_causal_lm
from alignment.models.folders.saving import save_model
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.runs.on_policy import reward_models
from alignment.telemetry.report.readiness import FILE
from tests.contract.keys.assembled import TOKENIZER, make_models, make_pairwise
from tests.tiny_runs import train_tiny

RECORD = {"template": "{context} <eos> {response_A} <eos> {response_B}", "turn": "{content}"}
RECORD["letters"] = ["apple", "boots"]
GRPO = {"rl_algorithm": "grpo", "num_return_sequences": 2, "max_steps": 4, "temperature": 1.5}
HELD_OUT = {"eval_datasets": "packing-prompts/test:6/-1", "evaluation_strategy": "steps", "eval_steps": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds ``policy``, ``reward``, the language model ``plain``, and ``run``, the output of a pairwise run."""
    place = tmp_path_factory.mktemp("pairwise")
    make_models(place)
    tokenizer = load_tokenizer(TOKENIZER)
    for seed, name in ((5, "other"), (6, "plain")):
        model = random_causal_lm(place / "config", seed=seed, tokenizer=tokenizer)
        draw_weights(model, seed=seed, std=0.3)
        save_model(place / "models" / name, model, tokenizer)
    make_pairwise(place / "models" / "other", place / "run" / "reward")
    return place


def train(folder, name, **keys):
    chosen = {"reward_model_name_or_path": str(folder / "run"), **GRPO, **keys}
    made = {"actor_model_name_or_path": str(folder / "policy"), **chosen}
    return train_tiny("ppo", folder, name, **made)


def means(records, name):
    return [record[name] for record in records if name in record]


def test_a_run_begins_with_even_chances_and_trains_on_rewards_of_one_half(folder, capsys):
    found = train(folder, "alone", **HELD_OUT)
    assert means(found, "train/reward") == pytest.approx([0.5] * 2, abs=1e-6)
    assert max(means(found, "reward/std")) > 0, "within a group the rewards differ"
    first, *later = means(found, "eval/reward")
    assert first == 0.5 and len(later) == 2 and all(rate != 0.5 for rate in later)
    assert "which costs 2 comparisons a prompt" in capsys.readouterr().err


def test_a_resumed_run_compares_with_the_first_answers_and_goes_on_to_the_same_bits(folder):
    other = {"name": str(folder / "models" / "plain"), "kind": "pairwise", "options": RECORD, "weight": 2}
    sources = [str(folder / "run"), other]
    judges = [{"name": str(folder / "run"), "log_as": "judge"}]
    keys = {
        **HELD_OUT, "reward_model_name_or_path": None, "reward_sources": sources, "eval_reward": judges,
        "normalize_reward": True, "save_strategy": "steps", "save_steps": 2,
    }  # fmt: skip
    whole = train(folder, "whole", **keys)
    shutil.copytree(folder / "whole" / "checkpoint-2", folder / "half" / "checkpoint-2")
    rest = train(folder, "half", **keys, resume_from_checkpoint=True)
    assert rest == whole[-len(rest) :] and rest[0]["step"] == 4
    last = rest[-1]
    assert last["eval/judge"] == pytest.approx(last["eval/reward/run_mean"], abs=1e-6), "the same model and opponents"
    assert last["eval/reward"] == pytest.approx(last["eval/judge"] + 2 * last["eval/reward/plain_mean"], abs=1e-5)
    state = json.loads((folder / "whole" / "checkpoint-4" / "state.json").read_text())["first_answers"]
    assert sorted(state) == ["judge judge", "source plain", "source run"]
    files = [folder / name / "policy" / "model.safetensors" for name in ("half", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"num_return_sequences": 1, "rl_algorithm": "reinforce_plus_plus"}, "give 2 or more"),
        ({"rl_algorithm": "remax"}, "rl_algorithm=remax, which scores a greedy response of its own"),
        (
            {"reward_model_name_or_path": None, "reward_sources": [{"name": "json:loads"}, "{run}"],
             "num_return_sequences": 1, "rl_algorithm": "reinforce_plus_plus"},
            "give 2 or more",
        ),
        (
            {"eval_reward": [{"name": "{plain}", "kind": "pairwise", "options": {"letters": "AB"}}], **HELD_OUT},
            "the letters of a pairwise model must be two texts, got 'AB'",
        ),
        (
            {"eval_reward": [{"name": "{plain}", "kind": "pairwise", "options": {"words": "AB"}}], **HELD_OUT},
            "unknown fields: words",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_before_anything_is_loaded(keys, said, folder, monkeypatch):
    monkeypatch.setattr(reward_models, "load_causal_lm", None)
    text = json.dumps(keys).replace("{run}", str(folder / "run")).replace("{plain}", str(folder / "models" / "plain"))
    with pytest.raises(ArgumentError, match=said):
        train(folder, "refused", **json.loads(text))
    assert not (folder / "refused").exists()


def test_a_second_judge_needs_no_groups(folder):
    judges = [str(folder / "run")]
    keys = {"reward_model_name_or_path": str(folder / "reward"), "num_return_sequences": 1, "eval_reward": judges}
    found = train(folder, "judged", **HELD_OUT, **keys, rl_algorithm="reinforce_plus_plus", max_steps=2)
    assert means(found, "eval/run")[0] == 0.5 and means(found, "eval/run_std")[0] == 0


def test_a_model_that_is_not_known_to_compare_is_named_with_its_kind(folder, monkeypatch):
    """As one from the hub, whose config.json is read only when it is there."""
    monkeypatch.setattr("alignment.arguments.rewards.entries.model_kind", lambda folder: "model")
    monkeypatch.setattr("alignment.arguments.keys.reward_source.model_kind", lambda folder: "model")
    monkeypatch.setattr("alignment.trainers.ppo.arguments.model_kind", lambda folder: "model")
    with pytest.raises(ArgumentError, match=r'is a pairwise model .*"kind": "pairwise"} in reward_sources'):
        train(folder, "unknown")


def test_the_critic_of_ppo_starts_from_a_pairwise_model_and_is_none(folder):
    train(folder, "critic", rl_algorithm="ppo", max_steps=1)
    for name in ("policy", "value"):
        assert "pairwise_comparison" not in json.loads((folder / "critic" / name / "config.json").read_text())


@pytest.mark.parametrize(("trust", "level"), [("yes", "info"), ("with care", "warn"), ("no", "warn")])
def test_what_the_models_own_evaluation_found_is_told(trust, level, tmp_path, monkeypatch):
    told = []
    for name in ("info", "warn"):
        monkeypatch.setattr(reward_models.log, name, lambda line, name=name: told.append((name, line)))
    (tmp_path / FILE).write_text(json.dumps({"trust": trust, "line": "the reward model can be X"}))
    reward_models.tell_readiness(str(tmp_path / "reward"))
    assert [(name, line.endswith("): the reward model can be X")) for name, line in told] == [(level, True)]
    (tmp_path / FILE).write_text("[]")
    reward_models.tell_readiness(str(tmp_path / "reward"))
    reward_models.tell_readiness(str(tmp_path / "elsewhere"))
    assert len(told) == 1


def test_letters_that_the_model_cannot_write_are_told_with_their_place(folder):
    plain = [{"name": str(folder / "models" / "plain"), "kind": "pairwise"}]
    with pytest.raises(ArgumentError, match=r"^plain, .*'A' is unknown to the tokenizer.*\"letters\": \[") as caught:
        train(folder, "letters", reward_model_name_or_path=None, reward_sources=plain)
    assert "apple, boots" in str(caught.value)
    with pytest.raises(ModelFolderError, match=r'no score head.*"kind": "pairwise" in reward_sources'):
        train(folder, "unsaid", reward_model_name_or_path=str(folder / "models" / "plain"))
