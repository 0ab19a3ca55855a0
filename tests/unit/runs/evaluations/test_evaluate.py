"""alignment eval: each task on tiny models, resumed, in several processes, and with bad input."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest

from alignment.errors import ArgumentError, DataError, RewardError, TooLongError, UserError
from alignment.evaluation.intervals import wilson
from alignment.evaluation.rouge import rouge_scores
from alignment.runs.evaluations import works
from alignment.runs.evaluations.perplexity import PerplexityWork
from alignment.runs.evaluations.reward_accuracy import RewardAccuracyWork
from tests.unit.runs.evaluations.conftest import GENERATED, ITEMS, MODEL, SUBSETS, write


def test_perplexity_counts_answers_and_does_not_depend_on_windows_that_are_not_needed(run):
    found = run("perplexity", **MODEL, eval_datasets="prompts.jsonl")
    losses, tokens = (np.array([row[name] for row in found.rows]) for name in ("loss", "num_tokens"))
    assert tokens.tolist() == [len(f"{item} done".split()) + 1 for item in ITEMS], "answer tokens and the end"
    assert found.metrics["perplexity"]["value"] == pytest.approx(math.exp(losses.sum() / tokens.sum()))
    assert found.metrics["perplexity_of_rows"]["value"] == pytest.approx(np.exp(losses / tokens).mean())
    assert found.metrics["tokens"] == tokens.sum()
    assert found.counts["read_in_windows"] == 0
    assert "Perplexity of actor" in found.page and "lamp rope map done" in found.page
    small = run("perplexity", **MODEL, eval_datasets="prompts.jsonl", per_device_eval_batch_size=1, name="small")
    assert [row["loss"] for row in small.rows] == pytest.approx(losses.tolist(), rel=1e-5)


def test_long_rows_are_read_in_windows_dropped_or_refused(run):
    keys = {**MODEL, "eval_datasets": "prompts.jsonl", "loss_on": "all", "max_length": 8}
    whole = run("perplexity", **{**keys, "max_length": None}, name="whole")
    found = run("perplexity", **keys, stride=4)
    longer = [one["num_tokens"] > 7 for one in whole.rows]
    assert [row["is_windowed"] for row in found.rows] == longer and 0 < sum(longer) < len(longer)
    assert [row["num_tokens"] for row in found.rows] == [row["num_tokens"] for row in whole.rows]
    assert found.counts["read_in_windows"] == sum(longer)
    dropped = run("perplexity", **keys, on_overlong="drop", name="dropped")
    assert len(dropped.rows) == longer.count(False)
    (entry,) = dropped.ledgers["evaluation"]["rows"]
    assert (entry["reason"], entry["count"]) == ("dropped_overlong", sum(longer))
    with pytest.raises(DataError, match="max_length 8"):
        run("perplexity", **keys, on_overlong="error", name="refused")
    with pytest.raises(ArgumentError, match=r"stride=8 must be less than the 8 tokens of a window \(allowed: 1 to 7\)"):
        run("perplexity", **keys, stride=8, name="refused")


def test_rouge_of_generated_answers_and_of_a_file(run, place):
    found = run("rouge", **GENERATED, num_return_sequences=2)
    for row, item in zip(found.rows, ITEMS, strict=True):
        assert row["scores"] == pytest.approx(rouge_scores(row["responses"], f"{item} done"))
    assert (
        found.counts["answers_cut_off_by_length"]
        == sum(row["finish_reasons"].count("length") for row in found.rows)
        > 0
    )
    read = run("rouge", answers_file="mine.jsonl", rouge_types=["rouge1"], name="read")
    mean = np.mean([rouge_scores([f"{item} done", item], item)["rouge1"] for item in ITEMS])
    assert read.metrics["rouge1"]["value"] == pytest.approx(mean)


def test_references_that_rouge_cannot_read_are_counted(run, place):
    rows = [{"prompt": "a", "response": "rope", "label": label} for label in ("rope", "\u7ef3\u5b50")]
    write(place / "foreign.jsonl", rows)
    found = run("rouge", answers_file="foreign.jsonl")
    assert (found.counts["reference_without_words"], found.metrics["rougeL"]["value"]) == (1, 1.0)


def test_reward_accuracy_by_subset_and_section(run, place, tmp_path):
    record = tmp_path / "bench.txt"
    record.write_text("before\n")
    keys = {"pairs_file": "pairs.jsonl", "reward_sources": "mine.py:length", "sections": "rewardbench"}
    found = run("reward_accuracy", **keys, record_dir=str(record))
    wins = [float(len(f"{item} done") > len(row["rejected"])) for item, row in zip(ITEMS, found.rows, strict=True)]
    ties = [len(f"{item} done") == len(row["rejected"]) for item, row in zip(ITEMS, found.rows, strict=True)]
    wins = [0.5 if tie else win for win, tie in zip(wins, ties, strict=True)]
    assert found.metrics["accuracy"] == wilson(np.mean(wins), 8)._asdict()
    chat = (wins[0] + wins[4]) / 2
    assert found.metrics["Chat"]["value"] == chat
    assert found.metrics["accuracy_of_the_longer_answer"] == np.mean(wins)
    assert found.counts["ties"] == sum(ties)
    table = found.tables[0]
    assert [row[0] for row in table["rows"]] == [*SUBSETS]
    lines = record.read_text().splitlines()
    assert lines[:2] == ["before", str(place / "mine.py:length")]
    assert lines[2] == f"Chat\t{round(100 * chat, 2)}"
    assert [line.split("\t")[0] for line in lines[2:]] == ["Chat", "Chat Hard", "Safety", "Reasoning"]
    run("reward_accuracy", **keys, record_dir=str(record), name="again")
    assert record.read_text().splitlines() == lines, "the same lines are not written twice in a row"


def test_a_model_scores_pairs_and_those_too_long_are_counted(run, place):
    rows = [json.loads(line) for line in (place / "pairs.jsonl").read_text().splitlines()]
    rows[3]["chosen"] = "rope " * 2000
    rows[5]["rejected"] = rows[5]["chosen"]
    write(place / "long.jsonl", rows)
    keys = {"pairs_file": "long.jsonl", "reward_sources": "models/reward"}
    found = run("reward_accuracy", **keys)
    assert found.counts["too_long_for_the_reward_model"] == 1
    assert found.metrics["accuracy"]["count"] == 6
    (entry,) = found.ledgers["evaluation"]["rows"]
    assert (entry["reason"], entry["count"]) == ("identical_pair", 1)
    with pytest.raises(TooLongError, match="that model reads at most"):
        run("reward_accuracy", **keys, on_overlong="error", name="refused")


def test_win_rate_of_answers_of_two_files(run):
    keys = {"answers_file": "mine.jsonl", "other_answers_file": "theirs.jsonl", "reward_sources": "mine.py:length"}
    found = run("win_rate", **keys)
    assert found.metrics["win_rate"] == wilson(0.75, 8)._asdict(), "each prompt has a win and a tie"
    assert found.metrics["length_difference"]["value"] == 2.5
    assert found.tables[0]["rows"][0][:3] == ["mine.jsonl", 0, 0]
    assert found.counts["answers_cut_off_by_length_mine.jsonl"] == 8
    assert run("win_rate", **keys, tie_margin=5, name="ties").metrics["win_rate"]["value"] == 0.5


def test_win_rate_of_generated_answers_by_a_model(run, place):
    """A policy against its own answers, read from a file: every answer is equal, so all are ties."""
    made = run("pass_at_k", **GENERATED, reward_sources="mine.py:constant", name="made")
    found = run(
        "win_rate", **GENERATED, other_answers_file=str(made.folder / "rows.jsonl"), reward_sources="models/reward"
    )
    assert found.metrics["win_rate"]["value"] == 0.5
    assert found.tables[0]["rows"][0][2] == 8


def test_pass_at_k(run):
    found = run("pass_at_k", answers_file="mine.jsonl", reward_sources="mine.py:length", correct_from=9, k=[1, 2])
    correct = [[len(f"{item} done") >= 9, len(item) >= 9] for item in ITEMS]
    assert [row["correct"] for row in found.rows] == correct
    assert found.metrics["pass@1"] == wilson(np.mean(correct), 8)._asdict()
    assert found.metrics["pass@2"]["value"] == np.mean([any(pair) for pair in correct])
    with pytest.raises(RewardError, match="the reward of an answer is 9, and pass@k needs 1"):
        run("pass_at_k", answers_file="mine.jsonl", reward_sources="mine.py:length", name="refused")


def test_a_killed_evaluation_ends_with_the_same_files(run, monkeypatch):
    """Killed between rows and results, and after a unit of rows."""
    keys = {"pairs_file": "pairs.jsonl", "reward_sources": "models/reward", "sections": "rewardbench"}
    monkeypatch.setattr("alignment.runs.evaluations.reward_accuracy._PAIRS_OF_A_UNIT", 3)
    whole = run("reward_accuracy", **keys, name="whole")

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("alignment.runs.evaluations.evaluate.print_summary", die)
        run("reward_accuracy", **keys)
    scored = []
    score = works.RewardAccuracyWork.rows
    monkeypatch.setattr(RewardAccuracyWork, "rows", lambda self, units: scored.append(1) or score(self, units))
    found = run("reward_accuracy", **keys)
    assert not scored, "every row was there"
    for name in ("rows.jsonl", "results.json"):
        assert (found.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    with pytest.raises(ArgumentError, match=r"output_dir: .*rows.jsonl exists"):
        run("reward_accuracy", **keys)


def test_rows_left_by_a_kill_are_kept_and_other_arguments_refused(run, monkeypatch):
    keys = {**MODEL, "eval_datasets": "prompts.jsonl"}
    monkeypatch.setattr("alignment.runs.evaluations.perplexity._ROWS_OF_A_UNIT", 2)
    whole = run("perplexity", **keys, name="whole")
    rows = PerplexityWork.rows

    def some(self, units):
        for count, found in enumerate(rows(self, units)):
            if count == 2:
                raise KeyboardInterrupt
            yield found

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PerplexityWork, "rows", some)
        run("perplexity", **keys)
    with pytest.raises(ArgumentError, match="made with another loss_on"):
        run("perplexity", **keys, loss_on="all")
    found = run("perplexity", **keys, confidence=0.5)  # the rows do not depend on it
    assert (found.folder / "rows.jsonl").read_bytes() == (whole.folder / "rows.jsonl").read_bytes()


@pytest.mark.rare
def test_two_processes_write_the_same_rows(run, place):
    """A process of its own may have another number of threads than this one: the last bits differ."""
    rows = [{"prompt": f"pack {ITEMS[i % 8]}", "answer": ITEMS[i % 7]} for i in range(70)]
    write(place / "many.jsonl", rows)
    keys = {**MODEL, "eval_datasets": "many.jsonl"}
    alone, both = run("perplexity", **keys, name="alone"), run("perplexity", **keys, num_workers=2, name="both")
    for name in ("loss", "num_tokens"):
        assert [row[name] for row in both.rows] == pytest.approx([row[name] for row in alone.rows], rel=1e-6)


PAIRS = {"pairs_file": "pairs.jsonl", "reward_sources": "mine.py:length"}
FILES = {"answers_file": "mine.jsonl", "reward_sources": "mine.py:length"}


@pytest.mark.parametrize(
    ("task", "keys", "said"),
    [
        ("bleu", {}, "task: expected one of 'perplexity', 'rouge', 'reward_accuracy', 'win_rate', 'pass_at_k'"),
        ("win_rate", {**FILES, "other_answers_file": "mine.jsonl"}, "answers_file and other_answers_file are both"),
        ("win_rate", {**FILES}, "other_model_name_or_path and other_answers_file are both missing"),
        ("win_rate", {**FILES, **MODEL, "other_answers_file": "theirs.jsonl"}, "are both given: name the policy, or"),
        ("win_rate", {**FILES, "other_answers_file": "few.jsonl"}, "mine.jsonl has 8 prompts and few.jsonl 1"),
        ("win_rate", {**FILES, "other_answers_file": "other.jsonl"}, "prompt 0 of mine.jsonl is 'pack lamp', and of"),
        ("win_rate", {**FILES, "other_answers_file": "single.jsonl"}, "has 2 answers to prompt 0 and"),
        ("win_rate", {**FILES, "other_answers_file": "more.jsonl"}, "has 2 answers to prompt 7 and more.jsonl 3"),
        ("pass_at_k", {**FILES, "k": 3}, "k=3 needs at least 3 answers to each prompt, and there are 2"),
        ("pass_at_k", {**GENERATED, "reward_sources": "mine.py:length", "k": 2}, r"1 \(num_return_sequences=1\)"),
        ("pass_at_k", {**MODEL, "reward_sources": "mine.py:length"}, "prompts is missing: model_name_or_path="),
        ("rouge", {"answers_file": "unlabelled.jsonl"}, "1 of 1 prompts have no reference, first prompt 0"),
        ("rouge", {"answers_file": "numbers.jsonl"}, "the reference of prompt 0 is 42: a label must be a text"),
        ("rouge", {"answers_file": "mine.jsonl", "rouge_types": ["rougeX"]}, "rouge_types: 'rougeX' .allowed: rouge1,"),
        ("reward_accuracy", {**PAIRS, "sections": "rewardbench", "subset_key": "id"}, "subset '0' is in no section"),
        (
            "reward_accuracy",
            {**PAIRS, "sections": "nothing.json"},
            "sections: no file nothing.json .allowed: rewardben",
        ),
        ("reward_accuracy", {**PAIRS, "record_file": "x.txt"}, "record_file is given, but no sections"),
        ("reward_accuracy", {**PAIRS, "pairs_file": "chat.jsonl", "sections": "rewardbench"}, "no pair is of section"),
        ("reward_accuracy", {**PAIRS, "pairs_file": "equal.jsonl"}, "no pair can be used .identical_pair 1"),
        ("perplexity", {**MODEL, "eval_datasets": "prompts.jsonl", "max_length": 10**6}, "max_length=1000000 is more"),
    ],
)
def test_bad_input_is_refused_before_work_starts(run, place, monkeypatch, task, keys, said):
    one = {"prompt": "pack lamp", "responses": ["lamp", "map"]}
    write(place / "few.jsonl", [one])
    write(place / "other.jsonl", [{**one, "prompt": "pack nothing"}] * 8)
    write(place / "single.jsonl", [{**one, "prompt": f"pack {item}", "responses": ["lamp"]} for item in ITEMS])
    more = [{**one, "prompt": f"pack {item}"} for item in ITEMS]
    write(place / "more.jsonl", [*more[:-1], {**more[-1], "responses": ["lamp", "map", "tent"]}])
    write(place / "unlabelled.jsonl", [one])
    write(place / "numbers.jsonl", [{**one, "label": 42}])
    pair = {"prompt": "pack lamp", "chosen": "lamp", "rejected": "map", "subset": "alpacaeval-easy"}
    write(place / "chat.jsonl", [pair])
    write(place / "equal.jsonl", [{**pair, "rejected": "lamp"}])
    monkeypatch.setattr("alignment.runs.evaluations.evaluate.run_stage", None)
    with pytest.raises(UserError, match=said):
        run(task, **keys)


def test_a_reward_model_whose_template_is_not_at_hand_is_refused(run, place):
    folder = place / "changed"
    shutil.copytree(place / "models" / "reward", folder)
    config = json.loads((folder / "config.json").read_text())
    record = {"chat_template": "tokenizer", "sha256": "0" * 64}
    (folder / "config.json").write_text(json.dumps({**config, "trained_template": record}))
    with pytest.raises(
        ArgumentError, match=r"was trained with chat_template=tokenizer .*allowed: none, tokenizer, or a"
    ):
        run("reward_accuracy", pairs_file="pairs.jsonl", reward_sources="changed")
