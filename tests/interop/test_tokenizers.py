"""Tokenizer folders give the same ids, texts and rendered conversations here and in transformers."""

from __future__ import annotations

import json

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from alignment.models.tokenizer.tokenizer import load_tokenizer

pytestmark = pytest.mark.interop

SENTENCES = (
    "hello world the cat sat on the mat",
    "two dogs ran over a line",
    "to be or not to be",
    "user assistant 12",
)
TEXTS = (
    "hello world",
    " the  cat\nsat\ton ",
    "<|im_start|>user\nhello<|im_end|>",
    "hello<|end|> world <|end|>\n<tool>the<tool>",
    "\u00fcber \u6f22\u5b57 \U0001f600 caf\u00e9",
    "don't stop . really ?",
    "",
)
CHATML = (
    "{%- for message in messages %}\n"
    "    {%- if message['role'] not in ['system', 'user', 'assistant'] %}\n"
    "        {{- raise_exception('unknown role') }}\n"
    "    {%- endif %}\n"
    "    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content | tojson }} {{ eos_token }}{% endif %}{% endfor %}"
)
CONVERSATIONS = (
    [{"role": "user", "content": " <b>hello</b> & \u6f22 "}],
    [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "world \u00fc\n"},
        {"role": "user", "content": "two dogs"},
    ],
)
SPECIAL = ["<|begin|>", "<|end|>", "<|pad|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"]


def byte_level_bpe():
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator(SENTENCES, trainer)
    library.add_tokens([AddedToken("<tool>", normalized=False, lstrip=True)])
    return library


def with_bos(library):
    library.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    return library


def write(folder, library, **config):
    special = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "pad_token": "<|pad|>"}
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special, **config})
    )


CASES = {
    "qwen-like": (byte_level_bpe, dict(chat_template=CHATML, tokenizer_class="Qwen2Tokenizer")),
    "llama-3-like": (lambda: with_bos(byte_level_bpe()), dict(chat_template=CHATML)),
    "told-to-add": (byte_level_bpe, dict(chat_template=LLAMA, add_bos_token=True, add_eos_token=True)),
    "told-not-to": (lambda: with_bos(byte_level_bpe()), dict(chat_template=LLAMA, add_bos_token=False)),
    "named": (byte_level_bpe, dict(chat_template=[{"name": "default", "template": LLAMA}], unk_token="<new>")),
}


@pytest.fixture(params=CASES)
def both(request, tmp_path, transformers):
    """The same folder, read by transformers and here."""
    build, config = CASES[request.param]
    write(tmp_path, build(), **config)
    return transformers.AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)


@pytest.mark.parametrize("special", [True, False])
def test_ids(both, special):
    theirs, ours = both
    for text in TEXTS:
        expected = theirs(text, add_special_tokens=special)["input_ids"]
        assert ours(text, add_special_tokens=special)["input_ids"] == list(expected), text


@pytest.mark.parametrize("skip", [True, False])
def test_decoded_texts(both, skip):
    theirs, ours = both
    for text in TEXTS:
        ids = ours.encode(text)
        assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("prompt", [True, False])
def test_rendered_conversations(both, prompt):
    theirs, ours = both
    for messages in CONVERSATIONS:
        options = dict(tokenize=False, add_generation_prompt=prompt)
        text = ours.apply_chat_template(messages, **options)
        assert text == theirs.apply_chat_template(messages, **options)
        expected = theirs.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=True, return_dict=False)
        assert ours.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=True) == list(expected)


def test_special_tokens_and_vocabulary(both):
    theirs, ours = both
    for name in ("bos_token", "eos_token", "pad_token"):
        assert getattr(ours, name) == getattr(theirs, name)
        assert getattr(ours, f"{name}_id") == getattr(theirs, f"{name}_id")
    assert ours.vocab == theirs.get_vocab()
    assert len(ours) == len(theirs)


def test_a_folder_saved_by_transformers(both, tmp_path):
    theirs, ours = both
    theirs.save_pretrained(tmp_path / "again")
    again = load_tokenizer(tmp_path / "again")
    assert again.fingerprint() == ours.fingerprint()
    assert [again.encode(text) for text in TEXTS] == [ours.encode(text) for text in TEXTS]
    assert again.chat_template == ours.chat_template


def test_a_folder_saved_here(both, tmp_path, transformers):
    theirs, ours = both
    ours.save(tmp_path / "again")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert [again(text)["input_ids"] for text in TEXTS] == [theirs(text)["input_ids"] for text in TEXTS]


@pytest.fixture(scope="module")
def llama_model(tmp_path_factory):
    """A tiny sentencepiece model with Llama's settings."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("sentencepiece")
    (folder / "text").write_text("\n".join(SENTENCES * 4))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / "m"),
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=1.0,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    return (folder / "m.model").read_bytes()


# None begins with a space, and none has one after a token where each piece gets its own (legacy): transformers 5 then
# leaves out the space that sentencepiece itself writes first.
SENTENCEPIECE_TEXTS = (
    "hello world",
    "two  dogs\n",
    "hello</s>world",
    "\u6f22 \U0001f600",
    "<s>a",
)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("edges", [dict(add_bos_token=True), dict(add_bos_token=False, add_eos_token=True)])
def test_sentencepiece_llama(llama_model, legacy, edges, tmp_path, transformers):
    (tmp_path / "tokenizer.model").write_bytes(llama_model)
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "LlamaTokenizer", "legacy": legacy, "chat_template": LLAMA, **special, **edges}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs, ours = transformers.AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)
    assert ours.vocab == theirs.get_vocab()
    for text in (*SENTENCEPIECE_TEXTS, *(() if legacy else ("hello </s> world",))):
        ids = ours.encode(text)
        assert ids == theirs(text)["input_ids"], text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids)
    for messages in CONVERSATIONS:
        assert ours.apply_chat_template(messages) == theirs.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
