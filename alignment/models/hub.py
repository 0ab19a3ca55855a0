"""Models from Hugging Face folders and from configurations; ``saving.py`` writes such folders."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from pathlib import Path

import numpy as np
import paddle

from alignment.errors import ModelFolderError
from alignment.models.config import CONFIG_FILE, DecoderConfig, read_config_dict
from alignment.models.decoder import CausalLM
from alignment.models.initialise import draw_weights
from alignment.models.naming import canonical_name, is_transposed, match_names, refuse_mismatch
from alignment.models.placement import WHOLE, Placement
from alignment.models.safetensors_io import Location, list_tensors
from alignment.models.score_model import ScoreModel, ScoreOptions
from alignment.models.tokenizer import Tokenizer
from alignment.parallel.parts import Part
from alignment.telemetry import log

HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
SCORE_HEAD = ("score.weight", "score.bias")
SCORE_STATE = "score_normalizer"
"""Key of config.json under which mean, variance and count of the scores stand."""


def resolve_model_folder(name_or_path: str) -> Path:
    """Return a local folder: ``name_or_path`` itself, or the download of a hub name into the hub's cache."""
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        return folder
    if not HUB_NAME.fullmatch(name_or_path):
        raise ModelFolderError(f"model {name_or_path!r}: no such folder (looked for {folder.absolute()})")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name_or_path, allow_patterns=["*.json", "*.safetensors", "*.model", "*.jinja"]))
    except Exception as error:
        raise ModelFolderError(
            f"model {name_or_path!r}: no such folder (looked for {folder.absolute()}), and not fetched from the hub "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'})"
        ) from error


def load_causal_lm(
    path: str | Path, *, dtype: str = "float32", tokenizer: Tokenizer | None = None, placement: Placement = WHOLE
) -> CausalLM:
    """Return the language model of a folder; with ``tokenizer`` its vocabulary must fit the model's.

    Of a model that ``placement`` splits, this process reads its own part only.
    """
    config = DecoderConfig.read(path)
    check_vocabulary(config, tokenizer, place=str(path))
    model = CausalLM(config, dtype=dtype, placement=placement)
    _fill(
        model, Path(path), allowed_missing=(), allowed_unknown=("lm_head.weight",) if config.tie_word_embeddings else ()
    )
    return model


def load_score_model(
    path: str | Path,
    *,
    dtype: str = "float32",
    options: ScoreOptions | None = None,
    new_score_head: bool = False,
    seed: int = 0,
    placement: Placement = WHOLE,
) -> ScoreModel:
    """Return the score model of a folder.

    ``options`` replace those saved with it. With ``new_score_head`` the folder may be a language model, whose new head
    is drawn from ``seed``; otherwise a folder without a score head is refused.
    """
    raw = read_config_dict(path)
    config = DecoderConfig.from_dict(raw, place=str(Path(path) / CONFIG_FILE))
    model = ScoreModel(config, options or ScoreOptions.from_dict(raw), dtype=dtype, placement=placement)
    if model.score is not None:
        draw_weights(model.score, seed=seed, std=config.initializer_range)
    allowed = SCORE_HEAD if new_score_head else ("score.bias",)
    unknown = ("lm_head.weight",) if new_score_head or config.tie_word_embeddings else ()
    _fill(model, Path(path), allowed_missing=allowed, allowed_unknown=unknown)
    if options is None and SCORE_STATE in raw:
        model.normalizer.load_state(raw[SCORE_STATE])
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
    model = CausalLM(_config_for(config_path, tokenizer), dtype=dtype, placement=placement)
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
    """Return a score model with weights drawn from ``seed``."""
    model = ScoreModel(_config_for(config_path, tokenizer), options, dtype=dtype, placement=placement)
    draw_weights(model, seed=seed, std=model.config.initializer_range)
    return model


