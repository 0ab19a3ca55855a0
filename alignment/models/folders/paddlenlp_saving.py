"""Write model folders that PaddleNLP's AutoModelForCausalLM and AutoTokenizer can open."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from paddle import Tensor

from alignment.architecture.families import EMBEDDING, LM_HEAD
from alignment.architecture.paddlenlp_config import to_paddlenlp
from alignment.errors import ModelFolderError
from alignment.models.config import CONFIG_FILE
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.score_model import ScoreModel
from alignment.models.folder_files import read_object
from alignment.models.folders.saving import stored_dtype, write_description
from alignment.models.safetensors_io import TensorEntry, cut_files, file_names, write_files, write_index
from alignment.models.tokenizer.paddlenlp_tokenizer import SENTENCEPIECE_NAME
from alignment.models.tokenizer.tokenizer import Tokenizer
from alignment.models.tokenizer.tokenizer_files import (
    ADDED_FILE,
    FAST_FILE,
    SENTENCEPIECE_FILE,
    SPECIAL_MAP_FILE,
    TEMPLATE_FILE,
    AddedToken,
    read_tokenizer_files,
)
from alignment.models.tokenizer.tokenizer_files import CONFIG_FILE as TOKENIZER_CONFIG_FILE
from alignment.parallel.reshard import dtype_name
from alignment.telemetry import log

FORMAT_TAG = "np"
"""The format tag that PaddleNLP writes into safetensors files, and requires."""
FAST_CLASS, SENTENCEPIECE_CLASS = "PretrainedTokenizerFast", "LlamaTokenizer"
_FLAGS = ("content", "lstrip", "rstrip", "single_word", "normalized", "special")


def save_paddlenlp(folder: Path, model: CausalLM | ScoreModel, tokenizer: Tokenizer) -> None:
    """Write ``model``, which must be unsplit, into ``folder``; making that atomic is up to the caller.

    Matrices are stored [in, out], as in memory. ModelFolderError if PaddleNLP has no model that computes the same.
    """
    if isinstance(model, ScoreModel):
        raise ModelFolderError(
            f"{folder}: PaddleNLP's package has no model with a score head; export this one with --format huggingface"
        )
    to_paddlenlp(model.config.to_dict(), head_dim=model.config.head_dim, place=str(folder))
    write_description(folder, model, tokenizer)
    _write_tokenizer(folder)  # before config.json becomes PaddleNLP's, or the files would be read as PaddleNLP's
    described = read_object(folder, CONFIG_FILE)
    _write_json(folder / CONFIG_FILE, to_paddlenlp(described, head_dim=model.config.head_dim, place=str(folder)))
    window = model.config.sliding_window
    if window is not None and window < model.config.max_position_embeddings:
        log.warn(f"{folder}: PaddleNLP ignores sliding_window; rows of over {window} tokens have other logits there")
    _write_weights(folder, model)


def _write_weights(folder: Path, model: CausalLM) -> None:
    """Write the parameters under PaddleNLP's names, in their layout in memory."""
    tensors = dict(_stored_tensors(model))
    entries = [
        TensorEntry(name, stored_dtype(dtype_name(value)), tuple(value.shape)) for name, value in tensors.items()
    ]
    cut = cut_files(entries)
    files = dict(zip(file_names(len(cut)), cut, strict=True))
    write_files(folder, files, ((name, value.numpy()) for name, value in tensors.items()), tag=FORMAT_TAG)
    write_index(folder, files)


def _stored_tensors(model: CausalLM) -> Iterator[tuple[str, Tensor]]:
    """Yield names and parameters; a tied model gets an explicit head, copied from the embedding."""
    family = model.config.family
    assert family.paddlenlp is not None, "to_paddlenlp refuses it"
    for name, value in model.named_parameters():
        yield name.replace("model.", f"{family.name}.", 1) if name.startswith("model.") else name, value
        if name == EMBEDDING and model.config.tie_word_embeddings:
            # A class of PaddleNLP that ties the head stores it as the embedding, [V, H].
            yield LM_HEAD, value if family.paddlenlp.ties_head else value.T


def _write_tokenizer(folder: Path) -> None:
    """Turn the tokenizer files in ``folder`` into PaddleNLP's.

    Special tokens become objects: as plain strings they would swallow the white space around them there.
    """
    files = read_tokenizer_files(folder)
    tokens = {token.content: token for token in files.added_tokens}
    is_fast = FAST_FILE in files.contents
    named = {name: _as_object(tokens.pop(text, AddedToken(text))) for name, text in files.special_tokens.items()}
    # PaddleNLP's slow tokenizers recognise only special added tokens in a text.
    extra = [_as_object(token) for token in tokens.values() if token.special or not is_fast]
    _write_json(folder / SPECIAL_MAP_FILE, {**named, "additional_special_tokens": extra})
    config = {name: value for name, value in files.config.items() if not name.endswith("special_tokens")}
    listed = {str(token.id): _as_object(token) for token in files.added_tokens if token.id is not None}
    config |= {name: {**token, "__type": "AddedToken"} for name, token in named.items()}
    config |= {"added_tokens_decoder": listed, "tokenizer_class": FAST_CLASS if is_fast else SENTENCEPIECE_CLASS}
    config["chat_template"] = _usable_template(files.chat_template, folder)
    _write_json(folder / TOKENIZER_CONFIG_FILE, config)
    for name in (TEMPLATE_FILE, ADDED_FILE):
        (folder / name).unlink(missing_ok=True)
    if not is_fast:
        if not files.config.get("legacy", True):
            log.warn(f"{folder}: PaddleNLP ignores legacy=false; text after a special token gets other ids there")
        (folder / SENTENCEPIECE_FILE).rename(folder / SENTENCEPIECE_NAME)


def _as_object(token: AddedToken) -> dict[str, Any]:
    return {name: getattr(token, name) for name in _FLAGS}


def _usable_template(template: str | None, folder: Path) -> str | None:
    """Return the template for PaddleNLP, which keeps a final newline; None if it cannot parse it."""
    if template is None:
        return None
    try:
        ImmutableSandboxedEnvironment().parse(template)
    except TemplateError as error:
        log.warn(f"{folder}: PaddleNLP cannot read the chat template ({error}); it is left out")
        return None
    return template.removesuffix("\n")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
