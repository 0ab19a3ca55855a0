"""Rendered text against safe-rlhf, and the chat template."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignment.data.raw.conversation import conversation
from alignment.data.templates import PKU, TokenizerTemplate, open_template
from alignment.errors import DataError

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "safe_rlhf_vectors.json"


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text())["cases"]["format_prompt"])
def test_prompt_equals_safe_rlhf(case):
    assert PKU.ending_with(case["eos"]).render_prompt(conversation(case["input"])) == case["output"]


def test_braces_in_user_text_are_plain_text():
    assert "USER: {input} {0} ASSISTANT:" in PKU.render_prompt(conversation("{input} {0}"))


def test_chat_template_prompt_and_answer(tokenizer):
    template = open_template("tokenizer", tokenizer)
    assert template.render_prompt(conversation("hi")) == "<s> [u] hi [a] "
    assert template.render_answer(conversation("hi"), "<s> [u] hi [a] ", "a b") == "a b "
    assert not template.adds_special_tokens


def test_chat_template_that_rewrites_its_prompt_takes_the_answer_as_it_is(tokenizer):
    tokenizer.apply_chat_template = lambda messages, tokenize, add_generation_prompt: f"{len(messages)}: ..."
    assert TokenizerTemplate(tokenizer).render_answer(conversation("hi"), "1: ...", "a b") == "a b"
    with pytest.raises(DataError, match="cannot be located"):
        TokenizerTemplate(tokenizer).render_dialogue(conversation(["a", "b", "c", "d"]))


def test_dialogue_segments_concatenate_to_the_prompt(tokenizer):
    segments = open_template("pku", tokenizer).render_dialogue(conversation(["a", "b", "c", "d"]))
    assert [segment.text for segment in segments] == [
        "BEGINNING OF CONVERSATION: USER: a ASSISTANT:",
        "b",
        "USER: c ASSISTANT:",
        "d",
    ]
    assert [segment.is_answer for segment in segments] == [False, True, False, True]


def test_missing_and_failing_templates_are_refused(tokenizer):
    with pytest.raises(DataError, match="unknown template 'chatml' .allowed: pku, tokenizer"):
        open_template("chatml", tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(DataError, match="no chat template"):
        open_template("tokenizer", tokenizer)


def test_error_inside_a_template_is_reported(tokenizer):
    def fail(messages, tokenize, add_generation_prompt):
        raise RuntimeError("roles must alternate")

    tokenizer.apply_chat_template = fail
    with pytest.raises(DataError, match="refuses.*roles must alternate. To use another .*_chat_template$"):
        TokenizerTemplate(tokenizer).render_prompt(conversation("hi"))


def test_an_own_template_stands_around_each_text_of_the_user(tokenizer):
    template = open_template("User: {}\nAssistant: ", tokenizer)
    segments = template.render_dialogue(conversation(["a {} {x}", "b", "c", "d"]))
    assert [segment.text for segment in segments] == ["User: a {} {x}\nAssistant: ", "b", "User: c\nAssistant: ", "d"]
    assert template.render_prompt(conversation(["a", "b", "c"])) == "User: a\nAssistant: b</s>User: c\nAssistant: "
    assert template.end == "</s>" and template.adds_special_tokens
    with pytest.raises(DataError, match="supports no other order"):
        template.render_prompt(conversation([{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]))


@pytest.mark.parametrize("name", ["User: ", "{} and {}"])
def test_an_own_template_has_one_place_for_the_text(name, tokenizer):
    with pytest.raises(DataError, match="unknown template.*a text with one {}"):
        open_template(name, tokenizer)


def test_an_end_token_inside_an_answer_does_not_end_it(tokenizer):
    template = open_template("tokenizer", tokenizer)
    assert template.render_answer(conversation("hi"), "<s> [u] hi [a] ", "a </s> b") == "a </s> b "
    dialogue = conversation(["hi", "a </s> b", "c", "d"])
    whole = template._render(dialogue, add_generation_prompt=False)
    for segments in (template._cut_known(dialogue, whole), template._cut_by_prompts(dialogue, whole)):
        assert [segment.text for segment in segments if segment.is_answer] == ["a </s> b ", "d "]


def _with_template(tokenizer, write):
    """Return the template that writes each message as ``write`` does, and how many texts it has rendered."""
    calls = []

    def apply(messages, tokenize, add_generation_prompt):
        calls.append(len(messages))
        return "".join(map(write, messages)) + ("[a] " if add_generation_prompt else "")

    tokenizer.apply_chat_template = apply
    return TokenizerTemplate(tokenizer), calls


def _targets(segments):
    return [(segment.text, segment.end) for segment in segments if segment.is_answer]


@pytest.mark.parametrize(
    ("after", "targets"),
    [
        ("</s>", [("b", "</s>"), ("d", "</s>")]),
        ("\n</s>\n", [("b\n", "</s>"), ("d\n", "</s>")]),
        (" [done]</s>", [("b [done]", "</s>"), ("d [done]", "</s>")]),
        ("\n", [("b", ""), ("d", "")]),
    ],
)
def test_an_answer_reaches_to_its_end_token_whatever_stands_before_it(tokenizer, after, targets):
    def write(message):
        return f"[u] {message['content']}" if message["role"] == "user" else f"[a] {message['content']}{after}"

    template, _ = _with_template(tokenizer, write)
    segments = template.render_dialogue(conversation(["a", "b", "c", "d"]))
    assert _targets(segments) == targets
    assert "".join(segment.text + segment.end for segment in segments) == f"[u] a[a] b{after}[u] c[a] d{after}"


def test_equal_roles_with_other_turns_to_train_on_are_cut_apart(tokenizer):
    turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, "abcd", strict=True)]
    held_back = [{**turn, "train": False} if turn["content"] == "b" else turn for turn in turns]
    template = TokenizerTemplate(tokenizer)
    for _ in range(2):
        assert _targets(template.render_dialogue(conversation(held_back))) == [("d ", "</s>")]
        assert _targets(template.render_dialogue(conversation(turns))) == [("b ", "</s>"), ("d ", "</s>")]


def test_a_dialogue_with_roles_that_were_seen_is_rendered_once(tokenizer):
    template, calls = _with_template(tokenizer, lambda m: f"[{m['role'][0]}] {m['content']}</s>")
    template.render_dialogue(conversation(["a", "b", "c", "d"]))
    calls.clear()
    assert _targets(template.render_dialogue(conversation(["x", "y", "z", "q"]))) == [("y", "</s>"), ("q", "</s>")]
    assert calls == [4]


def test_answers_are_found_one_behind_the_other_where_no_text_tells_them_apart(tokenizer):
    """Three equal answers: each prompt ends where the whole conversation has the answer."""
    dialogue = conversation(["a", "b"] * 3)
    template = TokenizerTemplate(tokenizer)
    whole = template._render(dialogue, add_generation_prompt=False)
    segments = template._cut_by_prompts(dialogue, whole)
    assert _targets(segments) == [("b ", "</s>")] * 3
    assert "".join(segment.text + segment.end for segment in segments) == whole


def test_an_answer_whose_prompt_is_not_how_the_whole_begins_is_found_by_its_place(tokenizer):
    """A template that writes the number of messages first: no prompt is a beginning of the whole text."""

    def apply(messages, tokenize, add_generation_prompt):
        text = "".join(f"[{m['role'][0]}] {m['content']}</s>" for m in messages)
        return f"{len(messages) > 2} {text}" + ("[a] " if add_generation_prompt else "")

    tokenizer.apply_chat_template = apply
    segments = TokenizerTemplate(tokenizer).render_dialogue(conversation(["a", "b", "c", "b"]))
    assert _targets(segments) == [(" b", "</s>"), ("b", "</s>")]
    assert [segment.text for segment in segments if not segment.is_answer] == ["True [u] a</s>[a]", "[u] c</s>[a] "]