def check_vocabulary(config: DecoderConfig, tokenizer: Tokenizer | None, *, place: str) -> None:
    """Refuse a tokenizer that has ids the model does not know."""
    if tokenizer is not None and len(tokenizer) > config.vocab_size:
        raise ModelFolderError(
            f"{place}: the tokenizer has {len(tokenizer)} tokens, the model's vocabulary {config.vocab_size}; "
            "they do not belong together"
        )


def check_length(config: DecoderConfig, max_length: int, *, place: str) -> None:
    """Refuse sequences of more tokens than the model has positions for."""
    limit = longest_sequence(config)
    if max_length > limit:
        raise ModelFolderError(
            f"max_length={max_length} is more than the model in {place} was made for: max_position_embeddings="
            f"{config.max_position_embeddings} in its {CONFIG_FILE}. Give max_length at most {limit}"
        )


def longest_sequence(config: DecoderConfig) -> int:
    """Return the tokens a model can read: its positions, stretched where its rotary embedding is scaled."""
    scaling = config.rope_scaling or {}
    trained = scaling.get("original_max_position_embeddings", config.max_position_embeddings)
    return max(config.max_position_embeddings, int(trained * scaling.get("factor", 1)))


def check_fit(folder: str | Path, tokenizer: Tokenizer, *, max_length: int) -> DecoderConfig:
    """Return the configuration in (or at) ``folder``, after refusing too few tokens or positions; no weight is read."""
    path = Path(folder)
    config = DecoderConfig.read(path.parent if path.is_file() else path)
    check_vocabulary(config, tokenizer, place=str(path))
    check_length(config, max_length, place=str(path))
    return config


def _config_for(config_path: str | Path, tokenizer: Tokenizer) -> DecoderConfig:
    path = Path(config_path)
    config = DecoderConfig.read(path.parent if path.is_file() else path)
    check_vocabulary(config, tokenizer, place=str(path))
    return dataclasses.replace(
        config,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _fill(
    model: CausalLM | ScoreModel, folder: Path, *, allowed_missing: Collection[str], allowed_unknown: Collection[str]
) -> None:
    """Copy the folder's tensors, or this process's part of them, into the parameters.

    Names and shapes are those of the whole model, so every process refuses the same folders; the numbers a process
    judges are those it holds.
    """
    found: dict[str, Location] = {}
    for stored in list_tensors(folder):
        name = canonical_name(stored.name)
        if name in found:
            raise ModelFolderError(f"{folder}: holds {name} more than once, the last time as {stored.name}")
        if name is not None:
            found[name] = stored
            _check_shape(stored, name, model.whole_shapes.get(name), folder)
    match = match_names(model.whole_shapes, found)
    missing = [name for name in match.missing if name not in allowed_missing]
    for name in match.missing:
        if name in allowed_missing:
            log.info(f"{folder}: has no {name}, which starts from its initial values")
    unknown = [name for name in match.unknown if name not in allowed_unknown]
    refuse_mismatch(match._replace(missing=missing, unknown=unknown), folder=str(folder))
    for name, parameter in model.named_parameters():
        if name in found:
            _assign(parameter, found[name], model.parts[name], folder)


def _check_shape(stored: Location, name: str, shape: tuple[int, ...] | None, folder: Path) -> None:
    """Refuse a tensor that is not as large as the model's; ``shape`` None: the model has none of this name."""
    needed = shape[::-1] if shape is not None and is_transposed(name) else shape
    if needed is not None and stored.shape != needed:
        raise ModelFolderError(
            f"{folder}: {stored.name} has shape {list(stored.shape)}, config.json needs {list(needed)}"
        )


def _assign(parameter: paddle.Tensor, stored: Location, part: Part, folder: Path) -> None:
    turned = is_transposed(part.name)
    values = stored.read(part.slices[::-1] if turned else part.slices).as_float32()
    if not np.isfinite(values).all():
        raise ModelFolderError(f"{folder}: {stored.name} holds NaN or infinite numbers; its weights are damaged")
    values = np.ascontiguousarray(values.T) if turned else values
    with paddle.no_grad():
        parameter.set_value(paddle.to_tensor(values).astype(parameter.dtype))
