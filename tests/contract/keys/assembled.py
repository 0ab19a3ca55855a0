"""Runs as the trainers assemble them, from an argument file to the loop, whose first update is not made."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from alignment.loops.on_policy import OnPolicyLoop
from alignment.loops.session import Session
from alignment.loops.supervised import SupervisedLoop
from alignment.models.decoder.score_model import ScoreOptions
from alignment.models.folders.hub import load_causal_lm, random_causal_lm, random_score_model
from alignment.models.folders.saving import save_model
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.ops import onednn, products
from alignment.rollout.reference_service import ReferenceClient, ReferenceIdentity
from alignment.runs import assembly, dataset_run, launch
from alignment.runs import datasets as data_start
from alignment.runs import models as trainer_models
from alignment.runs.offline import models as offline_models
from alignment.runs.offline import reference as offline_reference
from alignment.runs.offline import train as offline_train
from alignment.runs.on_policy import engines, reward_models, roles
from alignment.runs.on_policy import run as on_policy_run
from alignment.trainers.registered import TRAINERS
from tests.tiny_models import write_adapter

ROOT = Path(__file__).resolve().parents[3]
TOKENIZER = ROOT / "alignment" / "data" / "shipped" / "packing" / "tokenizer"
TINY = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 4096,
}
SHARED = {"chat_template": "tokenizer", "report_to": "none", "save_strategy": "no", "max_length": 96}
SIZES = {"per_device_train_batch_size": 4, "num_train_epochs": 1.0}
IDENTITY = ReferenceIdentity("weights", load_tokenizer(TOKENIZER).fingerprint(), 4096, "float32")
"""What any server of a reference says of its model."""
PLACES = r"\{((?!context|content|role|response_)[^{}]+)\}"
"""``{name}`` where it is a file; the other words stand in ``pairwise_`` keys."""


def _written(value: Any) -> str:
    return value if isinstance(value, str) else " ".join(value)


BASE = {
    name: {
        **{**SHARED, **SIZES, "train_datasets": f"{kind}/train:24/-1"},
        **{key: {"teacher_model_name_or_path": "{teacher}"}.get(key, "{policy}") for key in TRAINERS[name].model_keys},
        **{key: _written(value) for key, value in TRAINERS[name].small_run.items() if key.startswith("pairwise_")},
    }
    for name in TRAINERS
    for kind in [TRAINERS[name].small_run["train_datasets"].partition("/")[0]]
} | {
    "ppo": {
        **SHARED,
        **SIZES,
        "train_datasets": "packing-prompts/train:24/-1",
        "actor_model_name_or_path": "{policy}",
        "reward_model_name_or_path": "{reward}",
        "per_device_prompt_batch_size": 4,
        "max_dec_len": 8,
    },
}
"""What every assembly of a trainer is given; 24 rows are 6 updates."""
WATCHED = (
    (launch, "initialise"), (launch, "open_checkpoint"), (launch, "choose_operators"), (launch, "choose_sharing"),
    (launch, "choose_precision"),
    (assembly, "open_writers"),
    (assembly, "Progress"), (assembly, "remove_replaced"), (data_start, "load_dataset_modules"),
    (data_start, "Encoding"), (data_start, "parse_datasets"),
    (trainer_models, "load_tokenizer"), (roles, "load_tokenizer"), (offline_models, "load_causal_lm"),
    (offline_models, "random_causal_lm"), (offline_models, "load_score_model"), (offline_models, "random_score_model"),
    (offline_train, "build_task"), (offline_reference, "place"), (roles, "load_causal_lm"), (roles, "load_score_model"),
    (reward_models, "load_score_model"),
    (engines, "rollout_placement"),
)  # fmt: skip
"""Functions whose arguments a row may look at, as ``run.given["module.function"]``."""


@dataclass(kw_only=True)
class Run:
    """One assembled run: what a row of the table looks at."""

    folder: Path
    """Holds its argument file, ``policy``, ``reward`` and whatever a row needs."""
    given: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = field(default_factory=dict)
    """The calls of ``WATCHED``, in order, as (arguments, keywords)."""
    launch: Any = None
    session: Session | None = None
    state: Any = None
    loop: Any = None
    """SupervisedLoop or OnPolicyLoop; None where nothing would be trained."""
    evaluation: Any = None
    """What evaluates; None without evaluation."""

    @property
    def learner(self) -> Any:
        """The policy's, or the one learner of a run on a dataset."""
        return self.state.learners.get("policy") or self.state.learners["reward"]

    @property
    def critic(self) -> Any:
        """PPO's second learner."""
        return self.state.learners["value"]

    @property
    def loader(self) -> Any:
        """The loader of training rows or prompts."""
        part = self.state.parts.get("samples") or self.state.parts["prompts"]
        return part.read.__self__

    @property
    def dataset(self) -> Any:
        """What the loader reads."""
        return self.loader.samples

    def call(self, name: str, which: int = 0) -> dict[str, Any]:
        """Return the keywords of a watched call; positional arguments stand under 0, 1, ..."""
        arguments, keywords = self.given[name][which]
        return {**dict(enumerate(arguments)), **keywords}


MIXTURE = {"model_type": "mixtral", "num_key_value_heads": 2, "num_local_experts": 3, "sliding_window": None}


