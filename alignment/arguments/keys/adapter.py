"""Arguments of low-rank adapters (LoRA)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alignment.architecture.adapter import Adapter, choose_modules
from alignment.architecture.decoder_config import DecoderConfig
from alignment.fields import Case, argument


def _unused(default: Any) -> Case:
    """Return the case that there is no adapter for a value other than ``default``."""
    return Case(lambda value, s: value != default and not s.values["lora"], "lora is false")


@dataclass(frozen=True, kw_only=True)
class AdapterArguments:
    """Whether small factors beside the frozen weights are trained, and of which size."""

    lora: bool = argument(False, aliases=("use_peft",))
    """Train a low-rank adapter of each trained model and freeze its other weights, except for a score head."""
    lora_rank: int = argument(8, minimum=1, aliases=("lora_r",), inert_when=_unused(8))
    """Rank of the adapter."""
    lora_alpha: float = argument(-1, minimum=-1, excluded=(0,), inert_when=_unused(-1))
    """Scale: the adapter's part is multiplied by lora_alpha / lora_rank; -1: twice the rank (with rslora: 4)."""
    lora_dropout: float = argument(0.0, minimum=0, below=1, inert_when=_unused(0.0))
    """Probability with which inputs of the adapter are dropped in training."""
    lora_target_modules: tuple[str, ...] = argument(
        ("all-linear",), aliases=("target_modules",), inert_when=_unused(("all-linear",))
    )
    """Modules to adapt: ends of names (q_proj), regular expressions for whole names, or all-linear."""
    rslora: bool = argument(False, aliases=("use_rslora",), inert_when=_unused(False))
    """Divide lora_alpha by the square root of the rank."""
    load_in_4bit: bool = argument(False, inert_when=_unused(False))
    """Hold the frozen matrices of the layers in 4 bits (NF4, QLoRA); products unpack them."""
    lora_path: str | None = argument(None, path="model", inert_when=_unused(None))
    """Folder of an adapter in PEFT's format to continue from; it has its own rank, scale and modules. In PPO: the
    policy's."""

    def describe(self, config: DecoderConfig) -> Adapter:
        """Return the adapter that the keys ask for in a model of ``config``; AdapterError if a target fits nothing."""
        usual = 4.0 if self.rslora else 2.0 * self.lora_rank
        return Adapter(
            rank=self.lora_rank,
            alpha=usual if self.lora_alpha == -1 else self.lora_alpha,
            dropout=self.lora_dropout,
            rank_stabilized=self.rslora,
            modules=choose_modules(config, self.lora_target_modules),
        )
