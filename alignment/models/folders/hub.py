"""Load models from Hugging Face folders, or create them from a config.json."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from alignment.architecture.cuts import whole_shapes
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.families import EMBEDDING, HEAD_BIAS, LM_HEAD
from alignment.architecture.parts import Part
from alignment.errors import ModelFolderError
from alignment.models.config import CONFIG_FILE, read_config, read_config_dict
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.initialise import draw_gating, draw_weights
from alignment.models.decoder.placement import WHOLE, Placement
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions
from alignment.models.folder_files import refuse_adapter
from alignment.models.folders.attribute_heads import (
    PLAIN_HEAD,
    StoredHead,
    add_gating,
    check_labels,
    combine_scores,
    drop_gating,
    settle_labels,
)
from alignment.models.folders.folder_weights import are_equal, check_tensors, fill, take_statistics
from alignment.models.folders.run_models import RUN_MODELS
from alignment.models.folders.views import StoredTensor
from alignment.models.folders.weights import find_weights
from alignment.models.tokenizer.tokenizer import Tokenizer
from alignment.telemetry import log

HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
DESCRIPTIONS = ("*.json", "*.model", "*.jinja", "merges.txt")
"""Patterns of a hub model's files other than its weights."""
SCORE_HEAD = ("score.weight", "score.bias")
_BFLOAT16_CODES = ("BF16", "uint16", "BFloat16Storage")
"""How safetensors, .pdparams and torch's files call bfloat16."""
SCORE_STATE = "score_normalizer"
"""The config.json key for the mean, variance and count of the scores."""


def resolve_model_folder(name_or_path: str | Path, *, parts: Sequence[str] = RUN_MODELS, is_told: bool = True) -> Path:
    """Return a local model folder: the path itself, or the download of a hub name into the hub's cache.

    For the output folder of a run return the first of its subfolders ``parts`` that holds a model.
    """
    name_or_path = str(name_or_path)
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        return find_in_run(folder, parts, is_told=is_told)
    if not HUB_NAME.fullmatch(name_or_path):
        raise ModelFolderError(f"model {name_or_path!r}: no such folder (looked for {folder.absolute()})")
    try:
        return _fetch(name_or_path)
    except Exception as error:
        raise ModelFolderError(
            f"model {name_or_path!r}: no such folder (looked for {folder.absolute()}), and not fetched from the hub "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'})"
        ) from error


def _fetch(name: str) -> Path:
    """Download a model and return its folder; pickled weights are fetched only if there are no safetensors."""
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(name, allow_patterns=[*DESCRIPTIONS, "*.safetensors"]))
    if not any(folder.glob("*.safetensors")):
        snapshot_download(name, allow_patterns=["*.bin", "*.pdparams"])
    return folder


def resolve_tokenizer_folder(name_or_path: str) -> Path:
    """Return a tokenizer's folder, which need not hold a model; see ``resolve_model_folder``."""
    folder = Path(name_or_path).expanduser()
    if folder.is_dir() and not any((folder / part / CONFIG_FILE).is_file() for part in RUN_MODELS):
        return folder
    return resolve_model_folder(name_or_path)


def find_in_run(folder: Path, parts: Sequence[str] = RUN_MODELS, *, is_told: bool = True) -> Path:
    """Return ``folder`` if it is a model folder, else the run's model in one of its ``parts``, which is logged."""
    if (folder / CONFIG_FILE).is_file():
        return folder
    for part in parts:
        if (folder / part / CONFIG_FILE).is_file():
            if is_told:
                log.info(f"{folder}: the output folder of a run; reading its {part}/")
            return folder / part
    for place in (folder, *(folder / part for part in parts)):
        refuse_adapter(place)
    others = [f"{part}/" for part in RUN_MODELS if (folder / part / CONFIG_FILE).is_file()]
    hint = f"; this run has only {' and '.join(others)}" if others else ""
    raise ModelFolderError(
        f"{folder / CONFIG_FILE}: no such file; a model folder needs a {CONFIG_FILE}, and in the output folder of a "
        f"run it must be in {', '.join(f'{part}/' for part in parts)}{hint}"
    )


def load_causal_lm(
    path: str | Path, *, dtype: str = "float32", tokenizer: Tokenizer | None = None, placement: Placement = WHOLE
) -> CausalLM:
    """Return the language model in ``path``; only this process's part under ``placement`` is read.

    ModelFolderError if ``tokenizer`` is given and does not fit the model's vocabulary.
    """
    folder, config = Path(path), read_config(path)
    check_vocabulary(config, tokenizer, place=str(path))
    found = find_weights(folder, config)
    config = _settle_head(config, found, folder)
    check_tensors(found, whole_shapes(config, "causal"), folder)
    model = CausalLM(config, dtype=dtype, placement=placement)
    fill(model, found, folder)
    return model


