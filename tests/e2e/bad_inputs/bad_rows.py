"""Data that cannot be used: files, columns, rows, names and shares of datasets, modules."""

from __future__ import annotations

import json

from bench import ANSWERED, MY_ROWS, PAIR, Case, rows


def _row(name, trainer, row, *says, **keys):
    return Case(name, trainer, {**MY_ROWS, **keys}, ("rows.jsonl", *says), rows(trainer, row))


def _file(name, file, content, *says, trainer="sft"):
    return Case(
        name, trainer, {"train_datasets": f"jsonl:1:{{here}}/{file}"}, (file, *says), lambda b: b.write(file, content)
    )


def _names(name, datasets, *says, trainer="sft"):
    return Case(name, trainer, {"train_datasets": datasets}, says)


def _without(row, key):
    return {name: value for name, value in row.items() if name != key}


def _module(name, content, *says):
    return Case(
        name, "sft", {"dataset_modules": "mine.py"}, says or ("mine.py",), lambda b: b.write("mine.py", content)
    )


LONG = {**ANSWERED, "input": "pack " + "rope " * 80}
MESSAGES = [{"role": "user", "content": "pack rope"}, {"role": "assistant", "content": "rope done"}]

ROW_CASES = (
    _row("no answer", "sft", _without(ANSWERED, "answer"), "line 2", "missing 'answer'"),
    _row("no other answer", "rm", _without(PAIR, "other_answer"), "line 2", "missing 'other_answer'"),
    _row("no better", "rm", _without(PAIR, "better"), "line 2", "missing 'better'"),
    _row("unknown columns", "sft", {"frage": "a", "antwort": "b"}, "line 2", "frage"),
    _row("unknown columns", "ppo", {"frage": "a"}, "line 2", "frage"),
    _row("unknown columns", "rm", {"frage": "a"}, "line 2", "frage"),
    _row("a number for an answer", "sft", {**ANSWERED, "answer": 3}, "line 2", "int 3"),
    _row("a list of lists for a prompt", "ppo", {"input": [["a"]]}, "line 2"),
    _row("an even number of turns", "ppo", {"input": ["a", "b"]}, "line 2", "last turn is the assistant's"),
    _row("a word for a flag", "rm", {**PAIR, "better": "yes"}, "line 2", "'better' must be true or false"),
    _row("half a row", "sft", '{"input": "a",', "line 2", "not valid JSON"),
    _row("a list", "sft", "[1]", "line 2", "must be an object"),
    _row("a number", "sft", "7", "line 2", "must be an object"),
    _row("an empty prompt", "sft", {**ANSWERED, "input": " "}, "line 2", "empty prompt", on_bad_row="error"),
    _row("an empty answer", "sft", {**ANSWERED, "answer": ""}, "line 2", "empty answer", on_bad_row="error"),
    _row("equal answers", "rm", {**PAIR, "other_answer": PAIR["answer"]}, "line 2", "identical", on_bad_row="error"),
    _row("a tie", "rm", {**PAIR, "better": None}, "line 2", "tied", on_bad_row="error"),
    _row("a null", "sft", {**ANSWERED, "answer": None}, "line 2", on_bad_row="error"),
    _row("half a surrogate", "sft", '{"input": "a \\ud800", "answer": "b"}', "line 2", on_bad_row="error"),
    _row("a long prompt", "sft", LONG, "line 2", "max_length 64", on_overlong="error"),
    _row("a long prompt", "ppo", {"input": LONG["input"]}, "line 2", "max_length 64", on_overlong="error"),
    _row("messages that are no list", "sft", {"messages": "hello"}, "line 2", "messages"),
    _row("a message without content", "sft", {"messages": [{"role": "user"}]}, "line 2"),
    _row("an unknown role", "sft", {"messages": [{"role": "boss", "content": "a"}]}, "line 2", "boss"),
    _row(
        "an image",
        "sft",
        {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}]},
        "line 2",
        "image",
    ),
    _file("no assistant turn", "rows.jsonl", json.dumps({"messages": MESSAGES[:1]}) + "\n", "no_turn_to_train_on 1"),
    _file("an empty file", "rows.jsonl", "", "holds no rows"),
    _file("only blank lines", "rows.jsonl", "\n\n", "holds no rows"),
    _file("bytes that are no text", "rows.jsonl", b"\xff\xfe\x00\x00"),
    _file("a JSON number", "rows.json", "3"),
    _file("broken JSON", "rows.json", "[1,"),
    _file("a parquet that is none", "rows.parquet", "PAR1 not really"),
    _file("an arrow file that is none", "rows.arrow", "ARROW1 not really"),
    _file("a gzip that is none", "rows.jsonl.gz", "not really"),
    _file("an unknown kind of file", "rows.doc", "hello"),
    _file("rows that are all too long", "rows.jsonl", json.dumps(LONG), "dropped_overlong 1", "max_length 64"),
    Case(
        "an empty folder of rows",
        "sft",
        {"train_datasets": "jsonl:1:{here}/none"},
        ("none",),
        lambda b: (b.here / "none").mkdir(),
    ),
    _names("a misspelt name", "packing-sft/trian", "did you mean 'packing-sft/train'"),
    _names("a share that is no number", "packing-sft/train:x", "'x'"),
    _names("a negative share", "packing-sft/train:-1", "-1"),
    _names("an infinite share", "packing-sft/train:inf", "inf"),
    _names("a share of a billion billions", "packing-sft/train:1e18", "1e"),
    _names("a share of nothing", "packing-sft/train:0", "no dataset to read"),
    _names("a division by zero", "packing-sft/train:1/0", "1/0"),
    _names("too many parts", "packing-sft/train:1:2:3", "name[:proportion[:path]]"),
    _names("a file that is not there", "jsonl:1:nowhere.jsonl", "nowhere.jsonl"),
    _names("no path", "jsonl", "needs a path"),
    _names("a name twice", "packing-sft/train,packing-sft/train", "twice"),
    _names("a comma too many", "packing-sft/train,,", "name[:proportion[:path]]"),
    _names("answers for a reward model", "packing-sft/train", "other_answer", trainer="rm"),
    _names("prompts for fine-tuning", "packing-prompts/train", "answer"),
    Case(
        "a misspelt name for evaluation",
        "sft",
        {"eval_datasets": "packing-sft/tset", "do_eval": True},
        ("packing-sft/tset", "did you mean 'packing-sft/test'"),
    ),
    Case(
        "a share for evaluation that leaves nothing",
        "sft",
        {"eval_split_ratio": 1e-9, "do_eval": True},
        ("eval_split_ratio",),
    ),
    Case("ptx data without answers", "ppo", {"ptx_datasets": "packing-prompts/train"}, ("answer",)),
    _module("a module that raises", "raise RuntimeError('at import')", "at import"),
    _module("a module that leaves", "raise SystemExit(0)", "SystemExit"),
    _module("a module with a syntax error", "def f(:", "SyntaxError"),
    _module("a module that needs another", "import no_such_package", "no_such_package"),
    _module(
        "a module with a taken name",
        "from data import RawDataset\nclass A(RawDataset):\n    NAME = 'packing-sft/train'\n"
        "    def __getitem__(self, i): return {}\n    def __len__(self): return 0\n",
        "already taken",
    ),
    Case("a module that is not there", "sft", {"dataset_modules": "none.py"}, ("none.py", "does not exist")),
)
