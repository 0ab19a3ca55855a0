"""alignment eval against transformers, rouge-score and plain Python, on the same rows."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from alignment.arguments.parser import parse_arguments
from alignment.evaluation.pairs import REWARDBENCH
from alignment.parity.subjects import make_models
from alignment.runs.evaluations.eval_arguments import GROUPS
from alignment.runs.evaluations.evaluate import evaluate

pytestmark = pytest.mark.interop

ITEMS = ("lamp", "tent", "boots", "rope", "coat", "apple", "bread", "map")
LONGEST, STRIDE = 12, 5
SUBSETS = [name for names in REWARDBENCH.values() for name in names]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("oracle")
    make_models(place)
    return place


def words(rng, least, most):
    return " ".join(rng.choice(ITEMS, rng.integers(least, most)))


def measure(folder, **given):
    evaluate(parse_arguments(GROUPS, {"device": "cpu", "disable_tqdm": True, **given}))
    return json.loads((folder / "results.json").read_text())["metrics"]


def test_perplexity_is_that_of_transformers_with_the_usual_windows(folder, tmp_path, torch, transformers):
    """A mean over all tokens, where windows count only what earlier ones did not, as transformers' guide does."""
    rng = np.random.default_rng(0)
    texts = [words(rng, 3, 30) for _ in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = measure(
        tmp_path / "out",
        task="perplexity",
        model_name_or_path=str(folder / "actor"),
        eval_datasets=str(tmp_path / "rows.jsonl"),
        loss_on="text",
        input_key="text",
        max_length=LONGEST,
        stride=STRIDE,
        output_dir=str(tmp_path / "out"),
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "actor").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "actor")
    losses, counts = zip(
        *(sums(torch, model, tokenizer(text)["input_ids"] + [model.config.eos_token_id]) for text in texts), strict=True
    )
    assert sum(counts) == found["tokens"]
    assert found["loss"]["value"] == pytest.approx(sum(losses) / sum(counts), rel=1e-5)
    assert found["perplexity"]["value"] == pytest.approx(math.exp(sum(losses) / sum(counts)), rel=1e-4)
    each = [math.exp(loss / count) for loss, count in zip(losses, counts, strict=True)]
    assert found["perplexity_of_rows"]["value"] == pytest.approx(np.mean(each), rel=1e-4)


def sums(torch, model, ids):
    """Return the summed loss of a row and its number of tokens, by labels of -100 for what was counted before."""
    loss, count, before = 0.0, 0, 0
    for start in range(0, len(ids), STRIDE):
        end = min(start + LONGEST, len(ids))
        labels = torch.tensor([ids[start:end]])
        labels[:, : max(0, before - start)] = -100
        num = int((labels[:, 1:] != -100).sum())
        if num:
            with torch.no_grad():
                loss += num * float(model(input_ids=torch.tensor([ids[start:end]]), labels=labels).loss)
        count, before = count + num, end
        if end == len(ids):
            return loss, count
    raise AssertionError


def test_rewardbench_is_that_of_the_seeds_script(folder, tmp_path, torch, transformers):
    """Scores by transformers; sections and the record by the rule of RLHFlow's eval_reward_bench_bt.py."""
    rng = np.random.default_rng(1)
    rows = [
        {"prompt": f"pack {words(rng, 2, 4)}", "chosen": words(rng, 1, 6), "rejected": words(rng, 1, 6) + " done"}
        | {"subset": SUBSETS[i % len(SUBSETS)], "id": i, "chosen_model": "a", "rejected_model": "b"}
        for i in range(3 * len(SUBSETS) - 7)
    ]
    (tmp_path / "filtered.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = measure(
        tmp_path / "out",
        task="reward_accuracy",
        pairs_file=str(tmp_path / "filtered.jsonl"),
        reward_sources=str(folder / "reward"),
        sections="rewardbench",
        record_file=str(tmp_path / "record.txt"),
        output_dir=str(tmp_path / "out"),
    )
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "reward").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "reward")

    def score(prompt, answer):
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            return float(model(input_ids=ids).logits[0, 0])

    correct: dict[str, list[float]] = {}
    for row in rows:
        chosen, rejected = score(row["prompt"], row["chosen"]), score(row["prompt"], row["rejected"])
        correct.setdefault(row["subset"], []).append(0.5 if chosen == rejected else float(chosen > rejected))
    assert found["accuracy"]["value"] == pytest.approx(np.mean([value for part in correct.values() for value in part]))
    lines = [str(folder / "reward")]
    for section, weights in REWARDBENCH.items():
        total = sum(weight * np.mean(correct[name]) for name, weight in weights.items()) / sum(weights.values())
        assert found[section]["value"] == pytest.approx(total)
        lines.append(f"{section}\t{round(100 * total, 2)}")
    assert (tmp_path / "record.txt").read_text() == "\n".join([*lines, ""])


def test_rouge_is_that_of_the_package(tmp_path):
    from rouge_score.rouge_scorer import RougeScorer

    rng = np.random.default_rng(2)
    rows = [{"prompt": "p", "response": words(rng, 1, 9), "label": words(rng, 1, 9)} for _ in range(20)]
    rows += [{"prompt": "p", "response": "Ropes, lamps\nand TENTS.", "label": "rope and lamp\ntents"}]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for use_stemmer in (False, True):
        place = tmp_path / str(use_stemmer)
        answers = str(tmp_path / "answers.jsonl")
        found = measure(place, task="rouge", answers_file=answers, use_stemmer=use_stemmer, output_dir=str(place))
        scorer = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=use_stemmer)
        scores = [scorer.score(row["label"], row["response"]) for row in rows]
        for name, value in found.items():
            assert value["value"] == pytest.approx(np.mean([score[name].fmeasure for score in scores])), name
