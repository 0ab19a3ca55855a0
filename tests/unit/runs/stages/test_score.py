"""alignment score: the rewards of answers, by models, functions and several sources."""

from __future__ import annotations

import itertools
import json
import shutil

import numpy as np
import pytest

from alignment.arguments.parser import parse_arguments
from alignment.data.encode import Encoder
from alignment.errors import ArgumentError, DataError, RewardError
from alignment.models.folders.hub import load_score_model
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.parity.subjects import make_models
from alignment.rollout.forward import score_batch
from alignment.runs.stages.score import Scoring
from alignment.runs.stages.score_arguments import GROUPS
from alignment.runs.stages.stage import run_stage

ROWS = [
    {"prompt": "pack lamp", "responses": ["lamp done", "tent"], "finish_reasons": ["stop", "length"], "label": "lamp"},
    {"prompt": "pack tent boots", "responses": ["tent boots done", "boots"], "extra": 5},
    {"prompt": "pack rope", "responses": ["rope", "also rope"]},
]
FUNCTIONS = """
def length(prompts, responses, labels):
    return [len(text) for text in responses]

def labelled(prompts, responses, labels):
    return [float(label is not None) for label in labels]

def seen(prompts, responses, labels):
    return [float(sum(map(ord, repr(prompt)))) for prompt in prompts]

def shout(prompt, response):
    return "pack tent", response + " done"

def whole(prompt, response):
    return f"{prompt} {response}"

def wrong(prompt, response):
    return 5
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    make_models(folder)
    return folder


@pytest.fixture
def written(models, tmp_path):
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return {
        "answers_file": str(path),
        "output_file": str(tmp_path / "scored.jsonl"),
        "reward_sources": str(models / "reward"),
        "device": "cpu",
    }


def run(written, **changes):
    """Return the scored rows."""
    parsed = parse_arguments(GROUPS, written | changes)
    run_stage(Scoring(parsed))
    with open(parsed.score.output_file, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def score_directly(folder, ids):
    model = load_score_model(folder)
    model.eval()
    return float(model.read_end_scores(score_batch([np.asarray(ids, np.int64)], None))[0])


def expected(folder, prompt, response, *, ends=True):
    tokenizer = load_tokenizer(folder)
    encoder = Encoder(tokenizer, "tokenizer" if tokenizer.chat_template else "pku")
    asked = encoder.encode_prompt(prompt)
    answer = encoder.encode_answer(asked, response).ids
    return score_directly(folder, asked.ids + (answer if ends else answer[:-1]))


def test_a_reward_model_scores_each_answer_as_its_template_writes_it(written, models):
    found = run(written)
    for row, before in zip(found, ROWS, strict=True):
        assert row == {**before, "rewards": row["rewards"]}
        ends = [reason == "stop" for reason in before.get("finish_reasons", ["stop", "stop"])]
        wanted = [
            expected(models / "reward", before["prompt"], text, ends=end)
            for text, end in zip(before["responses"], ends, strict=True)
        ]
        assert row["rewards"] == pytest.approx(wanted, abs=2e-5)


def test_rows_with_one_answer_keep_their_columns(written, tmp_path, models):
    path = tmp_path / "single.jsonl"
    before = {"input": "pack rope", "output": "rope done", "note": 1, "index": 57}
    path.write_text(json.dumps(before) + "\n")
    (row,) = run(written, answers_file=str(path))
    assert row == {**before, "reward": row["reward"]}
    assert row["reward"] == pytest.approx(expected(models / "reward", "pack rope", "rope done"), abs=2e-5)


def test_several_sources_are_added_and_each_is_written(written, tmp_path):
    sources = f"{tmp_path}/mine.py:length,{tmp_path}/mine.py:labelled"
    found = run(written, reward_sources=sources, reward_weights=[0.5, 10])
    assert [row["rewards_length"] for row in found] == [[9, 4], [15, 5], [4, 9]]
    assert [row["rewards_labelled"] for row in found] == [[1, 1], [0, 0], [0, 0]]
    assert [row["rewards"] for row in found] == [[14.5, 12], [7.5, 2.5], [2, 4.5]]


def test_another_form_is_scored_as_the_function_writes_it(written, tmp_path, models):
    (first, *_) = run(written, change_of_format=f"{tmp_path}/mine.py:shout")
    assert first["rewards"][0] == pytest.approx(expected(models / "reward", "pack tent", "lamp done done"), abs=2e-5)
    (first, *_) = run(written, change_of_format=f"{tmp_path}/mine.py:whole", overwrite=True)
    tokenizer = load_tokenizer(models / "reward")
    ids = Encoder(tokenizer, "pku").encode_text("pack lamp lamp done")
    assert first["rewards"][0] == pytest.approx(score_directly(models / "reward", ids), abs=2e-5)
    with pytest.raises(RewardError, match="change_of_format returned 5; expected a text"):
        run(written, change_of_format=f"{tmp_path}/mine.py:wrong", overwrite=True)


def test_system_messages_and_tools_are_read_as_the_datasets_read_them(written, tmp_path):
    system, asked = {"role": "system", "content": "boots"}, {"role": "user", "content": "pack lamp"}
    parts = {"role": "user", "content": [{"type": "text", "text": "pack lamp"}]}
    tools = [{"name": "look", "parameters": {}}]
    rows = [
        {"system": "boots", "prompt": "pack lamp", "response": "lamp"},
        {"prompt": [system, asked], "response": "lamp"},
        {"prompt": [system, parts], "response": "lamp"},
        {"prompt": "pack lamp", "response": "lamp"},
        {"prompt": "pack lamp", "tools": tools, "response": "lamp"},
        {"prompt": "pack lamp", "tools": json.dumps(tools), "response": "lamp"},
    ]
    path = tmp_path / "beside.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    function = f"{tmp_path}/mine.py:seen"
    found = [row["reward"] for row in run(written, answers_file=str(path), reward_sources=function)]
    assert found[0] == found[1] == found[2] != found[3]
    assert found[3] != found[4] == found[5]


def test_a_changed_function_is_not_mixed_with_what_was_scored_before(written, tmp_path, monkeypatch):
    words = {"reward_sources": f"{tmp_path}/mine.py:length", "answers_per_unit": 2}
    made = Scoring.rows

    def stopping(self, units):
        yield from itertools.islice(made(self, units), 1)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Scoring, "rows", stopping)
        run(written, **words)
    (tmp_path / "mine.py").write_text(FUNCTIONS.replace("len(text) for", "2 * len(text) for"))
    with pytest.raises(ArgumentError, match="made with another functions: give the same again"):
        run(written, **words)


def test_a_changed_template_of_a_reward_model_is_another_input(written, models, tmp_path):
    folder = tmp_path / "reward"
    shutil.copytree(models / "reward", folder)
    parsed = parse_arguments(GROUPS, written | {"reward_sources": str(folder)})
    before = Scoring(parsed).inputs()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = settings["chat_template"] + " "
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    after = Scoring(parsed).inputs()
    assert [key for key in before if before[key] != after[key]] == ["models"]


def test_keys_without_effect_are_named(written, tmp_path, caplog):
    run(written, reward_sources=f"{tmp_path}/mine.py:length", value_head_prefix="head", score_before_padding=True)
    said = "has no effect: no source is a model or cost"
    assert [m for m in caplog.messages if said in m] == [
        f"value_head_prefix=head {said}",
        f"score_before_padding=true {said}",
    ]


def test_a_reward_model_that_should_not_be_trusted_is_named(written, models, tmp_path, caplog):
    run_folder = tmp_path / "run"
    shutil.copytree(models / "reward", run_folder / "reward")
    (run_folder / "readiness.json").write_text(json.dumps({"trust": "no", "line": "it likes long answers"}))
    run(written, reward_sources=str(run_folder))
    assert any("it likes long answers" in message for message in caplog.messages)


def test_dates_of_a_table_are_written_as_text(written, tmp_path):
    pandas = pytest.importorskip("pyarrow")
    import datetime

    import pyarrow.parquet

    path = tmp_path / "dated.parquet"
    when = datetime.datetime(2026, 1, 2, 3, 4, 5)
    table = pandas.table({"prompt": ["pack lamp"], "response": ["lamp"], "when": [when]})
    pyarrow.parquet.write_table(table, path)
    (row,) = run(written, answers_file=str(path), reward_sources=f"{tmp_path}/mine.py:length")
    assert row == {"prompt": "pack lamp", "response": "lamp", "when": "2026-01-02T03:04:05", "reward": 4.0}


def test_units_and_processes_change_nothing(written, tmp_path):
    whole = run(written)
    cut = run(written, answers_per_unit=2, output_file=str(tmp_path / "cut.jsonl"))
    assert [row["rewards"] for row in cut] == [pytest.approx(row["rewards"], abs=1e-6) for row in whole]
    two, three = (
        run(written, answers_per_unit=2, num_workers=number, output_file=str(tmp_path / f"{number}.jsonl"))
        for number in (2, 3)
    )
    assert two == three
    assert [row["rewards"] for row in two] == [pytest.approx(row["rewards"], abs=1e-5) for row in whole]


@pytest.mark.parametrize(
    ("row", "changes", "message"),
    [
        ({"prompt": "a", "text": "b"}, {}, "no answers to score (read: prompt and responses; prompt and response;"),
        ({"prompt": "a", "responses": []}, {}, "responses must be texts, got []"),
        ({"prompt": "a", "response": 5}, {}, "response must be a text, got 5"),
        ({"prompt": "a", "responses": ["b"]}, {"K": 2}, "K=2, but there are 1 responses"),
        ({"prompt": "a", "responses": ["b"], "finish_reasons": []}, {}, "finish_reasons must say stop or length for"),
        ({"prompt": "a", "responses": ["b"], "finish_reasons": ["eos"]}, {}, "stop or length for each response"),
        ({"prompt": 5, "response": "b"}, {}, "field 'input' must be"),
        ({"prompt": {"a": 1}, "response": "b"}, {}, "prompt"),
        ({"prompt": "", "response": "b"}, {}, "prompt is empty"),
        ({"prompt": [], "response": "b"}, {}, "prompt holds no messages"),
        ({"prompt": [{"role": "alien", "content": "x"}], "response": "b"}, {}, "alien"),
        ({"prompt": "a", "response": "half \ud83d"}, {}, "half a character"),
    ],
)
def test_unreadable_rows_are_refused_by_place(written, tmp_path, row, changes, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError) as error:
        run(written, answers_file=str(path), **changes)
    assert message in str(error.value)
    assert "bad.jsonl line 1" in str(error.value)
    assert not (tmp_path / "scored.jsonl").exists()


def test_what_cannot_be_normalised_is_refused(written, models):
    entry = {"name": str(models / "reward"), "normalize": True}
    with pytest.raises(ArgumentError, match="reward has no saved statistics to normalise by"):
        run(written, reward_sources=json.dumps([{**entry, "log_as": "reward"}]))


def test_weights_that_cancel_are_refused(written, tmp_path):
    with pytest.raises(ArgumentError, match="all weights of reward_sources are 0"):
        run(written, reward_weights=[0])
