"""Training rows hold the ids that transformers gives for the whole conversation, whatever shape the template has."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alignment.data import PreferenceDataset, PromptOnlyDataset, RawDataset, SupervisedDataset
from alignment.data.encode import EncodeOptions, Encoder
from alignment.data.raw.conversation import Conversation, conversation
from alignment.data.templates import open_template
from alignment.models.tokenizer.tokenizer import load_tokenizer
from tests.interop.test_tokenizers import byte_level_bpe, with_bos, write

pytestmark = pytest.mark.interop

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
QWEN = (  # a default system message, tools, calls and results of tools
    "{% if tools %}{{ '<|im_start|>system\\n# Tools\\n' }}{% for t in tools %}{{ t | tojson }}\n{% endfor %}"
    "{{ '<|im_end|>\\n' }}{% elif messages[0].role != 'system' %}{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}"
    "{% endif %}{% for m in messages %}{% if m.role == 'tool' %}"
    "{{ '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}"
    "{% elif m.tool_calls %}{{ '<|im_start|>assistant' }}{% if m.content %}{{ '\\n' + m.content }}{% endif %}"
    "{% for c in m.tool_calls %}{{ '\\n<tool_call>\\n' }}{{ c.function | tojson }}{{ '\\n</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\\n' }}{% else %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
THINKING = (  # only what follows the last question keeps its thoughts; the last answer gets empty ones
    "{% for m in messages %}{% set said = m.content.split('</think>')[-1].lstrip('\\n') %}"
    "{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' and loop.last %}"
    "{{ m.content if '</think>' in m.content else '<think>\\n\\n</think>\\n\\n' + m.content }}"
    "{% else %}{{ said }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + '<|endoftext|>\\n\\n' + m.content | trim "
    "+ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|endoftext|>\\n\\n' }}"
    "{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
MISTRAL = (  # no generation prompt; a system message goes into the last question, so earlier text changes
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\\n\\n' %}"
    "{% set loop_messages = messages[1:] %}{% else %}{% set system = '' %}{% set loop_messages = messages %}{% endif %}"
    "{% set ns = namespace(last=0) %}{% for m in loop_messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index %}{% endif %}{% endfor %}"
    "{{ bos_token }}{% for m in loop_messages %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + (system if loop.index == ns.last else '') + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
ENDS = "<|end|>"
OTHER_END = {"eos_token": "<|im_end|>"}
"""name: (template, special tokens, what ends a turn of the assistant)"""
SHAPES = {
    "chatml": (CHATML, OTHER_END, "<|im_end|>"),
    "chatml whose turns do not end with EOS": (CHATML, {}, "<|im_end|>"),
    "qwen": (QWEN, OTHER_END, "<|im_end|>"),
    "thinking": (THINKING, OTHER_END, "<|im_end|>"),
    "llama-3": (LLAMA_3, OTHER_END, "<|im_end|>"),
    "llama-3 with the base model's EOS": (LLAMA_3, {}, "<|im_end|>"),
    "zephyr": (ZEPHYR, {}, ENDS),
    "mistral": (MISTRAL, {}, ENDS),
}
TOOLS = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}]
PLAIN = [
    {"role": "user", "content": "hello world"},
    {"role": "assistant", "content": "the cat sat"},
    {"role": "user", "content": "two dogs ?"},
    {"role": "assistant", "content": "1 ran over \u6f22\u5b57\n a line"},
]
SYSTEM = [{"role": "system", "content": "be or not"}, *PLAIN]
THOUGHTS = [PLAIN[0], {"role": "assistant", "content": "<think>\nto be\n</think>\n\nthe cat"}, *PLAIN[2:]]
CALLS = [
    PLAIN[0],
    {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "add"}}]},
    {"role": "tool", "content": "3"},
    {"role": "assistant", "content": "three"},
]


def shape(folder, name, transformers):
    template, special, end = SHAPES[name]
    folder.mkdir()
    write(folder, with_bos(byte_level_bpe()), chat_template=template, **special)
    return transformers.AutoTokenizer.from_pretrained(folder), load_tokenizer(folder), end


@pytest.fixture(params=SHAPES)
def both(request, tmp_path, transformers):
    """(transformers' tokenizer, ours, the token that ends a turn)."""
    return shape(tmp_path / "m", request.param, transformers)


def serve(rows, name):
    class Rows(RawDataset):
        NAME = f"test-interop-{name}"

        def __len__(self):
            return len(rows)

        def __getitem__(self, index):
            return rows[index]

    return Rows.NAME


def theirs_ids(tokenizer, messages, tools=None, prompt=False):
    given = {"add_generation_prompt": prompt, "tokenize": True, "return_dict": False}
    return list(tokenizer.apply_chat_template(messages, tools=tools, **given))


def rows_of(kind, row, tokenizer, name="rows"):
    options = EncodeOptions(template="tokenizer", max_length=4096)
    return kind(serve([row], name), tokenizer, options=options)[0]


def target_texts(sample, tokenizer):
    """The texts of the runs of target tokens."""
    runs, last = [], -2
    for place in (sample["labels"] >= 0).nonzero()[0].tolist():
        if place != last + 1:
            runs.append([])
        runs[-1].append(int(sample["input_ids"][place]))
        last = place
    return [tokenizer.decode(run, skip_special_tokens=False) for run in runs]


@pytest.mark.parametrize("messages", [PLAIN, SYSTEM, THOUGHTS], ids=["plain", "system", "thoughts"])
def test_a_dialogue_has_the_ids_of_transformers_and_its_answers_are_targets(both, messages):
    theirs, ours, end = both
    sample = rows_of(SupervisedDataset, {"messages": messages}, ours)
    assert sample["input_ids"].tolist() == theirs_ids(theirs, messages)
    answers = target_texts(sample, ours)
    assert len(answers) == 2 and all(answer.endswith(end) for answer in answers)
    for answer, message in zip(answers, messages[-3::2], strict=True):
        assert answer.removesuffix(end).endswith(message["content"].split("</think>\n\n")[-1])
    assert "dogs" not in "".join(answers) and answers[1].count("1 ran over") == 1


def test_turns_that_are_not_trained_on_have_the_same_ids(both):
    theirs, ours, end = both
    messages = [PLAIN[0], {**PLAIN[1], "train": False}, *PLAIN[2:]]
    sample = rows_of(SupervisedDataset, {"messages": messages}, ours)
    assert sample["input_ids"].tolist() == theirs_ids(theirs, PLAIN)
    [answer] = target_texts(sample, ours)
    assert answer.removesuffix(end).strip().endswith(PLAIN[3]["content"])


def test_one_answer_has_the_ids_of_transformers(both):
    theirs, ours, _ = both
    row = {"input": "hello", "answer": "world \u00fc"}
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "world \u00fc"}]
    assert rows_of(SupervisedDataset, row, ours)["input_ids"].tolist() == theirs_ids(theirs, messages)


