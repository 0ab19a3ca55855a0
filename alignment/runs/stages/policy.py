"""A trained policy outside of a run: its tokenizer and template, and the engine that answers with its weights."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alignment.architecture.decoder_config import DecoderConfig
    from alignment.models.tokenizer.tokenizer import Tokenizer

TEMPLATES = ("none", "tokenizer")


class Voice:
    """The tokenizer of a model folder, with the wanted template or the one the model was trained with."""

    def __init__(self, folder: Path, wanted: str | None, chat_template: str | None = None) -> None:
        """``chat_template`` is a Jinja file or text that replaces the tokenizer's own."""
        from alignment.data.encode import Encoder
        from alignment.data.templates import template_name
        from alignment.models.config import read_config
        from alignment.models.folders.sequence_ends import sequence_ends
        from alignment.models.tokenizer.tokenizer import load_tokenizer
        from alignment.models.tokenizer.trained_template import describe_template, template_warning
        from alignment.runs.models import read_template

        self.config = read_config(folder)
        self.tokenizer = load_tokenizer(folder)
        if chat_template is not None:
            self.tokenizer = self.tokenizer.with_chat_template(read_template(chat_template))
        name = wanted or choose_template(self.config, self.tokenizer)
        self.template_name = name
        self.template = describe_template(name, self.tokenizer)
        line = template_warning(str(folder), self.config, self.tokenizer, self.template)
        if line is not None:
            print(f"warning: {line}", file=sys.stderr)
        self.encoder = Encoder(self.tokenizer, template_name(name))
        self.ends = sequence_ends(self.config, self.tokenizer, self.encoder.end_id)


def choose_template(config: DecoderConfig, tokenizer: Tokenizer) -> str:
    """Return the template recorded in the model's folder, else the tokenizer's own, if any."""
    record = config.trained_template or {}
    if isinstance(record.get("input_template"), str):
        return record["input_template"]
    recorded = record.get("chat_template")
    own = "tokenizer" if tokenizer.chat_template else "none"
    return recorded if recorded in TEMPLATES and (recorded == "none" or tokenizer.chat_template) else own


def open_engine(
    model: Any,
    vocabulary: int,
    *,
    dtype: str,
    kv_memory: int | str | None = None,
    num_slots: int = 1,
    max_length: int | None = None,
) -> Any:
    """Return the fused engine if it can run, else the eager one, with the weights of ``model``, and print which it is.

    Weights, keys and values are in ``dtype``. Ids from ``vocabulary`` on are never sampled. The fused engine generates
    up to ``num_slots`` answers side by side, of up to ``max_length`` tokens with their prompts (None: the model's
    positions); without ``kv_memory`` there is room for all of them at full length.
    """
    from alignment.device.host import num_threads
    from alignment.generation.eager.eager_engine import EagerEngine
    from alignment.generation.fused.fused_engine import FusedEngine
    from alignment.generation.fused.fused_settings import FusedSettings, full_length_bytes
    from alignment.generation.kernel_choice import device_kernels

    kernels = device_kernels()
    longest = max_length or model.config.longest_sequence
    obstacle = kernels.obstacle(model.config) or kernels.length_obstacle(model.config, longest)
    if obstacle is None:
        settings = FusedSettings(
            num_slots=num_slots,
            kv_memory=kv_memory
            or full_length_bytes(model.config, num_slots=num_slots, max_length=longest, kv_type=dtype),
            max_length=longest,
            weight_type=dtype,
            kv_type=dtype,
            threads=num_threads(),
        )
        # The engine packs its own copy of the weights, so those of ``model`` can be freed.
        own = SimpleNamespace(config=model.config)
        engine: Any = FusedEngine(own, settings, kernels=kernels, usable_vocab_size=vocabulary)
    else:
        engine = EagerEngine(model, usable_vocab_size=vocabulary)
    engine.load_weights(model.named_parameters(), version=0)
    print(f"engine: {f'fused ({kernels.description})' if obstacle is None else f'eager ({obstacle})'}", file=sys.stderr)
    return engine
