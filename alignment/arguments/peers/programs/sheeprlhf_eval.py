"""SheepRLHF's evaluations, with its defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from alignment.arguments.peers.programs.program import Answers, Flags, NoCounterpart, NoNeed, PeerStep, Program
from alignment.arguments.peers.programs.sheeprlhf import DATA, LENGTHS, ROLLOUTS, SCRIPT, SUITE, named, targets
from alignment.errors import ArgumentError


def _experiment(value: Any, flags: Flags) -> Mapping[str, Any]:
    name = flags.get("task")
    return {"model_name_or_path": value, "output_dir": f"{value}/eval/{name}_{flags.get('task.data_split')}"}


def _evaluated(key: str) -> Any:
    """Name the dataset of a configuration, which SheepRLHF reads from the folder of the experiment."""

    def convert(value: Any, flags: Flags) -> Mapping[str, Any]:
        name, (longest, prompt) = named(DATA, value, "data"), LENGTHS[value]
        found = {key: f"jsonl:1.0:{flags.get('data.dataset_name') or name}"}
        return {**found, **({"max_length": longest} if key == "eval_datasets" else {"max_prompt_len": prompt})}

    return convert


def _unsmoothed(value: Any, flags: Flags) -> NoNeed:
    if float(value):
        raise ValueError("a perplexity is that of the targets as they are")
    return NoNeed("a perplexity is that of the targets as they are")


def _checkpoint(value: Any, flags: Flags) -> Mapping[str, Any]:
    raise ValueError("name the folder of the checkpoint as experiment_dir")


def _evaluation(key: str, rows: str, **answers: Any) -> Answers:
    shared = {"task", "fabric", "generation", "generation.num_beams", "data.dataset_name"}
    return MappingProxyType(
        {
            **{name: answer for name, answer in ROLLOUTS.items() if name in shared},
            "data": _evaluated(key),
            "task.data_split": "split",
            "task.mini_batch_size": rows,
            "task.num_workers": lambda value, flags: NoNeed("rows are encoded before they are evaluated"),
            "task.label_smoothing": _unsmoothed,
            "task.model_name": _checkpoint,
            "dry_run": NoCounterpart("give name:8/-1:PATH for 8 rows"),
            "experiment_dir": _experiment,
            "task.experiment_dir": _experiment,
            **answers,
        }
    )


_EVALUATED = {"task.data_split": "test", "task.mini_batch_size": 8}
_SAMPLED = {
    f"generation.{key}": value for key, value in {"max_new_tokens": 128, "top_k": 50, "do_sample": True}.items()
}
_EVALUATIONS = MappingProxyType(
    {
        "perplexity": PeerStep(
            "eval",
            _evaluation("eval_datasets", "per_device_eval_batch_size", **{"task.use_masked_targets": targets}),
            {**_EVALUATED, "task.use_masked_targets": False},
            {"task": "perplexity"},
            notes={"average": "tokens count equally; theirs is a mean over batches"},
        ),
        "rouge": PeerStep(
            "eval",
            _evaluation("prompts", "per_device_rollout_batch_size"),
            {**_EVALUATED, **_SAMPLED},
            {"task": "rouge"},
        ),
    }
)


def _evaluations(given: Mapping[str, Any]) -> Sequence[PeerStep]:
    step = named(_EVALUATIONS, given.get("task"), "task")
    if "data" in given:
        return (step,)
    folder = str(given.get("experiment_dir", given.get("task.experiment_dir", "")))
    names = [name for name in DATA if name in folder.split("/")]
    if not names:
        raise ArgumentError(
            f"experiment_dir={folder} does not tell the dataset, which SheepRLHF reads from that folder: append "
            f"data=NAME ({', '.join(DATA)})"
        )
    return (step._replace(defaults={**step.defaults, "data": names[0]}),)


PROGRAMS = (Program(SUITE, "sheeprlhf.py eval", SCRIPT, _evaluations, "eval"),)