def holds_score_model(folder: Path, *, head_prefix: str | None = None) -> bool:
    """Return whether a folder holds a score model, judged by its ``architectures``, else by the heads in its files."""
    config = read_config(folder)
    names = config.raw.get("architectures")
    if isinstance(names, list) and any("SequenceClassification" in str(name) for name in names):
        return True
    found = find_weights(folder, config, head_prefix=head_prefix)
    return "score.weight" in found and LM_HEAD not in found


def load_score_model(
    path: str | Path,
    *,
    dtype: str = "float32",
    options: ScoreOptions | None = None,
    new_score_head: bool = False,
    stored_head: StoredHead = PLAIN_HEAD,
    seed: int | None = 0,
    placement: Placement = WHOLE,
) -> ScoreModel:
    """Return the score model in ``path``.

    ``options`` replace the saved ones. With ``new_score_head`` the folder may be a language model, whose new head is
    drawn from ``seed`` (None: zeros); otherwise a folder without a score head is refused.
    """
    folder, raw = Path(path), read_config_dict(path)
    config = read_config(path)
    found = find_weights(folder, config, head_prefix=stored_head.prefix)
    statistics = take_statistics(found)
    as_saved = options is None
    saved = settle_labels(ScoreOptions.from_dict(raw), raw, found, folder)
    if stored_head.weights is not None:
        saved = combine_scores(saved, stored_head.weights, found, folder)
    is_gated = saved.gating is not None
    if stored_head.gating is not None:
        saved = add_gating(saved, stored_head.gating, folder)
    if options is not None and saved.gating is not None:
        drop_gating(found, folder, with_head=options.score_type == "critic")
    options = _settle_bias(options or saved, found, folder)
    if "score.weight" in found and options.gating is None:
        one_score = dataclasses.replace(options, labels=())
        check_labels(options if stored_head.keeps_attributes or not as_saved else one_score, saved, folder)
    if as_saved and SCORE_STATE not in raw and {"mean", "var"} <= statistics.keys():
        # safe-rlhf saves statistics as tensors and may omit the type of the normalizer.
        options = dataclasses.replace(options, normalizer_type=options.normalizer_type or "RunningMeanStd")
        raw[SCORE_STATE] = {**statistics, "count": max(1.0, statistics.get("count", 1.0))}
    stored = options if is_gated else dataclasses.replace(options, gating=None)
    check_tensors(
        found,
        whole_shapes(config, "score", **stored.head(config.head_width)),
        folder,
        allowed_missing=SCORE_HEAD if new_score_head else ("score.bias",),
        allowed_unknown=(LM_HEAD, HEAD_BIAS),
    )
    model = ScoreModel(config, options, dtype=dtype, placement=placement)
    if model.score is not None:
        draw_weights(model.score, seed=seed or 0, std=0.0 if seed is None else config.initializer_range)
    if model.gating is not None:
        draw_gating(model.gating, seed=seed or 0)
    fill(model, found, folder)
    if as_saved and SCORE_STATE in raw:
        model.normalizer.load_state(raw[SCORE_STATE])
    if as_saved and options.do_normalize and not model.has_statistics:
        log.warn(f"{folder}: {CONFIG_FILE} says do_normalize, but no statistics are saved: its scores are raw")
    return model


def random_causal_lm(
    config_path: str | Path,
    *,
    seed: int,
    tokenizer: Tokenizer,
    dtype: str = "float32",
    placement: Placement = WHOLE,
) -> CausalLM:
    """Return a language model with weights drawn from ``seed``, for the config.json at (or in) ``config_path``."""
    config = _config_for(config_path, tokenizer, placement, CausalLM.kind)
    model = CausalLM(config, dtype=dtype, placement=placement)
    draw_weights(model, seed=seed, std=model.config.initializer_range)
    return model


def random_score_model(
    config_path: str | Path,
    options: ScoreOptions,
    *,
    seed: int,
    tokenizer: Tokenizer,
    dtype: str = "float32",
    placement: Placement = WHOLE,
) -> ScoreModel:
    """Return a score model with weights drawn from ``seed``, for the config.json at (or in) ``config_path``."""
    config = _config_for(config_path, tokenizer, placement, ScoreModel.kind)
    model = ScoreModel(config, options, dtype=dtype, placement=placement)
    draw_weights(model, seed=seed, std=model.config.initializer_range)
    return model


