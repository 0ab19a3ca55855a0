"""Chat templates: the dialect they are written in, and what they may not do."""

from __future__ import annotations

import pytest

from alignment.errors import DataError, ModelFolderError
from alignment.models.tokenizer.chat_template import ChatTemplate

MESSAGES = [{"role": "user", "content": "<hi> & bye"}, {"role": "assistant", "content": "ok"}]


def render(source, messages=MESSAGES, *, prompt=False, **special):
    template = ChatTemplate(source, place="some/folder", special_tokens=special)
    return template.render(messages, add_generation_prompt=prompt)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% for m in messages %}\n{{ m.role }}:{{ m['content'] }}\n{% endfor %}\n", "user:<hi> & bye\nassistant:ok\n"),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "<hi> & bye"}'),
        ("{{ {'b': 1, 'a': '\u00e9'} | tojson(indent=1, sort_keys=true) }}", '{\n "a": "\u00e9",\n "b": 1\n}'),
        ("{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}", "user"),
        ("a{% generation %}b{{ eos_token }}{% endgeneration %}c", "ab</s>c"),
        ("{% if tools %}t{% endif %}{% if documents is none %}d{% endif %}{{ unk_token }}", "d"),
        ("{% if add_generation_prompt %}go{% else %}stop{% endif %}", "stop"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
        ("{{ strftime_now('%Y') | length }}", "4"),
    ],
)
def test_the_dialect(source, text):
    assert render(source, eos_token="</s>") == text


def test_the_generation_prompt():
    assert render("{% if add_generation_prompt %}go{% endif %}", prompt=True) == "go"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('only user turns') }}", "only user turns"),
        ("{{ messages[7].content }}", "no element 7"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[0].content + 1 }}", "str"),
    ],
)
def test_refusals_name_the_folder_and_the_conversation(source, reason):
    with pytest.raises(DataError, match=f"chat template of some/folder refuses .*<hi>.*{reason}"):
        render(source)


def test_what_is_not_jinja_is_an_error_of_the_folder():
    with pytest.raises(ModelFolderError, match="some/folder: line 2 of the chat template is not Jinja"):
        render("a\n{% for %}")


def test_a_template_is_compiled_once(monkeypatch):
    template = ChatTemplate("{{ messages | length }}", place="here", special_tokens={})
    assert template.render(MESSAGES, add_generation_prompt=False) == "2"
    monkeypatch.setattr("alignment.models.tokenizer.chat_template.BoundedEnvironment", None)
    assert template.render([], add_generation_prompt=False) == "0"
