"""Rows that cannot be used: refused with file and line, or left out and counted, as the options say."""

from __future__ import annotations

import json

import pytest
from refusals import message_of, refuse, run_here, train_here, write_rows

pytestmark = pytest.mark.e2e

ANSWERED = {"input": "pack rope lamp map", "answer": "rope lamp map done"}
PAIR = {**ANSWERED, "other_answer": "rope um", "better": True}
PROMPT = {"input": "pack rope lamp map"}
GOOD = {"sft": ANSWERED, "rm": PAIR, "ppo": PROMPT}
LONG = {"input": "pack " + "rope " * 80}


def _without(row, name):
    return {key: value for key, value in row.items() if key != name}


@pytest.fixture
def arguments(sft_arguments, rm_arguments, ppo_arguments, tmp_path):
    """Return the arguments of a trainer whose file holds a good row and then the given ones."""
    everything = {"sft": sft_arguments, "rm": rm_arguments, "ppo": ppo_arguments}

    def make(trainer, *rows, **options):
        path = write_rows(tmp_path / "rows.jsonl", GOOD[trainer], *rows)
        return {**everything[trainer], "train_datasets": f"jsonl:1:{path}", **options}

    return make


@pytest.mark.parametrize(
    ("trainer", "row", "says"),
    [
        ("sft", _without(ANSWERED, "answer"), ["missing 'answer'", "fields present: input"]),
        ("rm", _without(PAIR, "other_answer"), ["missing 'other_answer'", "answer, better"]),
        ("rm", _without(PAIR, "better"), ["missing 'better'"]),
        ("ppo", {"inptu": "pack rope", "answer": "rope"}, ["no known layout", "inptu"]),
        ("sft", {"question": "pack rope"}, ["missing 'answer'", "question"]),
        ("sft", {"frage": "pack rope"}, ["no known layout", "input_key", "frage"]),
        ("sft", {**ANSWERED, "answer": 3}, ["'answer' must be a string, got int 3"]),
        ("rm", {**PAIR, "better": "yes"}, ["'better' must be true or false, got str 'yes'"]),
        ("ppo", {"input": [["pack rope"]]}, ["input"]),
        ("sft", '{"input": "pack rope", "answer":', ["not valid JSON", "column"]),
        ("sft", "[1, 2]", ["must be an object, got list"]),
    ],
)
def test_wrong_columns_and_types_always_stop(trainer, row, says, arguments, tmp_path):
    refuse(trainer, arguments(trainer, row), tmp_path, f"{tmp_path}/rows.jsonl line 2", *says)


@pytest.mark.parametrize(
    ("trainer", "row", "reason"),
    [
        ("sft", {**ANSWERED, "input": " "}, "empty_prompt"),
        ("sft", {**ANSWERED, "answer": ""}, "empty_answer"),
        ("rm", {**PAIR, "other_answer": " "}, "empty_answer"),
        ("rm", {**PAIR, "other_answer": PAIR["answer"]}, "identical_pair"),
        ("rm", {**PAIR, "better": None}, "tied_pair"),
        ("ppo", {"input": ""}, "empty_prompt"),
    ],
)
def test_a_bad_row_is_dropped_and_counted_or_refused(trainer, row, reason, arguments, tmp_path):
    place, words = f"{tmp_path}/rows.jsonl line 2", reason.replace("_", " ")
    refuse(trainer, arguments(trainer, row, on_bad_row="error"), tmp_path, place, words, "on_bad_row")
    output_dir = tmp_path / "dropped"
    done = train_here(trainer, arguments(trainer, row, output_dir=output_dir, max_steps=1), tmp_path)
    assert f"1 row used; left out or changed: {reason} 1" in done.stderr
    account = json.loads((output_dir / "ledger.json").read_text())["train"]
    assert reason in json.dumps(account)


def test_a_list_of_datasets_with_their_own_columns_and_splits(sft_arguments, tmp_path):
    """Keys of the run on the command line, keys of a dataset in the list; train and test of one folder stay apart."""
    rows = [{"q": f"pack rope {word}", "s": f"rope {word} done", "id": 1} for word in ("map", "hat", "soap")]
    (tmp_path / "folder").mkdir()
    write_rows(tmp_path / "folder" / "train.jsonl", *rows)
    write_rows(tmp_path / "folder" / "test.jsonl", *rows[:2])
    write_rows(tmp_path / "other.jsonl", {"frage": "pack rope map", "answer": "rope map done"})
    lists = {
        "train_datasets": [{"path": "folder"}, {"path": "other.jsonl", "input_key": "frage", "output_key": "answer"}],
        "eval_datasets": {"jsonl": {"path": "folder", "proportion": "2/-1"}},
    }
    keys = {"input_key": "q", "output_key": "s", "max_steps": 1, "evaluation_strategy": "steps", "eval_steps": 1}
    made = {**sft_arguments, **lists, **keys, "output_dir": tmp_path / "out"}
    said = train_here("sft", made, tmp_path).stderr
    assert "train: 4 rows used" in said and "eval: 2 rows used" in said and "columns not read: id" in said
    notes = json.loads((tmp_path / "out" / "ledger.json").read_text())["train"]["notes"]
    assert any("split 'train'" in note for lines in notes.values() for note in lines)


OVERLONG = [("drop", "dropped_overlong", 1), ("left", "truncated_left", 2)]


