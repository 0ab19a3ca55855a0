"""alignment eval with pairwise models, process reward models and adapters."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest

from alignment.architecture.adapter import is_factor
from alignment.arguments.keys.adapter import AdapterArguments
from alignment.commands.merge import main as merge
from alignment.data.comparison import PairQuestion
from alignment.data.encode import Encoder
from alignment.errors import ModelFolderError
from alignment.models.adapters.attach import attach_adapter
from alignment.models.adapters.folder import save_adapter, trained_weights
from alignment.models.decoder.score_model import ScoreModel
from alignment.models.folders.hub import load_causal_lm, load_score_model
from alignment.models.folders.saving import WeightSource
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.rollout.forward import score_batch
from alignment.runs.frozen import frozen_model
from alignment.runs.stages.stage import ALONE
from tests.contract.keys.assembled import make_pairwise
from tests.unit.runs.evaluations.conftest import write


def expit(x):
    return 1 / (1 + np.exp(-x))


PAIRS = {"pairs_file": "pairs.jsonl"}
STEP = "done"


@pytest.fixture(scope="module")
def compares(place):
    """A language model that compares."""
    make_pairwise(place / "models" / "actor", place / "models" / "compares")
    return place / "models" / "compares"


@pytest.fixture(scope="module")
def steps(place):
    """A reward model that scores the steps of an answer."""
    folder = place / "models" / "steps"
    shutil.copytree(place / "models" / "reward", folder)
    settings = json.loads((folder / "config.json").read_text())
    (token,) = load_tokenizer(folder)(STEP, add_special_tokens=False)["input_ids"]
    how = {"score_form": "steps", "step_token_id": token, "step_aggregation": "min"}
    (folder / "config.json").write_text(json.dumps({**settings, **how}))
    return folder


def adapted(base, folder):
    """Write a random adapter of the model in ``base`` to ``folder``, and both as one model beside it."""
    load = load_score_model if base.name in ("reward", "steps") else load_causal_lm
    tokenizer, model = load_tokenizer(base), load(base)
    content = frozen_model("the base", str(base), ALONE).content
    adapter = AdapterArguments(lora=True, lora_rank=2).describe(model.config)
    attach_adapter(model, dataclasses.replace(adapter, base=str(base), base_content=content), seed=1)
    for name, parameter in model.named_parameters():
        if is_factor(name):
            parameter.set_value(parameter + 0.3)
    save_adapter(folder, model, tokenizer, trained_weights(WeightSource.of(model)))
    merge([str(folder), str(folder.with_name(f"{folder.name}-merged"))])
    model.eval()
    return model


def rewards_of(model, folder, row):
    """Return the rewards of the two answers of ``row``, computed here."""
    encoder, rewards = encoder_of(load_tokenizer(folder)), []
    for text in (row["chosen"], row["rejected"]):
        asked = encoder.encode_prompt(row["prompt"])
        ids = np.asarray(asked.ids + encoder.encode_answer(asked, text).ids)
        scores = model(score_batch([ids], [len(asked.ids)])).numpy().reshape(-1)
        ends = [at for at in range(len(asked.ids), len(ids)) if ids[at] == model.options.step_token_id]
        is_process = model.options.score_form == "steps"
        rewards.append(min(expit(scores[at]) for at in ends or [len(ids) - 1]) if is_process else scores[-1])
    return rewards


def encoder_of(tokenizer):
    return Encoder(tokenizer, "tokenizer" if tokenizer.chat_template else "pku")


def test_a_pairwise_model_judges_pairs_as_its_logits_say(run, place, compares):
    found = run("reward_accuracy", **PAIRS, reward_sources="models/compares")
    model, tokenizer = load_causal_lm(compares), load_tokenizer(compares)
    model.eval()
    question = PairQuestion.from_record(model.config.comparison)
    encoder = encoder_of(tokenizer)
    letters = question.letter_ids(tokenizer)
    for row in found.rows:
        texts = (row["chosen"], row["rejected"])
        logits = []
        for first, second in (texts, texts[::-1]):
            ids = question.encode(encoder, row["prompt"], first, second)
            last = model(np.asarray([ids])).numpy()[0, -1]
            logits.append(last[letters[0]] - last[letters[1]])
        mean = (expit(logits[0]) + expit(-logits[1])) / 2
        assert row["rewards"] == pytest.approx([mean, 1 - mean], abs=1e-4)
    rows = [json.loads(line) for line in (place / "pairs.jsonl").read_text().splitlines()]
    write(place / "swapped.jsonl", [{**r, "chosen": r["rejected"], "rejected": r["chosen"]} for r in rows])
    swapped = run("reward_accuracy", pairs_file="swapped.jsonl", reward_sources="models/compares", name="swapped")
    assert found.metrics["accuracy"]["value"] + swapped.metrics["accuracy"]["value"] == 1


def test_a_pairwise_model_judges_two_policies(run, compares):
    keys = {"answers_file": "mine.jsonl", "reward_sources": "models/compares"}
    found = run("win_rate", **keys, other_answers_file="theirs.jsonl")
    other = run("win_rate", **{**keys, "answers_file": "theirs.jsonl"}, other_answers_file="mine.jsonl", name="other")
    assert found.metrics["win_rate"]["value"] + other.metrics["win_rate"]["value"] == pytest.approx(1)
    assert 0.25 <= found.metrics["win_rate"]["value"] <= 0.75, "the second answers are equal: half a point each"


def test_a_process_reward_model_judges_the_steps_of_an_answer(run, place, steps):
    found = run("reward_accuracy", **PAIRS, reward_sources="models/steps")
    model = load_score_model(steps)
    model.eval()
    for row in found.rows:
        assert row["rewards"] == pytest.approx(rewards_of(model, steps, row), abs=1e-5)
    passed = run("pass_at_k", answers_file="mine.jsonl", reward_sources="models/steps", correct_from=0.5, name="pass")
    assert 0 <= passed.metrics["pass@1"]["value"] <= 1


@pytest.mark.parametrize(
    ("base", "task", "keys"),
    [
        ("actor", "perplexity", {"eval_datasets": "prompts.jsonl"}),
        pytest.param("actor", "rouge", {"prompts": "prompts.jsonl", "max_dec_len": 8}, marks=pytest.mark.rare),
        ("reward", "reward_accuracy", PAIRS),
        pytest.param("compares", "reward_accuracy", PAIRS, marks=pytest.mark.rare),
        ("steps", "reward_accuracy", PAIRS),
    ],
)
@pytest.mark.usefixtures("compares", "steps")
def test_an_adapter_is_refused_with_the_command_that_makes_a_model_of_it(run, place, base, task, keys):
    folder = place / "models" / f"{base}-{task}"
    model = adapted(place / "models" / base, folder)
    named = "reward_sources" if task == "reward_accuracy" else "model_name_or_path"
    with pytest.raises(ModelFolderError, match=f"alignment merge {folder} MERGED"):
        run(task, **keys, **{named: f"models/{folder.name}"}, name="refused")
    found, plain = (
        run(task, **keys, **{named: f"models/{name}"}, name=name).rows for name in (f"{folder.name}-merged", base)
    )
    for key in {"loss", "rewards", "responses"} & plain[0].keys():
        assert [row[key] for row in found] != [row[key] for row in plain]
    if isinstance(model, ScoreModel):
        assert found[0]["rewards"] == pytest.approx(rewards_of(model, place / "models" / base, found[0]), abs=1e-5)
