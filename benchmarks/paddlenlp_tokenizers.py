"""Write ``tests/golden/paddlenlp_tokenizers``: tiny tokenizers as PaddleNLP saves them, with the ids it gives.

Run it where the extra ``peers`` is installed: ``python benchmarks/paddlenlp_tokenizers.py``.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import sentencepiece
from paddlenlp.transformers import AutoTokenizer, LlamaTokenizer, Qwen2Tokenizer
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

TARGET = Path(__file__).parents[1] / "tests" / "golden" / "paddlenlp_tokenizers"
CORPUS = [
    "the quick brown fox jumps over the lazy dog.",
    "Hello world, how are you today?",
    "Numbers 123 and 4567; symbols (a+b)*c == d!",
    "the model reads the words of a text and writes an answer",
    "She sells sea shells by the sea shore.",
    "\tindented\n\n  lines",
] * 20
TEXTS = [
    "Hello world", "the  quick   fox", " leading", "trailing ", "", "a", "</s>", "<s> hi </s> there", "x</s>y", "<unk>",
    "\n\nnew\tline", "123 4567", "h\u00e9llo \u4f60\u597d \U0001f600", "e\u0301", "a <|im_end|> b", "<|endoftext|>x",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "don't I'LL we've", "  \n  x", "\u2581a", " </s> ",
]  # fmt: skip
QWEN2_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN2_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>'}}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}{{ '' }}\n"
)
PARTS = {
    "system": "Be brief.\n",
    "conversation": ["\n[INST]{% if is_first %} first{% endif %} {{ user }} [/INST]", "{{bot}}</s>\n  "],
    "query": "\n[INST] {{ query }} {{ index }} of {{ length }} [/INST]\n",
}
CONVERSATIONS: list[Any] = [[["Hi"]], [["Hi", "Hello"], ["How\nare you? "]], [["a", "b"], ["c", "d"], ["e"]]]


def main() -> None:
    """Write both tokenizers anew."""
    shutil.rmtree(TARGET, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        write_llama(Path(name), TARGET / "llama")
        write_qwen2(Path(name), TARGET / "qwen2")
    for folder in (TARGET / "llama", TARGET / "qwen2"):
        (folder / "ids.json").write_text(json.dumps(record(folder), indent=1) + "\n", encoding="utf-8")


def write_llama(work: Path, folder: Path) -> None:
    """Save a sentencepiece tokenizer with a template in parts."""
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=buffer,
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (work / "sentencepiece.bpe.model").write_bytes(buffer.getvalue())
    tokenizer = LlamaTokenizer(str(work / "sentencepiece.bpe.model"))
    tokenizer.init_chat_template(PARTS)
    tokenizer.save_pretrained(str(folder))


def write_qwen2(work: Path, folder: Path) -> None:
    """Save a byte-level BPE with the files and settings of Qwen2."""
    cut = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(cut + r"|\s+(?!\S)|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet))
    trained.model.save(str(work))
    first, size = (
        {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False},
        trained.get_vocab_size(),
    )
    settings = {
        "added_tokens_decoder": {
            str(size + number): {"content": token, **first, "special": True}
            for number, token in enumerate(QWEN2_TOKENS)
        },
        "additional_special_tokens": QWEN2_TOKENS[1:],
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "chat_template": QWEN2_TEMPLATE,
        "tokenizer_class": "Qwen2Tokenizer",
    }
    (work / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    Qwen2Tokenizer.from_pretrained(str(work)).save_pretrained(str(folder))
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config.pop("name_or_path")  # the folder of this run
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "config.json").write_text('{"model_type": "qwen2", "paddlenlp_version": "3.0.0b4"}\n', encoding="utf-8")


def record(folder: Path) -> dict[str, Any]:
    """Return what PaddleNLP makes of texts and conversations with the tokenizer in ``folder``."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    texts = []
    for text in TEXTS:
        plain = tokenizer(text, add_special_tokens=False)["input_ids"]
        decoded = tokenizer.decode(plain, skip_special_tokens=True)
        texts.append({"text": text, "ids": tokenizer(text)["input_ids"], "plain": plain, "decoded": decoded})
    chats = []
    for turns in CONVERSATIONS:
        messages = [m for pair in turns for m in as_messages(pair)]
        rendered = tokenizer.apply_chat_template(turns if folder.name == "llama" else messages, tokenize=False)
        chats.append({"messages": messages, "text": rendered})
    special = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return {"length": len(tokenizer), "special": special, "texts": texts, "chats": chats}


def as_messages(pair: list[str]) -> list[dict[str, str]]:
    """Return one or two messages."""
    return [{"role": role, "content": text} for role, text in zip(("user", "assistant"), pair, strict=False)]


if __name__ == "__main__":
    main()