def working_dtype(folder: Path, device: str) -> str:
    """Return what to hold the model of ``folder`` in: bfloat16 on a GPU (``gpu``) if it is stored so, else float32."""
    embedding = find_weights(folder, read_config(folder)).get(EMBEDDING)
    is_narrow = embedding is not None and embedding.code in _BFLOAT16_CODES
    return "bfloat16" if is_narrow and device == "gpu" else "float32"


def check_vocabulary(config: DecoderConfig, tokenizer: Tokenizer | None, *, place: str) -> None:
    """Raise ModelFolderError if ``tokenizer`` has ids beyond the model's vocabulary."""
    if tokenizer is not None and len(tokenizer) > config.vocab_size:
        raise ModelFolderError(
            f"{place}: the tokenizer has {len(tokenizer)} tokens, the model's vocabulary {config.vocab_size}; "
            "they do not belong together"
        )


def check_length(config: DecoderConfig, max_length: int, *, place: str) -> None:
    """Raise ModelFolderError if sequences of ``max_length`` tokens exceed the model's positions."""
    limit = config.longest_sequence
    if max_length > limit:
        raise ModelFolderError(
            f"max_length={max_length} is more than the model in {place} was made for: max_position_embeddings="
            f"{config.max_position_embeddings} in its {CONFIG_FILE}. Give max_length at most {limit}"
        )


def check_fit(folder: str | Path, tokenizer: Tokenizer, *, max_length: int) -> DecoderConfig:
    """Return the configuration in (or at) ``folder`` without reading weights.

    ModelFolderError if the model has too few tokens for ``tokenizer`` or too few positions for ``max_length``.
    """
    config = _read_config_at(folder, tokenizer)
    check_length(config, max_length, place=str(Path(folder)))
    return config


def _read_config_at(config_path: str | Path, tokenizer: Tokenizer) -> DecoderConfig:
    path = Path(config_path)
    config = read_config(path.parent if path.is_file() else path)
    check_vocabulary(config, tokenizer, place=str(path))
    return config


def _config_for(config_path: str | Path, tokenizer: Tokenizer, placement: Placement, kind: str) -> DecoderConfig:
    """Return the configuration for a new model with the special tokens of ``tokenizer``."""
    config = _read_config_at(config_path, tokenizer)
    config = dataclasses.replace(
        config,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    _check_memory(placement.parts(config, kind).values(), place=str(config_path))
    return config


def _check_memory(parts: Iterable[Part], *, place: str) -> None:
    """Raise ModelFolderError if weights of the sizes ``parts`` cannot fit this machine's memory."""
    needed = 4 * sum(math.prod(part.extent) for part in parts)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise ModelFolderError(
            f"{place}: describes a model of {needed / 2**30:,.0f} GiB in float32, and this machine has "
            f"{memory / 2**30:,.0f} GiB; correct the sizes in {CONFIG_FILE}"
        )


def _settle_head(config: DecoderConfig, found: dict[str, StoredTensor], folder: Path) -> DecoderConfig:
    """Return ``config`` with ``tie_word_embeddings`` as the files have it; drop a copy of a tied head from ``found``.

    As in transformers 5, a head that differs from the embedding is used even if config.json ties them; if the files
    hold only one of the two, it serves as both.
    """
    if not config.tie_word_embeddings or LM_HEAD not in found:
        return config
    if EMBEDDING not in found:
        found[EMBEDDING] = found.pop(LM_HEAD)
        return config
    if are_equal(found[LM_HEAD], found[EMBEDDING]):
        del found[LM_HEAD]
        return config
    log.warn(
        f"{folder}: {CONFIG_FILE} says tie_word_embeddings, but the files hold another {LM_HEAD}; that one is used, "
        "and embedding and head are not tied"
    )
    return dataclasses.replace(config, tie_word_embeddings=False)


def _settle_bias(options: ScoreOptions, found: dict[str, StoredTensor], folder: Path) -> ScoreOptions:
    """Return ``options`` with a bias if the files hold a nonzero one; a zero bias is dropped from ``found``."""
    if "score.bias" not in found or options.score_bias:
        return options
    if not np.any(found["score.bias"].read().as_float32()):
        del found["score.bias"]
        return options
    log.info(f"{folder}: its score head has a bias, which is kept")
    return dataclasses.replace(options, score_bias=True)
