"""A chat template is foreign code: whatever it does ends, in time and in size, with a message."""

from __future__ import annotations

import threading

import pytest

from alignment.errors import DataError, ModelFolderError
from alignment.models.tokenizer import template_sandbox
from alignment.models.tokenizer.chat_template import ChatTemplate

LOOPS = {
    "nested loops": "{% set r = range(99999) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}",
    "loops over what is filtered out": (
        "{% for a in range(99999) %}{% for b in range(99999) if false %}x{% endfor %}{% endfor %}"
    ),
    "a macro that calls itself twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "a loop that calls itself": (
        "{% for x in [range(30)] recursive %}{% if loop.depth < 40 %}{{ loop([x]) }}{{ loop([x]) }}{% endif %}"
        "{% endfor %}"
    ),
    "filters in filters": "{{ range(99999) | map('string') | map('center', 999) | map('upper') | join | length }}"
    * 999,
    "a clock set aside": (
        "{% set __tick = 1 %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    ),
    "a name that hides the clock": (
        "{% macro __tick() %}{% endmacro %}{% for a in range(99999) %}{% for b in range(99999) %}"
        "{% endfor %}{% endfor %}"
    ),
}
SIZES = {
    "a product": "{{ 'a' * 1000000000 }}",
    "a product the other way round": "{{ 1000000000 * ['a'] }}",
    "a power": "{{ 9 ** 99999 }}",
    "texts that double": "{% set n = namespace(s='aa') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "joined texts that double": (
        "{% set n = namespace(s='aa') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}"
    ),
    "a block that doubles": "{% set s = 'aa' %}" + "{% set s %}{{ s }}{{ s }}{% endset %}" * 40,
    "an argument that doubles": "{% macro f(s) %}{{ f(s + s) }}{% endmacro %}{{ f('aa') }}",
    "texts joined by a filter": (
        "{% set n = namespace(s='aa') %}{% for i in range(99) %}{% set n.s = [n.s, n.s] | join %}{% endfor %}"
    ),
    "a wide column": "{{ 'a'.center(1000000000) }}",
    "a wide filter": "{{ 'a' | center(1000000000) }}",
    "a wide number": "{{ '%1000000000d' % 1 }}",
    "a wide number by a filter": "{{ '%*d' | format(1000000000, 1) }}",
    "a wide number by a method": "{{ '{:1000000000d}'.format(1) }}",
    "filler text": "{{ lipsum(n=1000000) }}",
    "deep recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
}


def render(source, **values):
    template = ChatTemplate(source, place="FOLDER", special_tokens={"eos_token": "</s>"})
    return template.render(values.pop("messages", []), add_generation_prompt=True)


@pytest.fixture
def short(monkeypatch):
    """A limit that a test can wait for."""
    monkeypatch.setattr(template_sandbox, "LONGEST_RENDERING", 0.2)


@pytest.mark.parametrize("name", LOOPS)
def test_endless_work_ends(name, short):
    with pytest.raises(
        DataError, match=r"chat template of FOLDER refuses .*(did not end within 0\.2 s|not safely|callable|recursion)"
    ):
        render(LOOPS[name])


def test_endless_work_ends_in_a_thread_too(short):
    caught = []

    def run():
        with pytest.raises(DataError) as error:
            render(LOOPS["nested loops"])
        caught.append(str(error.value))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    assert len(caught) == 1 and "did not end within 0.2 s" in caught[0]


@pytest.mark.parametrize("name", SIZES)
def test_no_operation_makes_anything_huge(name):
    with pytest.raises((DataError, ModelFolderError), match="FOLDER"):
        render(SIZES[name])


def test_the_limit_is_ten_seconds():
    assert template_sandbox.LONGEST_RENDERING == 10.0


def test_what_templates_do_still_works():
    source = (
        "{% macro said(m) %}{{ m.role ~ ': ' ~ m.content }}{% endmacro %}"
        "{% for m in messages %}{% if loop.first %}{{ '-' * 3 }}{% endif %}{{ said(m) + '\\n' }}{% endfor %}"
        "{% generation %}{{ messages | map(attribute='role') | join(',') }}{% endgeneration %}"
        "{{ '%s|%03d' | format('a', 7) }}{{ ' x '.strip().upper() }}{{ 7 % 4 }}{{ 2 ** 10 }}{{ {'a': 1} | tojson }}"
        "{% for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}{{ eos_token }}"
    )
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert render(source, messages=messages) == '---user: a\nassistant: b\nuser,assistanta|007X31024{"a": 1}02</s>'