@pytest.mark.parametrize("trainer", ["sft", "rm", "ppo"])
@pytest.mark.parametrize(("choice", "reason", "used"), OVERLONG)
def test_a_prompt_beyond_the_limit(trainer, choice, reason, used, arguments, tmp_path):
    made = arguments(trainer, GOOD[trainer] | LONG, on_overlong=choice, max_steps=1, output_dir=tmp_path / "out")
    done = train_here(trainer, made, tmp_path)
    assert f"{used} row{'s' * (used > 1)} used; left out or changed: {reason} 1" in done.stderr
    assert reason in (tmp_path / "out" / "ledger.json").read_text()


def test_a_long_answer_is_cut_on_the_right_only_when_asked(arguments, tmp_path):
    row = {**ANSWERED, "answer": "rope " * 80}
    made = arguments("sft", row, on_overlong="right", max_steps=1, output_dir=tmp_path / "out")
    assert "2 rows used; left out or changed: truncated_right 1" in train_here("sft", made, tmp_path).stderr


@pytest.mark.parametrize("trainer", ["sft", "rm", "ppo"])
def test_a_prompt_beyond_the_limit_is_refused_when_asked(trainer, arguments, tmp_path):
    made = arguments(trainer, GOOD[trainer] | LONG, on_overlong="error")
    message = refuse(trainer, made, tmp_path, f"{tmp_path}/rows.jsonl line 2", "max_length 64")
    assert "84 prompt tokens" in message and "drop, left or right" in message


def test_no_usable_row_is_an_error_with_the_reasons(arguments, tmp_path):
    made = arguments("rm")
    write_rows(tmp_path / "rows.jsonl", {**PAIR, "other_answer": PAIR["answer"]}, {**PAIR, "input": ""}, PAIR | LONG)
    says = ["identical_pair 1", "empty_prompt 1", "dropped_overlong 1", "rows.jsonl", "max_length 64"]
    refuse("rm", made, tmp_path, *says)
    write_rows(tmp_path / "rows.jsonl")
    refuse("rm", made, tmp_path, "rows.jsonl holds no rows")


@pytest.mark.parametrize(
    ("datasets", "says"),
    [
        ("packing-sft/trian", ["unknown dataset 'packing-sft/trian'", "did you mean 'packing-sft/train'", "jsonl"]),
        ("packing-sft/train:x", ["'x'", "a fraction 'a/b'"]),
        ("packing-sft/train:0", ["no dataset to read"]),
        ("packing-sft/train:1:2:3", ["name[:proportion[:path]]"]),
        ("jsonl:1:nowhere.jsonl", ["'nowhere.jsonl' does not exist; tried ", "line 1"]),
        ("jsonl", ["needs a path"]),
    ],
)
def test_unknown_datasets_and_wrong_proportions(datasets, says, sft_arguments, tmp_path):
    refuse("sft", {**sft_arguments, "train_datasets": datasets}, tmp_path, *says)


def test_a_template_that_refuses_a_row_names_the_row(sft_arguments, tmp_path, model_variant):
    broken = model_variant("tokenizer_config.json", chat_template="{{ raise_exception('not today') }}")
    path = write_rows(tmp_path / "rows.jsonl", ANSWERED)
    made = {**sft_arguments, "model_name_or_path": broken, "train_datasets": f"jsonl:1:{path}"}
    refuse("sft", made, tmp_path, "rows.jsonl line 1", "not today", str(broken), "tokenizer_chat_template")
    broken = model_variant("tokenizer_config.json", chat_template="{% if %}")
    refuse("sft", {**made, "model_name_or_path": broken}, tmp_path, "line 1 of the chat template", str(broken))
    bare = model_variant("tokenizer_config.json", chat_template=None)
    refuse("sft", {**made, "model_name_or_path": bare}, tmp_path, "no chat template", "chat_template=none")


@pytest.mark.parametrize(
    ("content", "says"),
    [("raise RuntimeError('at import')", "at import"), ("def f(:", "SyntaxError"), (None, "does not exist")],
)
def test_a_dataset_module_that_cannot_be_imported(content, says, sft_arguments, tmp_path):
    if content is not None:
        (tmp_path / "broken_datasets.py").write_text(content)
    made = {**sft_arguments, "dataset_modules": "broken_datasets.py"}
    refuse("sft", made, tmp_path, "broken_datasets.py", says)


def test_a_refusal_can_be_read_again_from_the_same_folder(arguments, tmp_path):
    """The run that was refused leaves nothing that stands in the way of the corrected one."""
    refuse("sft", arguments("sft", "{", output_dir=tmp_path / "out"), tmp_path, "line 2")
    train_here("sft", arguments("sft", output_dir=tmp_path / "out", max_steps=1), tmp_path)
    again = run_here("sft", arguments("sft", output_dir=tmp_path / "out", max_steps=1), tmp_path)
    message_of(again, "--resume_from_checkpoint true", "--overwrite_output_dir true", "name another folder")


def test_rows_held_out_for_evaluation_have_one_account_with_those_of_training(arguments, tmp_path):
    bad = {**ANSWERED, "answer": ""}
    made = arguments("sft", *[ANSWERED] * 8, bad, eval_split_ratio=0.2, do_eval=True, max_steps=1)
    done = train_here("sft", {**made, "output_dir": tmp_path / "out"}, tmp_path)
    assert "train: 7 rows used, eval: 2 rows used; left out or changed: empty_answer 1" in done.stderr
    account = json.loads((tmp_path / "out" / "ledger.json").read_text())
    assert list(account) == ["train and eval"]
    assert list(account["train and eval"]["datasets"].values()) == [{"selected": 10, "used": 9}]
