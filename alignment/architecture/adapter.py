"""Describe a low-rank adapter (LoRA, Hu et al. 2021): its size, the matrices it adapts, and the factors it adds.

A matrix W [in, out] becomes W + scaling * A @ B with A [in, rank] and B [rank, out]; W is frozen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from alignment.architecture.cuts import layer_weights
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.family import LAYERS
from alignment.architecture.parts import Part
from alignment.errors import AdapterError

FACTORS = ("lora_A", "lora_B")
"""The names of A and B below the module they adapt, in peft and here."""
ALL_LINEAR = "all-linear"
"""The target that stands for every matrix of the layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A low-rank adapter of some matrices of a model."""

    rank: int
    alpha: float
    modules: tuple[str, ...]
    """The adapted modules, for example ``model.layers.0.self_attn.q_proj``, in model order."""
    dropout: float = 0.0
    """The probability with which an input of A is dropped in training."""
    rank_stabilized: bool = False
    """Whether the scaling is alpha / sqrt(rank) (Kalajdzievski 2023), not alpha / rank."""
    base: str = ""
    """The folder or hub name of the model that it belongs to."""
    base_content: str = ""
    """A checksum of that model; empty: unknown."""

    @property
    def scaling(self) -> float:
        """The factor of A @ B."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    def shapes(self, base: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Return the shape of every factor by name; ``base`` has the shapes of the model's parameters."""
        found: dict[str, tuple[int, ...]] = {}
        for module in self.modules:
            inputs, outputs = base[f"{module}.weight"]
            shapes = ((inputs, self.rank), (self.rank, outputs))
            found |= {f"{module}.{factor}.weight": shape for factor, shape in zip(FACTORS, shapes, strict=True)}
        return found

    def parts(self, base: Mapping[str, Part]) -> dict[str, Part]:
        """Return the part of every factor that goes with the parts ``base`` of a process, by name.

        A has the rows of its matrix and B the columns; a process without a module has neither factor.
        """
        found: dict[str, Part] = {}
        for module in self.modules:
            weight = base.get(f"{module}.weight")
            if weight is not None:
                (inputs, outputs), (rows, columns) = weight.shape, weight.box
                first, second = (f"{module}.{factor}.weight" for factor in FACTORS)
                found[first] = Part(first, (inputs, self.rank), (rows, (0, self.rank)))
                found[second] = Part(second, (self.rank, outputs), ((0, self.rank), columns))
        return found

    def with_factors(self, base: Sequence[Part]) -> list[Part]:
        """Return the parts ``base`` of a process and those of the factors that go with them."""
        return [*base, *self.parts({part.name: part for part in base}).values()]


_ROUTERS = ("router", "shared_switch")
"""The roles of matrices that are not adapted, besides those of experts."""
HEAD = "score."
"""Prefix of a score head, which is trained and saved whole beside an adapter."""


def is_trained_with_adapter(name: str) -> bool:
    """Return whether the parameter ``name`` of an adapted model is trained and saved: a factor, or a score head."""
    return is_factor(name) or name.startswith(HEAD)


def is_factor(name: str) -> bool:
    """Return whether the parameter ``name`` is a factor of an adapter."""
    return name.endswith(tuple(f".{factor}.weight" for factor in FACTORS))


def module_of(name: str) -> str:
    """Return the adapted module of the factor ``name``."""
    return name.rsplit(".", 2)[0]


def adaptable_modules(config: DecoderConfig) -> list[str]:
    """Return the modules that an adapter can adapt, in model order: every matrix of the layers.

    Not routers, and not experts: transformers 5 holds those of a layer as one tensor, and peft adapts them otherwise.
    """
    kinds = {
        has_experts: [
            weight.name
            for weight in layer_weights(config, has_experts=has_experts)
            if weight.kind == "matrix" and not weight.is_expert and weight.role not in _ROUTERS
        ]
        for has_experts in (False, True)
    }
    layers = range(config.num_hidden_layers)
    return [f"{LAYERS}{number}.{name}" for number in layers for name in kinds[config.has_experts(number)]]


def choose_modules(config: DecoderConfig, targets: Sequence[str]) -> tuple[str, ...]:
    """Return the modules that ``targets`` name, in model order; AdapterError for one that matches nothing.

    A target is ``all-linear``, the end of a module's name (``q_proj``, ``self_attn.q_proj``) or a regular expression
    for the whole name (``.*layers[.][01][.].*_proj``), as in peft and PaddleNLP.
    """
    every = adaptable_modules(config)
    chosen: set[str] = set()
    for target in targets:
        found = _matches(target, every)
        if not found:
            names = ", ".join(dict.fromkeys(module.rpartition(".")[2] for module in every))
            left_out = "; its experts and routers are not adapted" if config.experts else ""
            raise AdapterError(
                f"lora_target_modules: {target!r} matches no module of this {config.model_type} model (its modules: "
                f"{names}; a whole name is {every[0]}; {ALL_LINEAR} means all{left_out})"
            )
        chosen.update(found)
    return tuple(module for module in every if module in chosen)


def name_targets(config: DecoderConfig, modules: Sequence[str]) -> list[str]:
    """Return the shortest targets that mean exactly ``modules``, for an adapter_config.json."""
    every = adaptable_modules(config)
    endings = list(dict.fromkeys(module.rpartition(".")[2] for module in modules))
    named = {module for ending in endings for module in _matches(ending, every)}
    return endings if named == set(modules) else list(modules)


def _matches(target: str, modules: Iterable[str]) -> list[str]:
    if target == ALL_LINEAR:
        return list(modules)
    named = [module for module in modules if module == target or module.endswith(f".{target}")]
    if named:
        return named
    try:
        pattern = re.compile(target)
    except re.error as error:
        raise AdapterError(f"lora_target_modules: {target!r} is no regular expression ({error})") from None
    return [module for module in modules if pattern.fullmatch(module)]
