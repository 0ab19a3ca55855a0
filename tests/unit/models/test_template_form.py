"""A template that only copies texts is not run for each conversation, and nobody can tell; every other one is run."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.errors import DataError
from alignment.models.tokenizer import template_form
from alignment.models.tokenizer.chat_template import ChatTemplate
from alignment.models.tokenizer.stand_in import StandIn
from tests.interop.test_rows import CHATML, LLAMA_3, MISTRAL, QWEN, THINKING, ZEPHYR

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
LOOP = "{% for m in messages %}"
END = "{% endfor %}"
COPYING = {
    "chatml": CHATML,
    "qwen": QWEN,
    "llama-3": LLAMA_3,
    "zephyr": ZEPHYR,
    "mistral": MISTRAL,
    "gemma": LOOP + "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' + m['content'] | trim + '<end_of_turn>\\n' }}" + END,
    "joined by ~": LOOP + "{{ m.role ~ ': ' ~ m.content ~ loop.index }}" + END,
    "stripped by methods": LOOP + "{{ m.content.strip() }}|{{ m.content.lstrip() }}|{{ m.content.rstrip() }}" + END,
    "parity of the place": LOOP + "{{ '-' if loop.index % 2 else '+' }}{{ m.content }}" + END,
    "text or parts": LOOP + "{% if m.content is string %}{{ m.content }}{% else %}parts{% endif %}" + END,
    "assigned before": "{% set ns = namespace(s='') %}" + LOOP + "{% set c = m.get('content') %}"
    "{% set ns.s = ns.s + c + '/' %}" + END + "{{ ns.s }}",
    "the last first": "{{ messages[-1].content }}"
    "{{ (messages | first)['content'] | default('') }}{{ messages | length }}",
    "every key": LOOP + "{% for key, value in m.items() %}{{ key + '=' + value }};{% endfor %}" + END,
    "no text at all": LOOP + "{{ m.role }}" + END,
}
LOOKING = {
    "thinking": THINKING,
    "strips characters": LOOP + "{{ m.content | trim('x') }}" + END,
    "strips what was joined": LOOP + "{{ (' ' + m.content) | trim }}" + END,
    "escapes": LOOP + "{{ m.content | e }}" + END,
    "escapes by a statement": "{% autoescape true %}" + LOOP + "{{ m.content }}" + END + "{% endautoescape %}",
    "calls it safe": LOOP + "{{ m.content | safe }}" + END,
    "joins to safe text": LOOP + "{{ ('<b>' | e) + m.content }}{{ m.content + ('<b>' | e) }}" + END,
    "upper case": LOOP + "{{ m.content.upper() }}" + END,
    "looks for a part": LOOP + "{% if '<think>' in m.content %}T{% endif %}{{ m.content }}" + END,
    "looks for it in a text": LOOP + "{{ m.content in 'a <think> b' }}{{ m.content }}" + END,
    "splits": LOOP + "{{ m.content.split('</think>')[-1] }}" + END,
    "begins with": LOOP + "{{ 'B' if m.content.startswith(' ') }}{{ m.content }}" + END,
    "length": LOOP + "{{ m.content if (m.content | length) < 3 else 'long' }}" + END,
    "truth": LOOP + "{% if m.content %}{{ m.content }}{% else %}nothing{% endif %}" + END,
    "or": LOOP + "{{ m.content or 'nothing' }}" + END,
    "default of the empty": LOOP + "{{ m.content | default('nothing', true) }}" + END,
    "equality": LOOP + "{{ m.content }}{{ '!' if m.content == 'x' }}" + END,
    "equality the other way": LOOP + "{{ m.content }}{{ '!' if 'x' == m.content }}" + END,
    "equality of two": LOOP + "{{ m.content }}" + END + "{{ messages[0].content == messages[-1].content }}",
    "one of several": LOOP + "{{ m.content }}{{ '!' if m.content in ['x', ''] }}" + END,
    "order": LOOP + "{{ m.content }}{{ '!' if m.content < 'm' }}" + END,
    "changes": LOOP + "{{ m.content }}{{ '!' if loop.changed(m.content) }}" + END,
    "equal messages": LOOP + "{{ m.content }}{{ messages.index(m) }}" + END,
    "number": LOOP + "{{ m.content | int }}{{ m.content }}" + END,
    "number of a cut": LOOP + "{{ m.content }}{{ m.content | int(base=16) }}" + END,
    "json": LOOP + "{{ m.content | tojson }}" + END,
    "json of a message": LOOP + "{{ m | tojson }}" + END,
    "all messages": "{{ messages }}",
    "all messages as text": "{{ messages | string }}",
    "width": LOOP + "{{ '%5s' % m.content }}" + END,
    "width by a filter": LOOP + "{{ '%5s' | format(m.content) }}" + END,
    "width by a method": LOOP + "{{ '{:5}'.format(m.content) }}" + END,
    "centred": LOOP + "{{ m.content | center(9) }}" + END,
    "replaced": LOOP + "{{ m.content | replace('x', 'y') }}" + END,
    "replaced in a constant": LOOP + "{{ 'axb' | replace(m.content, 'y') }}" + END,
    "doubled": LOOP + "{{ m.content * 2 }}" + END,
    "cut": LOOP + "{{ m.content[:2] }}" + END,
    "letter by letter": LOOP + "{% for c in m.content %}{{ c }}.{% endfor %}" + END,
    "name of a key": LOOP + "{{ {'x': 1}[m.content] }}{{ m.content }}" + END,
    "name of a key by get": LOOP + "{{ {'x': 1}.get(m.content, 2) }}{{ m.content }}" + END,
    "a macro's text stripped": "{% macro f(m) %}{{ m.content }}{% endmacro %}" + LOOP + "{{ f(m) | trim }}" + END,
    "a block's text stripped": LOOP + "{% set s %} {{ m.content }}{% endset %}{{ s | trim }}" + END,
    "a filter around": "{% filter upper %}" + LOOP + "{{ m.content }}" + END + "{% endfilter %}",
    "a loop's text stripped": "{% for m in messages recursive %}{{ m.content }}"
    "{{ loop([{'content': ' '}]) | trim if loop.depth < 2 }}" + END,
    "sorted": "{% for m in messages | sort(attribute='content') %}{{ m.content }}" + END,
    "distinct": "{% for m in messages | unique(attribute='content') %}{{ m.content }}" + END,
    "grouped": "{% for key, group in messages | groupby('content') %}{{ key }}" + END,
    "joined by a filter": "{{ messages | map(attribute='content') | join('|') }}",
    "is there an order in it": LOOP + "{{ m.content }}{{ '!' if m.content is sequence }}" + END,
    "is it lower": LOOP + "{{ m.content }}{{ '!' if m.content is lower }}" + END,
    "a number by a test": LOOP + "{{ m.content }}{{ '!' if m.content is divisibleby(3) }}" + END,
    "one object": LOOP + "{{ m.content }}" + END + "{{ messages[0].content is sameas messages[-1].content }}",
    "one object by its method": LOOP
    + "{{ m.content }}"
    + END
    + "{{ messages[0].content.strip == messages[-1].content.strip }}",
    "the time": "{{ strftime_now('%f') }}" + LOOP + "{{ m.content }}" + END,
    "chance": "{{ [1, 2, 3] | random }}" + LOOP + "{{ m.content }}" + END,
    "chance by a map": "{{ [[1, 2, 3]] | map('random') | list }}" + LOOP + "{{ m.content }}" + END,
    "a hundred copies": LOOP + "{% set ns = namespace(s=m.content) %}"
    "{% for i in range(7) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}" + END,
}
RANDOM = ("the time", "chance", "chance by a map")
TEXTS = ("", "x", " x ", "<think>a</think>b", "7", "\n\t", "<b> & 'c'", "\u00c4B", "{{ 1 }} %s {0}", "x" * 50)
ROLES = (
    ("user", "assistant"),
    ("system", "user", "assistant", "user"),
    ("user",),
)

texts = st.one_of(st.sampled_from(TEXTS), st.text(max_size=12))


def conversations(roles, contents):
    return [{"role": role, "content": text} for role, text in zip(roles, contents, strict=True)]


def used(source):
    """A template that has seen many conversations of each shape."""
    template = ChatTemplate(source, place="here", special_tokens=SPECIAL)
    for roles in ROLES:
        for prompt in (False, True):
            for use in range(template_form.USES + 1):
                outcome(template.render, conversations(roles, [f"{use} {n}" for n in range(len(roles))]), prompt)
    return template


def outcome(render, messages, prompt):
    try:
        return render(messages, add_generation_prompt=prompt)
    except DataError as error:
        return str(error)


def forms(template):
    return list(template._forms._known.values())


@pytest.mark.parametrize("name", COPYING)
def test_a_template_that_copies_texts_runs_a_few_times_only_and_writes_the_same(name, monkeypatch):
    template, run = used(COPYING[name]), ChatTemplate(COPYING[name], place="here", special_tokens=SPECIAL)._run
    assert len(forms(template)) == 2 * len(ROLES) and None not in forms(template)
    monkeypatch.setattr(template, "_run", None)

    @settings(max_examples=60, deadline=None)
    @given(st.sampled_from(ROLES), st.booleans(), st.lists(texts, min_size=4, max_size=4))
    def check(roles, prompt, contents):
        messages = conversations(roles, contents[: len(roles)])
        assert template.render(messages, add_generation_prompt=prompt) == run(messages, prompt)

    check()


@pytest.mark.parametrize("name", LOOKING)
def test_a_template_that_looks_at_texts_is_run_for_each(name):
    template, run = used(LOOKING[name]), ChatTemplate(LOOKING[name], place="here", special_tokens=SPECIAL)._run
    assert set(forms(template)) == {None}
    for roles in ROLES:
        for turn in range(len(TEXTS)):
            messages = conversations(roles, [TEXTS[(turn + n) % len(TEXTS)] for n in range(len(roles))])
            if name not in RANDOM:
                assert outcome(template.render, messages, False) == outcome(run, messages, False)


def test_more_than_plain_texts_goes_to_the_template():
    template = used(CHATML)
    calls = []
    template._run = lambda messages, *_: calls.append(messages) or "ran"
    plain = conversations(("user", "assistant"), ("a", "b"))
    named = [{**plain[0], "name": "me"}, plain[1]]
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}]}, plain[1]]
    for messages, tools in ((named, None), (parts, None), (plain, [{"name": "add"}])):
        assert template.render(messages, add_generation_prompt=False, tools=tools) == "ran"
    long = conversations(("user", "assistant"), ("a" * template_form.LONGEST_TEXTS, "b"))
    assert template.render(long, add_generation_prompt=False) == "ran"
    assert len(calls) == 4 and template.render(plain, add_generation_prompt=False).endswith("\nb<|im_end|>\n")


def test_the_order_of_the_keys_of_a_message_is_seen():
    template = used(COPYING["every key"])
    message = {"content": "a", "role": "user"}
    for _ in range(template_form.USES + 1):
        assert template.render([message], add_generation_prompt=False) == "content=a;role=user;"


def test_a_hole_in_the_proof_would_show(monkeypatch):
    """What a stand-in does not notice shows where texts are filled in and rendered."""
    monkeypatch.setattr(StandIn, "__contains__", lambda *_: False)
    source = LOOP + "{{ '!' if '<b>' in m.content }}{{ m.content }}" + END
    assert set(forms(used(source))) == {None}
    monkeypatch.setattr(template_form.Forms, "_is_right", lambda *_: True)
    assert None not in forms(used(source))


def test_shapes_beyond_number_are_not_counted(monkeypatch):
    monkeypatch.setattr(template_form, "MOST_SHAPES", 2)
    template = used(CHATML)
    assert len(template._forms._uses) == 2 and len(forms(template)) == 2
