"""The packing task: the true score by hand, the shipped bytes, and no held-out set in training."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer

from alignment.data import RawDataset
from alignment.data.sources.packing import ATTRIBUTES, ITEMS, SHIPPED, TOKENIZER, true_score, wanted_items
from alignment.data.sources.packing_generate import LABEL_NOISE, NUM_ROWS, write_files
from alignment.errors import DataError

PROMPT = "pack rope lamp map tent"
KINDS = list(NUM_ROWS)


def load(kind: str, split: str) -> RawDataset:
    return RawDataset.load(f"packing-{kind}/{split}")


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("rope lamp map tent done", 1.2),
        ("tent map lamp rope done", 1.2),
        ("rope lamp map tent", 1.0),
        ("rope lamp done", 0.5 + 0.2),
        ("rope lamp map tent knife done", 1.2 - 0.5 / 4),
        ("rope lamp map tent knife knife done", 1.2 - 0.5 / 4 - 0.25 / 4),
        ("rope rope rope lamp map tent done", 1.2 - 2 * 0.25 / 4),
        ("rope and lamp um map tent done", 1.2 - 2 * 0.05),
        ("rope lamp map tent done done", 1.0 - 2 * 0.05),
        ("done rope lamp map tent", 1.0 - 0.05),
        ("rope lamp map tent xyz", 1.0 - 0.05),
        ("", 0.0),
        ("done", 0.2),
    ],
)
def test_true_score_by_hand(answer, score):
    assert true_score(PROMPT, answer) == pytest.approx(score, abs=1e-12)


def test_naming_everything_does_not_pay():
    assert true_score(PROMPT, " ".join([*ITEMS, "done"])) < true_score(PROMPT, "rope done")


def test_the_prompt_may_be_rendered():
    for prompt in (f"BEGINNING OF CONVERSATION: USER: {PROMPT} ASSISTANT:", f"<bos> <user> {PROMPT} <assistant> "):
        assert wanted_items(prompt) == {"rope", "lamp", "map", "tent"}
    for prompt in ("rope lamp", "pack nothing", ""):
        with pytest.raises(DataError, match="not a packing prompt"):
            true_score(prompt, "rope")


def test_regenerating_gives_the_shipped_bytes(tmp_path):
    written = {path.relative_to(tmp_path): path.read_bytes() for path in write_files(tmp_path)}
    shipped = {path.relative_to(SHIPPED): path.read_bytes() for path in SHIPPED.rglob("*") if path.is_file()}
    assert written == shipped
    assert sum(map(len, shipped.values())) < 3_500_000


@pytest.mark.parametrize("kind", KINDS)
def test_sizes(kind):
    assert [len(load(kind, split)) for split in ("train", "test")] == list(NUM_ROWS[kind])


def test_no_wanted_set_of_a_test_split_occurs_in_training():
    sets = {
        split: {frozenset(wanted_items(row["input"])) for kind in KINDS for row in load(kind, split)}
        for split in ("train", "test")
    }
    assert len(sets["test"]) > 100 and not sets["train"] & sets["test"]


def test_demonstrations_leave_room_for_ppo():
    rows = list(load("sft", "train"))
    scores = [true_score(row["input"], row["answer"]) for row in rows]
    covered = [len(wanted_items(row["input"]) & set(row["answer"].split())) for row in rows]
    wanted = [len(wanted_items(row["input"])) for row in rows]
    assert 0.6 < sum(covered) / sum(wanted) < 0.7
    assert 0.6 < sum(scores) / len(scores) < 0.75 and max(scores) == pytest.approx(1.2)


@pytest.mark.parametrize(("split", "noise"), [("train", LABEL_NOISE), ("test", 0.0)])
def test_preferences_follow_the_true_score_but_for_the_stated_noise(split, noise):
    turned = 0
    rows = list(load("preference", split))
    for row in rows:
        first, second = (true_score(row["input"], row[name]) for name in ("answer", "other_answer"))
        assert abs(first - second) > 1e-9
        turned += (first > second) != row["better"]
    assert turned / len(rows) == pytest.approx(noise, abs=0.01)
    assert 0.45 < sum(row["better"] for row in rows) / len(rows) < 0.55


def test_tokenizer_is_word_level_and_gives_the_text_back():
    tokenizer = Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
    assert tokenizer.get_vocab_size() < 64
    ids = tokenizer.encode("rope lamp map done").ids
    assert len(ids) == 4 and tokenizer.decode(ids) == "rope lamp map done"
    assert tokenizer.decode([1, *ids, 2], skip_special_tokens=True) == "rope lamp map done"
    assert tokenizer.encode("<bos> <user> pack zebra <assistant> ").tokens == [
        "<bos>", "<user>", "pack", "<unk>", "<assistant>",
    ]  # fmt: skip
    words = {word for kind in KINDS for row in load(kind, "train") for word in _words(row)}
    assert words <= tokenizer.get_vocab().keys()


def test_chat_template_renders_turns_with_eos():
    jinja2 = pytest.importorskip("jinja2")
    config = json.loads((TOKENIZER / "tokenizer_config.json").read_text())
    template = jinja2.Environment().from_string(config["chat_template"])
    asked, answered = {"role": "user", "content": "pack rope"}, {"role": "assistant", "content": "rope done"}

    def render(messages, prompt: bool) -> str:
        tokens = {name: config[name] for name in ("bos_token", "eos_token")}
        return template.render(messages=messages, add_generation_prompt=prompt, **tokens)

    assert render([asked], True) == "<bos> <user> pack rope <assistant> "
    assert render([asked, answered], False) == "<bos> <user> pack rope <assistant> rope done <eos>"
    assert render([asked, answered, asked], True).startswith(render([asked, answered], False))


@pytest.mark.interop
def test_transformers_reads_the_tokenizer():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(TOKENIZER))
    ids = tokenizer("rope lamp map done")["input_ids"]
    assert tokenizer.decode(ids) == "rope lamp map done" and len(ids) == 4
    assert tokenizer.eos_token == "<eos>" and tokenizer.pad_token_id == 0
    asked = [{"role": "user", "content": "pack rope"}]
    rendered = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert rendered == "<bos> <user> pack rope <assistant> "


def _words(row) -> list[str]:
    return " ".join(row.get(name, "") for name in ("input", "answer", "other_answer")).split()


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_weighted_attributes_are_the_true_score(split):
    rated, pairs = load("attributes", split), load("preference", split)
    assert len(rated) == 2 * len(pairs)
    for index in range(0, 200):
        row = rated[index]
        assert row["answer"] == pairs[index // 2]["other_answer" if index % 2 else "answer"]
        weighted = sum(value * weight for value, weight in zip(row["attributes"], ATTRIBUTES.values(), strict=True))
        assert weighted == pytest.approx(true_score(row["input"], row["answer"]), abs=1e-12)
