"""Read the list of reward sources: names, or objects with a weight, a template and a batch size each."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any

from alignment.architecture.config_rules import COMPARISON_KEY
from alignment.errors import ArgumentError
from alignment.registry import near_matches

MODEL_KINDS = ("model", "cost", "pairwise")
"""Sources that are models in folders; a ``cost`` is subtracted, and a ``pairwise`` one compares two responses."""
KINDS = (*MODEL_KINDS, "function", "service")
"""What a source may be. A kind is built by ``runs.on_policy.rewards.BUILDERS``."""
Resolve = Callable[[str], str]
_ADDRESS = re.compile(r"https?://")
_FUNCTION = re.compile(r".+:[A-Za-z_]\w*")
_ROLE_FOLDERS = ("reward", "policy", "value", "cost_value")


@dataclass(frozen=True, kw_only=True)
class RewardEntry:
    """One source of rewards."""

    name: str
    """Folder or hub name of a model, ``file.py:function`` or ``package.module:function``, or address of a service."""
    kind: str
    log_as: str
    """Its word in the names of metrics."""
    weight: float = 1.0
    """Factor of its score in the sum; 0: it is only logged."""
    normalize: bool | None = None
    """Whether its scores are normalised before they are weighted; None: as ``normalize_reward`` says."""
    template: str | None = None
    """The model's template (``none``, ``tokenizer``, or text with ``{}``); None: that of the run."""
    batch_size: int = -1
    """Rows per forward pass of the model; -1: per_device_reward_batch_size."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the function; of a pairwise model how a pair is written, instead of what its folder says."""

    @property
    def is_model(self) -> bool:
        """Whether it is a model in a folder."""
        return self.kind in MODEL_KINDS

    @property
    def factor(self) -> float:
        """Its weight with the sign that it has in the sum: a cost is subtracted."""
        return -self.weight if self.kind == "cost" else self.weight


def read_entries(text: str | None) -> tuple[RewardEntry, ...]:
    """Return the entries of ``text``, which ``resolve_entries`` wrote; none for None."""
    return tuple(RewardEntry(**item) for item in json.loads(text)) if text else ()


def resolve_entries(text: str, resolvers: Mapping[str, Resolve]) -> str:
    """Return JSON of complete entries for ``text``: names separated by commas, or a JSON list or object.

    ``resolvers`` return the absolute path of a ``model`` or a ``function``. ArgumentError names the entry and what is
    allowed.
    """
    written = _parse(text)
    if not written:
        raise ArgumentError("reward_sources names no source")
    entries: list[RewardEntry] = []
    for number, item in enumerate(written, 1):
        try:
            entries.append(_read_entry(item, resolvers, {entry.log_as for entry in entries}))
        except ValueError as error:
            kind = type(error) if isinstance(error, ArgumentError) else ArgumentError
            raise kind(f"source {number} of {len(written)}: {error}") from None
    return json.dumps([asdict(entry) for entry in entries], ensure_ascii=False)