def test_prompts_have_the_ids_of_transformers(both):
    theirs, ours, _ = both
    sample = rows_of(PromptOnlyDataset, {"input": SYSTEM[:4]}, ours)
    assert sample["input_ids"].tolist() == theirs_ids(theirs, SYSTEM[:4], prompt=True)


def test_pairs_have_the_ids_of_transformers_up_to_the_end_of_the_answer(both):
    theirs, ours, end = both
    row = {"input": SYSTEM[:4], "answer": "a line", "other_answer": "the mat", "better": True}
    sample = rows_of(PreferenceDataset, row, ours)
    for key, answer in (("better", "a line"), ("worse", "the mat")):
        expected = theirs_ids(theirs, [*SYSTEM[:4], {"role": "assistant", "content": answer}])
        last = len(expected) - expected[::-1].index(ours.vocab[end])
        assert sample[f"{key}_input_ids"].tolist() == expected[:last]


def test_tools_and_their_calls_are_written_and_learned(tmp_path, transformers):
    theirs, ours, _ = shape(tmp_path / "m", "qwen", transformers)
    sample = rows_of(SupervisedDataset, {"messages": CALLS, "tools": TOOLS}, ours)
    assert sample["input_ids"].tolist() == theirs_ids(theirs, CALLS, TOOLS)
    call, answer = target_texts(sample, ours)
    assert json.loads(call.split("<tool_call>\n")[1].split("\n</tool_call>")[0]) == {"name": "add"}
    assert answer == "three<|im_end|>"


class Follows:
    """A tokenizer without ``encode_cut``: each piece of text is tokenised after all before it."""

    def __init__(self, tokenizer):
        for name in ("eos_token", "eos_token_id", "chat_template", "decode", "apply_chat_template"):
            setattr(self, name, getattr(tokenizer, name))
        self._tokenizer = tokenizer

    def __call__(self, text, add_special_tokens=True):
        return self._tokenizer(text, add_special_tokens)


texts = st.text(st.sampled_from("ab 1\n.\u00fc\u6f22'<|"), min_size=1, max_size=8)


@pytest.mark.parametrize("name", [None, *SHAPES])
def test_cutting_the_whole_text_gives_the_ids_of_each_turn_after_all_before_it(name, tmp_path, transformers):
    _, ours, _ = shape(tmp_path / "m", name or "chatml", transformers)
    template = "tokenizer" if name else "pku"
    cuts, follows = Encoder(ours, template), Encoder(Follows(ours), template)

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(texts, min_size=2, max_size=6).filter(lambda turns: len(turns) % 2 == 0))
    def check(turns):
        assert cuts.encode_dialogue(turns) == follows.encode_dialogue(turns)

    check()


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_known_of_a_template_cuts_where_its_prompts_end(name, tmp_path, transformers):
    _, ours, _ = shape(tmp_path / "m", name, transformers)
    template = open_template("tokenizer", ours)
    known = []

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(texts, min_size=2, max_size=6).filter(lambda turns: len(turns) % 2 == 0), st.booleans())
    def check(turns, trained):
        dialogue = conversation(turns)
        first = {**dialogue.messages[1], "train": trained or len(turns) == 2}
        dialogue = Conversation((dialogue.messages[0], first, *dialogue.messages[2:]))
        whole = template._render(dialogue, add_generation_prompt=False)
        segments = template._cut_known(dialogue, whole)
        assert "".join(segment.text + segment.end for segment in segments or ()) in ("", whole)
        if segments is not None:
            known.append(1)
            assert segments == template._cut_by_prompts(dialogue, whole)

    check()
    assert len(known) > 30
