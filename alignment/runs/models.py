"""Find, check and adapt the models a run starts from: folders, a checkpoint, or random weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignment.architecture.cuts import check_degrees
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.family import FLAGS
from alignment.data.encode import Encoder
from alignment.errors import ArgumentError, CheckpointError, ModelFolderError, why_unreadable
from alignment.models.config import read_config
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.score_model import ScoreModel
from alignment.models.folders.hub import check_fit, resolve_model_folder, resolve_tokenizer_folder
from alignment.models.folders.run_models import RUN_MODELS
from alignment.models.folders.sequence_ends import sequence_ends
from alignment.models.tokenizer.tokenizer import Tokenizer, load_tokenizer
from alignment.models.tokenizer.trained_template import describe_template, template_warning
from alignment.runs.datasets import encode_options, trained_comparison
from alignment.runs.launch import Launch
from alignment.telemetry import log

_ARCHITECTURE = (
    *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling"),
    *(*FLAGS, "sliding_window", "full_layers", "experts", "attention_cap", "logit_cap"),
    *("query_pre_attn_scalar", "rope_local_base_freq"),
)
"""The keys of a configuration that training never changes."""


def starting_folder(launch: Launch, group, name: str, *, parts: Sequence[str] = RUN_MODELS) -> str | None:
    """Return the folder to load ``name`` from (the checkpoint's when resuming); None for random weights.

    With an adapter it is the base in either case.

    ``parts`` are the models that may be taken if the folder is the output of another run.
    """
    if launch.checkpoint is not None and not launch.parsed.adapter.lora:
        return resumed_folder(launch, name, group.model_name_or_path or group.model_config_name_or_path)
    return str(resolve_model_folder(group.model_name_or_path, parts=parts)) if group.model_name_or_path else None


def resumed_folder(launch: Launch, name: str, initial: str) -> str:
    """Return the folder of the trained model ``name``: the checkpoint's when resuming, else ``initial``.

    ``initial`` is named by the arguments; with an adapter it is the base in either case. A checkpoint of another
    architecture is refused, because it would silently replace that model.
    """
    if launch.checkpoint is None or launch.parsed.adapter.lora:
        return initial
    folder = launch.checkpoint.model_folder(name)
    try:
        place = Path(initial).parent if Path(initial).is_file() else resolve_model_folder(initial)
    except ModelFolderError as error:
        log.warn(f"the architecture of {folder} cannot be compared: {error}")
        return str(folder)
    wanted, found = (read_config(path) for path in (place, folder))
    pairs = {key: (getattr(found, key), getattr(wanted, key)) for key in _ARCHITECTURE}
    differences = [f"{key} is {there} there and {here} here" for key, (there, here) in pairs.items() if there != here]
    if differences:
        raise CheckpointError(
            f"cannot resume from {launch.checkpoint.folder}: its model {name!r} has another architecture than "
            f"{initial}: {', '.join(differences)}. Name the model it was trained from, or use another output_dir"
        )
    return str(folder)


def starting_tokenizer(launch: Launch, folder: str | None) -> Tokenizer:
    """Return the tokenizer named by the arguments, else the model's own."""
    named, template = launch.parsed.model.tokenizer_name_or_path, launch.parsed.data.tokenizer_chat_template
    tokenizer = load_tokenizer(resolve_tokenizer_folder(named) if named else folder)
    return tokenizer if template is None else tokenizer.with_chat_template(read_template(template))


def read_template(given: str) -> str:
    """Return a chat template: the text itself if it is Jinja, else the content of the file ``given``."""
    if "{{" in given or "{%" in given:
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"tokenizer_chat_template={given} cannot be read: {why_unreadable(error)}") from error


def check_start(launch: Launch, group, folder: str | None, tokenizer: Tokenizer) -> None:
    """Refuse a model that is too small for the tokenizer or for ``max_length``, before any data is read."""
    place = folder or group.model_config_name_or_path
    config = check_fit(place, tokenizer, max_length=launch.parsed.data.max_length)
    check_layout(launch, config, place)
    if folder is not None:
        warn_of_template(launch, folder, config, tokenizer)


def warn_of_template(launch: Launch, folder: str, config: DecoderConfig, tokenizer: Tokenizer) -> None:
    """Warn if the run uses another template than the one the model in ``folder`` was trained with."""
    line = template_warning(folder, config, tokenizer, _template(launch, tokenizer))
    if line is not None:
        log.warn(line)


def adopt(launch: Launch, model: CausalLM | ScoreModel, tokenizer: Tokenizer) -> None:
    """Store the run's template in the configuration of ``model``, its end token as one of the EOS ids, and how a
    pairwise model compares.
    """
    comparison = trained_comparison(launch.parsed)
    end = Encoder(tokenizer, encode_options(launch).template).end_id
    model.config = dataclasses.replace(
        model.config,
        eos_token_id=sequence_ends(model.config, tokenizer, end),
        trained_template=_template(launch, tokenizer),
        comparison=comparison and comparison.to_record(),
    )


def freeze(model: Any) -> Any:
    """Disable gradients of ``model``, set it to evaluation mode, and return it."""
    for parameter in model.parameters():
        parameter.stop_gradient = True
    model.eval()
    return model


def _template(launch: Launch, tokenizer: Tokenizer) -> dict[str, Any]:
    return describe_template(launch.parsed.data.template, tokenizer)


def check_same_tokens(given: str, folder: str, tokenizer: Tokenizer, *, reader: str) -> None:
    """Refuse the model in ``folder``, which the arguments name as ``given``, if its ids are not those of ``tokenizer``.

    ``reader`` is whose tokenizer that is (the policy, the student).
    """
    other = load_tokenizer(folder)
    if other.fingerprint() == tokenizer.fingerprint():
        return
    raise ArgumentError(
        f"{given} has another tokenizer ({len(other)} tokens) than {reader} ({len(tokenizer)}): it reads "
        f"{reader}'s token ids, so both must be the same, but {_first_difference(other, tokenizer)}"
    )


def _first_difference(other: Tokenizer, tokenizer: Tokenizer) -> str:
    """Return how ids of both tokenizers differ."""
    for token_id in range(max(len(other), len(tokenizer))):
        there, here = other.id_to_token(token_id), tokenizer.id_to_token(token_id)
        if there != here:
            return f"id {token_id} is {_show_token(there)} there and {_show_token(here)} here"
    ends = [(t.bos_token, t.eos_token) for t in (other, tokenizer)]
    return f"BOS and EOS are {ends[0]} there and {ends[1]} here"


def _show_token(token: str | None) -> str:
    return "no token" if token is None else repr(token)


def check_layout(launch: Launch, config: DecoderConfig, place: str, role: str = "") -> None:
    """Refuse parallel degrees that do not divide the model in ``place``, which is that of ``role``."""
    layout = launch.ranks_of(role).layout
    if layout.expert > 1 and config.experts is None:
        log.warn(f"{place}: expert_parallel_degree={layout.expert} has no effect, the model has no experts")
    problems = check_degrees(config, layout)
    if problems:
        whose = f" ({role} in placement)" if role and launch.roles else ""
        raise ArgumentError(f"{place}{whose}: {'; '.join(problems)}")