def make_models(folder: Path) -> None:
    """Write a tiny policy and reward model, and the config.json they have, into ``folder``."""
    (folder / "config").mkdir(parents=True)
    (folder / "config" / "config.json").write_text(json.dumps(TINY))
    tokenizer, config = load_tokenizer(TOKENIZER), folder / "config" / "config.json"
    save_model(folder / "policy", random_causal_lm(config, seed=1, tokenizer=tokenizer), tokenizer)
    options = ScoreOptions(score_type="reward")
    save_model(folder / "reward", random_score_model(config, options, seed=2, tokenizer=tokenizer), tokenizer)
    costs = random_score_model(config, ScoreOptions(score_type="cost"), seed=2, tokenizer=tokenizer)
    save_model(folder / "cost", costs, tokenizer)
    scaled = ScoreOptions(score_type="cost", normalizer_type="RunningMeanStd")
    costs = random_score_model(config, scaled, seed=2, tokenizer=tokenizer)
    costs.normalizer.update(np.array([1.0, 3.0]))
    save_model(folder / "scaled cost", costs, tokenizer)
    mixture = folder / "shape of a mixture" / "config.json"
    mixture.parent.mkdir()
    mixture.write_text(json.dumps({**TINY, **MIXTURE}))
    save_model(folder / "mixture", random_causal_lm(mixture, seed=1, tokenizer=tokenizer), tokenizer)
    write_adapter(folder / "adapter", load_causal_lm(folder / "policy"), rank=5)
    several = ScoreOptions(labels=("one", "two"))
    save_model(folder / "two scores", random_score_model(config, several, seed=2, tokenizer=tokenizer), tokenizer)
    wider = folder / "wider" / "config.json"
    wider.parent.mkdir()
    wider.write_text(json.dumps({**TINY, "hidden_size": 16}))
    save_model(folder / "teacher", random_causal_lm(wider, seed=3, tokenizer=tokenizer), tokenizer)
    for source, copy in (("policy", "other"), ("reward", "other reward"), ("policy", "tokenizer")):
        shutil.copytree(folder / source, folder / copy)
    make_pairwise(folder / "policy", folder / "compares")


def make_pairwise(source: Path, folder: Path) -> None:
    """Write the language model in ``source`` to ``folder`` as one that compares two responses, in shipped words."""
    shutil.copytree(source, folder)
    path, small = folder / "config.json", TRAINERS["pairwise"].small_run
    record = {key.removeprefix("pairwise_"): value for key, value in small.items() if key.startswith("pairwise_")}
    path.write_text(json.dumps({**json.loads(path.read_text()), "pairwise_comparison": record}))


def assemble(trainer: str, keys: Mapping[str, Any], folder: Path) -> Run:
    """Return the run of ``trainer`` on its base arguments and ``keys``, stopped where the loop would begin.

    ``{name}`` in a text is a file or folder ``name`` of ``folder``, which holds the models.
    """
    run = Run(folder=folder)
    number = len(list(folder.glob("run-*")))
    place = folder / f"run-{number}"
    place.mkdir()
    made = {"output_dir": str(place / "out"), **BASE[trainer], **keys}
    made = {key: filled(value, folder) for key, value in made.items() if value is not None}
    path = place / f"{trainer}_argument.json"
    path.write_text(json.dumps(made))
    with _stopped_before_the_loop(run):
        TRAINERS[trainer].train([str(path)], host="test")
    run.evaluation = run.session and run.session.hooks.evaluate
    return run


def filled(value: Any, folder: Path) -> Any:
    """Return ``value`` with ``{name}`` in it replaced by the path of ``name`` in ``folder``."""
    if not isinstance(value, str):
        return value
    return re.sub(PLACES, lambda found: str(folder / found[1]), value)


@contextlib.contextmanager
def _stopped_before_the_loop(run: Run) -> Iterator[None]:
    def keep_loop(loop: Any) -> None:
        run.loop = loop

    def keep_end(launch: Any, session: Session, state: Any, **options: Any) -> None:
        run.launch, run.session, run.state = launch, session, state
        run.given["finish_run"] = [((), options)]

    with contextlib.ExitStack() as stack:
        for target, name in WATCHED:
            stack.enter_context(_watched(run, target, name))
        for target, name, what in (
            (SupervisedLoop, "run", keep_loop), (OnPolicyLoop, "run", keep_loop), (dataset_run, "finish_run", keep_end),
            (on_policy_run, "finish_run", keep_end), (Session, "evaluate", lambda self: {}),
            (ReferenceClient, "identify", lambda self: IDENTITY), (onednn, "find_obstacle", lambda: None),
            (products, "_rounds", False),
        ):  # fmt: skip
            stack.enter_context(mock.patch.object(target, name, what))
        yield


def _watched(run: Run, target: Any, name: str) -> Any:
    """Have the calls of ``target.name`` kept inside."""
    original = getattr(target, name)
    key = f"{target.__name__.removeprefix('alignment.')}.{name}"

    @functools.wraps(original, updated=())
    def noted(*arguments: Any, **keywords: Any) -> Any:
        run.given.setdefault(key, []).append((arguments, keywords))
        return original(*arguments, **keywords)

    return mock.patch.object(target, name, noted)
