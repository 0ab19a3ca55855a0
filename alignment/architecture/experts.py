"""The experts of a model's feed-forward blocks: their keys in config.json, and what they say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alignment.architecture.family import ExpertKeys
from alignment.architecture.rope_settings import is_number
from alignment.errors import ModelFolderError

_TOP_K, _COEFFICIENT, _NOISE = "num_experts_per_tok", "router_aux_loss_coef", "router_jitter_noise"
_STEP, _DENSE, _NORMALISES = "decoder_sparse_step", "mlp_only_layers", "norm_topk_prob"
_MOST = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """The feed-forward blocks that choose a few of many experts for each token."""

    count: int
    """The number of experts in a layer."""
    top_k: int
    """The experts that a token is given to."""
    inner: int
    """The width of one expert."""
    shared_inner: int = 0
    """The width of the expert that every token is given to, by a gate of its own; 0: there is none."""
    normalises: bool = True
    """Whether the weights of a token's experts add up to 1."""
    dense_layers: tuple[int, ...] = ()
    """The numbers of the layers with one plain feed-forward block."""
    aux_loss_coef: float = 0.0
    """The factor of the balancing loss that the folder names; a run has its own key."""

    @property
    def number_type(self) -> str:
        """The smallest dtype for the numbers of experts and one more (``records.NO_EXPERT``)."""
        return "uint8" if self.count < 256 else "uint16"

    def choice_bytes(self, num_layers: int) -> int:
        """Return the bytes in which the experts of one token in all ``num_layers`` layers are recorded."""
        return num_layers * self.top_k * (1 if self.number_type == "uint8" else 2)


def read_experts(given: Mapping[str, Any], keys: ExpertKeys | None, place: str) -> Experts | None:
    """Return the experts that config.json describes, None for a family without; ModelFolderError for bad values."""
    if keys is None:
        return None
    names = (_first(given, keys.count), _TOP_K, keys.inner, *filter(None, [keys.shared_inner]))
    numbers = {name: given.get(name) for name in names}
    problems = [
        f"{name} must be an integer from 1 to {_MOST}, found {value!r}"
        for name, value in numbers.items()
        if not _is_integer(value) or not 1 <= value <= _MOST
    ]
    count, top_k, inner, *shared = numbers.values()
    if not problems and top_k > count:
        problems.append(f"{_TOP_K} {top_k} is more than the {count} experts")
    problems += _other_problems(given, keys)
    if problems:
        raise ModelFolderError(f"{place}: {'; '.join(problems)}")
    return Experts(
        count=count,
        top_k=top_k,
        inner=inner,
        shared_inner=shared[0] if shared else 0,
        normalises=bool(given.get(_NORMALISES, False)) if keys.asks_normalisation else True,
        dense_layers=_dense_layers(given) if keys.has_dense_layers else (),
        aux_loss_coef=float(given.get(_COEFFICIENT, 0.001)),
    )


def write_experts(experts: Experts | None, keys: ExpertKeys | None) -> dict[str, Any]:
    """Return the keys of config.json for ``experts``, in the spelling of every version of transformers."""
    if experts is None or keys is None:
        return {}
    written: dict[str, Any] = dict.fromkeys(keys.count, experts.count)
    written |= {_TOP_K: experts.top_k, keys.inner: experts.inner, _COEFFICIENT: experts.aux_loss_coef}
    if keys.shared_inner:
        written[keys.shared_inner] = experts.shared_inner
    if keys.asks_normalisation:
        written[_NORMALISES] = experts.normalises
    if keys.has_dense_layers:
        written |= {_STEP: 1, _DENSE: list(experts.dense_layers)}
    return written


def _other_problems(given: Mapping[str, Any], keys: ExpertKeys) -> list[str]:
    """Return what is wrong with the keys that say which layers have experts, and with the router's."""
    problems, step, dense = [], given.get(_STEP, 1), given.get(_DENSE) or []
    if not _is_integer(step) or step < 1:
        problems.append(f"{_STEP} must be a positive integer, found {step!r}")
    if not isinstance(dense, (list, tuple)) or not all(map(_is_integer, dense)):
        problems.append(f"{_DENSE} must be a list of layer numbers, found {dense!r}")
    coefficient = given.get(_COEFFICIENT, 0.0)
    if not is_number(coefficient) or coefficient < 0:
        problems.append(f"{_COEFFICIENT} must be a number from 0, found {coefficient!r}")
    if keys.has_dense_layers and given.get("use_sliding_window"):
        problems.append("use_sliding_window is not supported in a model with experts (only false)")
    if given.get(_NOISE):
        problems.append(f"{_NOISE} {given[_NOISE]!r} is not supported (only 0; it is noise of training, write 0)")
    return problems


def _dense_layers(given: Mapping[str, Any]) -> tuple[int, ...]:
    step, dense = given.get(_STEP, 1), set(given.get(_DENSE) or ())
    return tuple(n for n in range(given["num_hidden_layers"]) if n in dense or (n + 1) % step)


def _first(given: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """Return the first of ``names`` that is given, else the first."""
    return next((name for name in names if given.get(name) is not None), names[0])


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
