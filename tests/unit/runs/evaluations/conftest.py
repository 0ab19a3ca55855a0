"""Tiny models, rows and functions for evaluations, and a call of ``alignment eval``."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from alignment.arguments.parser import parse_arguments
from alignment.parity.subjects import make_models
from alignment.runs.evaluations.eval_arguments import GROUPS
from alignment.runs.evaluations.evaluate import evaluate

ITEMS = ("lamp", "tent", "boots", "rope knife", "coat", "apple bread", "map", "lamp rope map")
SUBSETS = ("alpacaeval-easy", "mt-bench-hard", "donotanswer", "math-prm")
FUNCTIONS = """
def length(prompts, responses, labels):
    return [len(text) for text in responses]

def labelled(prompts, responses, labels):
    return [float(label is not None and label.split()[0] in text) for text, label in zip(responses, labels)]

def constant(prompts, responses, labels):
    return [1.0 for text in responses]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with models, prompts, pairs, answers and functions."""
    folder = tmp_path_factory.mktemp("eval")
    make_models(folder / "models")
    write(folder / "prompts.jsonl", [{"prompt": f"pack {item}", "answer": f"{item} done"} for item in ITEMS])
    pairs = [
        {"prompt": f"pack {item}", "chosen": f"{item} done", "rejected": f"done {item}"[: 5 + i], "id": i}
        | {"subset": SUBSETS[i % 4], "chosen_model": "a", "rejected_model": "b"}
        for i, item in enumerate(ITEMS)
    ]
    write(folder / "pairs.jsonl", pairs)
    for name, end in (("mine", " done"), ("theirs", "")):
        ends = {"finish_reasons": ["stop", "length"]}
        rows = [{"prompt": f"pack {item}", "responses": [item + end, item], "label": item, **ends} for item in ITEMS]
        write(folder / f"{name}.jsonl", rows)
    (folder / "mine.py").write_text(FUNCTIONS)
    return folder


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def run(place, tmp_path):
    """Evaluate with the given keys; returns results, rows and the page."""

    def run(task, **keys):
        folder = tmp_path / keys.pop("name", "out")
        keys = {name: str(place / value) if name in PATHS else value for name, value in keys.items()}
        given = {"task": task, "output_dir": str(folder), "device": "cpu", "disable_tqdm": True, **keys}
        evaluate(parse_arguments(GROUPS, given))
        rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
        page = (folder / "evaluation.html").read_text()
        return SimpleNamespace(**json.loads((folder / "results.json").read_text()), rows=rows, page=page, folder=folder)

    return run


PATHS = (
    *("model_name_or_path", "other_model_name_or_path", "eval_datasets", "prompts", "pairs_file"),
    *("answers_file", "other_answers_file", "reward_sources"),
)
MODEL = {"model_name_or_path": "models/actor"}
GENERATED = {**MODEL, "prompts": "prompts.jsonl", "max_dec_len": 8}
