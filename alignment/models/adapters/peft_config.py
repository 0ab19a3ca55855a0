"""Read and write adapter_config.json, the description of an adapter in PEFT's format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from alignment.architecture.adapter import Adapter, choose_modules, name_targets
from alignment.architecture.decoder_config import DecoderConfig
from alignment.errors import AdapterError
from alignment.models.folder_files import read_object
from alignment.models.folders.family_files import FamilyFiles

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PEFT_TYPE = "LORA"
OWN_TYPE = "ALIGNMENT_LORA"
"""The type of an adapter of matrices that other suites fuse, turn or name otherwise: PEFT refuses it, and would else
apply a part of it.
"""
TASKS = {"causal": "CAUSAL_LM", "score": "SEQ_CLS"}
"""PEFT's name of the task by kind of model."""
_READ = ("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "modules_to_save")
_WITHOUT_EFFECT = (
    *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version"),
    *("megatron_core", "qalora_group_size", "runtime_config", "eva_config", "loftq_config", "corda_config"),
)
"""Keys that do not change what the saved adapter computes."""
_HEADS = ("score", "classifier")
"""What PEFT writes as ``modules_to_save`` of a sequence classifier, whichever of them the model has."""
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),
}
"""Values of other keys that keep the base as it is; of any other key: null, false and empty ones."""


def describe_adapter(adapter: Adapter, config: DecoderConfig, *, kind: str) -> dict[str, Any]:
    """Return an adapter_config.json, of ``OWN_TYPE`` if PEFT cannot read it; ``kind`` is ``causal`` or ``score``."""
    alpha = adapter.alpha
    return {
        "peft_type": PEFT_TYPE if other_in_peft(config, adapter.modules) is None else OWN_TYPE,
        "task_type": TASKS[kind],
        "base_model_name_or_path": adapter.base,
        "r": adapter.rank,
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "lora_dropout": adapter.dropout,
        "use_rslora": adapter.rank_stabilized,
        "target_modules": name_targets(config, adapter.modules),
        "modules_to_save": ["score"] if kind == "score" else None,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def read_adapter(folder: Path, config: DecoderConfig) -> Adapter:
    """Return the adapter in ``folder`` for a base of ``config``; AdapterError if it is not one that can be computed."""
    raw = read_description(folder)
    place = folder / CONFIG_FILE
    _refuse_others(raw, place)
    targets = raw.get("target_modules")
    targets = [targets] if isinstance(targets, str) else list(targets or ())
    if not targets:
        raise AdapterError(f"{place}: target_modules names no module")
    try:
        modules = choose_modules(config, [str(target) for target in targets])
        other = other_in_peft(config, modules)
        if other is not None and raw["peft_type"] == PEFT_TYPE:
            raise AdapterError(f"PEFT's {other} of a {config.model_type} model is another matrix; merge it with PEFT")
        return Adapter(
            rank=_number(raw, "r", place, above=0, kind=int),
            alpha=_number(raw, "lora_alpha", place, above=0),
            dropout=_number({"lora_dropout": 0.0, **raw}, "lora_dropout", place, above=-1),
            rank_stabilized=bool(raw.get("use_rslora", False)),
            modules=modules,
            base=str(raw.get("base_model_name_or_path") or ""),
        )
    except AdapterError as error:
        raise AdapterError(f"{place} does not fit the base: {error}") from None


def other_in_peft(config: DecoderConfig, modules: Iterable[str]) -> str | None:
    """Return the first of ``modules`` whose matrix files fuse, turn or name otherwise; None if there is none."""
    files = FamilyFiles(config)
    return next((module for module in modules if not files.hold_alone(f"{module}.weight")), None)


def read_description(folder: Path) -> dict[str, Any]:
    """Return the adapter_config.json of ``folder``; AdapterError if there is none, or it is not LoRA's."""
    try:
        raw = read_object(folder, CONFIG_FILE)
    except FileNotFoundError:
        raise AdapterError(f"{folder / CONFIG_FILE}: no such file; an adapter in PEFT's format needs one") from None
    if raw.get("peft_type") not in (PEFT_TYPE, OWN_TYPE):
        raise AdapterError(f"{folder / CONFIG_FILE}: peft_type is {raw.get('peft_type')!r} (readable: 'LORA')")
    return raw


def _refuse_others(raw: Mapping[str, Any], place: Path) -> None:
    """Raise AdapterError for a key that would change what the adapter computes."""
    for key, value in raw.items():
        if key in _READ or key in _WITHOUT_EFFECT:
            continue
        allowed = _NEUTRAL.get(key)
        if value not in allowed if allowed else bool(value):
            raise AdapterError(f"{place}: {key}={value!r} is not supported: the adapter would compute other numbers")
    saved = raw.get("modules_to_save") or []
    others = [name for name in saved if name not in _HEADS]
    if others:
        raise AdapterError(f"{place}: modules_to_save holds {others[0]!r} (supported: 'score', a score head)")


def _number(raw: Mapping[str, Any], key: str, place: Path, *, above: float, kind: type = float) -> Any:
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or not value > above:
        raise AdapterError(f"{place}: {key}={value!r} is not a number above {max(above, 0):g}")
    return value