def model_kind(folder: str) -> str:
    """Return ``pairwise`` if a config.json in ``folder`` (of a run: in its ``reward``) says so, else ``model``."""
    for place in (Path(folder), Path(folder) / "reward"):
        try:
            recorded = json.loads((place / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue  # a folder that cannot be used is refused when its model is loaded
        return "pairwise" if isinstance(recorded, dict) and recorded.get(COMPARISON_KEY) else "model"
    return "model"


def find_faults(entries: Sequence[RewardEntry], weights: Sequence[float] | None) -> Iterator[str]:
    """Yield what is wrong with the sources together, and with ``weights``, which replace theirs."""
    if weights is not None and len(weights) != len(entries):
        yield f"reward_weights has {len(weights)} numbers and reward_sources {len(entries)} sources; give one for each"
        return
    if weights is not None and any(entry.weight != 1 for entry in entries):
        yield "weights stand both in reward_weights and in reward_sources; give them in one place"
    weighted = with_weights(entries, weights)
    for entry in weighted:
        if entry.kind == "cost" and entry.weight < 0:
            yield (
                f"the cost {entry.log_as} has weight {entry.weight:g}: a cost is subtracted, so its weight is positive"
            )
    if not any(entry.weight for entry in weighted):
        yield "all weights of reward_sources are 0: there would be no reward. Give at least one source another weight"
    yield from _find_repeats(weighted)


def with_weights(entries: Sequence[RewardEntry], weights: Sequence[float] | None) -> tuple[RewardEntry, ...]:
    """Return ``entries`` with ``weights`` instead of their own (None: unchanged)."""
    if weights is None:
        return tuple(entries)
    return tuple(
        RewardEntry(**{**asdict(entry), "weight": weight}) for entry, weight in zip(entries, weights, strict=True)
    )


def _find_repeats(entries: Sequence[RewardEntry]) -> Iterator[str]:
    groups: dict[tuple[Any, ...], list[RewardEntry]] = {}
    for entry in entries:
        same = (entry.name, entry.template, json.dumps(dict(entry.options), sort_keys=True))
        groups.setdefault(same, []).append(entry)
    for found in groups.values():
        if len(found) > 1:
            total = sum(entry.factor for entry in found)
            said = "cancel" if total == 0 else f"add up to {total:g}"
            factors = " and ".join(f"{entry.factor:g}" for entry in found)
            yield f"{found[0].name} is named {len(found)} times in reward_sources, and {factors} {said}: name it once"


def _parse(text: str) -> list[Any]:
    if not text.lstrip().startswith(("[", "{")):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ArgumentError(f"{text!r:.80} must be valid JSON, or names separated by commas: {error}") from None
    return found if isinstance(found, list) else [found]


def _read_entry(item: Any, resolvers: Mapping[str, Resolve], taken: set[str]) -> RewardEntry:
    if isinstance(item, str):
        item = {"name": item}
    if not isinstance(item, Mapping):
        raise ValueError(f"expected a name or an object with name, weight, ..., got {item!r:.80}")
    _check_fields(item)
    name, kind = item["name"], item.get("kind") or _kind_of(item["name"])
    resolve = resolvers.get("model" if kind in MODEL_KINDS else kind)
    place = resolve(name) if resolve else name
    kind = model_kind(place) if kind == "model" else kind
    _check_use(item, kind)
    log_as = _log_name(item.get("log_as") or _short_name(name, kind), taken, is_given="log_as" in item)
    return RewardEntry(**{**item, "name": place, "kind": kind, "log_as": log_as})


def _check_fields(item: Mapping[str, Any]) -> None:
    """Raise ValueError for unknown fields and for values of another type."""
    for key, value in item.items():
        if key not in _FIELDS:
            raise ValueError(f"unknown field {key!r}{near_matches(key, _FIELDS)} (allowed: {', '.join(_FIELDS)})")
        fits, expected = _FIELDS[key]
        if not fits(value):
            raise ValueError(f"{key} must be {expected}, got {value!r:.80}")
    if "name" not in item:
        raise ValueError(f"it has no name (fields: {', '.join(_FIELDS)})")


def _check_use(item: Mapping[str, Any], kind: str) -> None:
    """Raise ValueError for a name or fields that a source of this kind cannot have."""
    name = item["name"]
    if kind == "service" and not _ADDRESS.match(name):
        raise ValueError(f"the service {name!r} must begin with http:// or https://")
    has_options = kind in ("function", "pairwise")
    alien = {"template": kind in MODEL_KINDS, "batch_size": kind in MODEL_KINDS, "options": has_options}
    for key, is_meant in alien.items():
        if item.get(key) not in (None, {}, -1) and not is_meant:
            whose = "a function or a pairwise model" if key == "options" else "a model"
            raise ValueError(f"{key} is for {whose}, and {name!r} is a {kind}")


def _kind_of(name: str) -> str:
    if _ADDRESS.match(name):
        return "service"
    return "function" if _FUNCTION.fullmatch(name) and not Path(name).expanduser().exists() else "model"


def _short_name(name: str, kind: str) -> str:
    """Return what tells a source apart: the function, the host, or the folder (of a run: its output folder)."""
    if kind == "function":
        return name.rpartition(":")[2]
    if kind == "service":
        return re.split(r"[/:]+", name)[1]
    parts = PurePath(name).parts or (name,)
    return parts[-2] if len(parts) > 1 and parts[-1] in _ROLE_FOLDERS else parts[-1]


def _log_name(wanted: str, taken: set[str], *, is_given: bool) -> str:
    """Return ``wanted`` as one word of letters, digits and underscores that no other source has."""
    word = re.sub(r"[^A-Za-z0-9]+", "_", wanted).strip("_") or "source"
    if is_given and (word != wanted or word in taken):
        raise ValueError(f"log_as={wanted!r} must be letters, digits and underscores, and differ from {sorted(taken)}")
    number, free = 2, word
    while free in taken:
        free, number = f"{word}_{number}", number + 1
    return free


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_rows(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and (value > 0 or value == -1)


def _is_template(value: Any) -> bool:
    return value in (None, "none", "tokenizer") or (_is_text(value) and value.count("{}") == 1)


_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = MappingProxyType(
    {
        "name": (_is_text, "a text"),
        "kind": (lambda value: value in KINDS, f"one of {', '.join(KINDS)}"),
        "log_as": (_is_text, "a text"),
        "weight": (_is_number, "a finite number"),
        "normalize": (lambda value: value in (None, True, False), "true or false"),
        "template": (_is_template, "none, tokenizer, or a text with one {}"),
        "batch_size": (_is_rows, "a whole number >= 1"),
        "options": (lambda value: isinstance(value, dict), "an object"),
    }
)
"""The fields of an entry: whether a value fits, and what is expected."""
