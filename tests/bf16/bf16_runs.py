"""Trainers in bfloat16 (O2) on a CPU, in several layouts, beside float32: what the tests and the table read of them.

All runs of one trainer see the same rows in the same order, whatever the layout, and start from weights that bfloat16
holds exactly, so a gap to float32 is one of computing. Compiled kernels are off, as on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alignment.commands.export import export_model
from alignment.models.safetensors_io import list_tensors
from alignment.parallel.local_ranks import run_ranks
from alignment.parity.comparison import loss_names
from alignment.parity.subjects import as_one_process, make_models, write_arguments
from alignment.telemetry.jsonl import read_json_lines
from alignment.trainers.registered import TRAINERS
from alignment.training.parts_io import read_state

CPU_SITE = Path(__file__).parent / "cpu_site"
ROOT = Path(__file__).resolve().parents[2]
_TRAIN = "alignment.parity.trajectory:train_all"
WAYS: dict[str, tuple[dict[str, Any], str, list[Path]]] = {
    "float": ({}, _TRAIN, [ROOT]),
    "half": ({"bf16": True, "fp16_opt_level": "O2"}, _TRAIN, [CPU_SITE, ROOT]),
    "rounded": ({"float32_matmul_precision": "medium"}, "tests.bf16.rounded:train_all", [ROOT]),
}
"""Ways to compute: changes of keys, what trains, and where its modules are looked for."""
SHAPE = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
}
SETTINGS = {"use_native_ops": False, "save_strategy": "steps", "save_steps": 1, "max_steps": 5}
CASES: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in TRAINERS} | {
    "kd": ("kd", {"lmbda": 0.0}),
    "grpo": ("ppo", {"rl_algorithm": "grpo", "kl_coeff": 0.05, "kl_loss_coeff": 0.1}),
}
"""What is run: (trainer, changes of its keys) by name; a student's own answers would depend on the rounding."""
BATCH_RANKS = 2
"""Processes of the layouts that see rows of their own; the others do the work of both."""
RESUMED_AT, LAST = 2, "checkpoint-5"
STAGE3 = {"sharding": "stage3", "sharding_parallel_degree": 2}
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "one process": (1, {}),
    "TP2": (2, {"tensor_parallel_degree": 2}),
    "Sh2 stage3": (2, STAGE3),
}
NIGHTLY: dict[str, tuple[int, dict[str, Any]]] = {
    "PP2": (2, {"pipeline_parallel_degree": 2}),
    "TP2 sequence": (2, {"tensor_parallel_degree": 2, "sequence_parallel": True}),
    "Sh2 stage1": (2, {**STAGE3, "sharding": "stage1"}),
    "Sh2 stage2": (2, {**STAGE3, "sharding": "stage2"}),
    "Sh2 stage3 offload": (2, {**STAGE3, "offload_level": "freeze_model optimizer train_model"}),
    "TP2xPP2 single": (4, {"tensor_parallel_degree": 2, "pipeline_parallel_degree": 2, "eval_mode": "single"}),
    "TP2xSh2 stage3": (4, {"tensor_parallel_degree": 2, **STAGE3}),
}


@dataclass(frozen=True)
class Run:
    """A run to its end, the same one continued from a checkpoint, and what was sampled."""

    output: Path
    resumed: Path
    seen: list[dict[str, Any]]
    """By iteration, see ``parity.trajectory`` (where tokens are sampled)."""

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The records of the updates."""
        return list(read_json_lines(self.output / "metrics.jsonl"))

    def gradient(self) -> np.ndarray:
        """Return the clipped gradient of the first update, of all models: the first moment is a tenth of it."""
        folder = self.output / "checkpoint-1"
        names = sorted({path.name.partition("_")[0] for path in folder.glob("*_optimizer*")})
        states = [read_state(folder, f"{name}_optimizer") for name in names]
        moments = [state[key].ravel() for state in states for key in sorted(state) if key.endswith("moment1_0")]
        return np.concatenate(moments) / 0.1


def make_start(folder: Path) -> None:
    """Write ``actor``, ``reward`` and ``teacher`` below ``folder``, in float32 but exact in bfloat16."""
    make_models(folder / "drawn", SHAPE)
    for name in ("actor", "reward", "teacher"):
        export_model(folder / "drawn" / name, folder / name, dtype="bfloat16")


def train(folder: Path, name: str, *, way: str = "half") -> dict[str, Run]:
    """Run every case in the layout ``name`` in one of ``WAYS``, whole and again from a checkpoint, in one start of
    its processes.
    """
    world_size, layout = (LAYOUTS | NIGHTLY)[name]
    own, (keys, target, site) = BATCH_RANKS if "sharding" in layout else 1, WAYS[way]
    jobs, runs = [], {}
    for case, (trainer, chosen) in CASES.items():
        changes = {**SETTINGS, **chosen, **keys}
        changes = as_one_process(changes, batch_ranks=BATCH_RANKS // own, trainer=trainer)
        output = f"{way}-{name.replace(' ', '-')}-{case}"
        again = {"resume_from_checkpoint": str(folder / output / f"checkpoint-{RESUMED_AT}")}
        jobs.append((trainer, write_arguments(folder, trainer, output, {**changes, **layout})))
        jobs.append((trainer, write_arguments(folder, trainer, f"{output}-again", {**changes, **layout, **again})))
    arguments = [(trainer, str(path)) for trainer, path in jobs]
    seen = run_ranks(target, arguments, world_size=world_size, timeout=280, search_path=site)[0]
    for case, (_, path), found in zip(CASES, jobs[::2], seen[::2], strict=True):
        runs[case] = Run(path.with_suffix(""), path.with_name(f"{path.stem}-again"), found)
    return runs


def is_sampled(case: str) -> bool:
    """Return whether tokens are sampled, which decide about what follows."""
    return TRAINERS[CASES[case][0]].is_on_policy


def models_of(case: str) -> tuple[str, ...]:
    """Return the models that a case writes."""
    models = TRAINERS[CASES[case][0]].models
    return models[:1] if case == "grpo" else tuple(model for model in models if model != "cost_value")


def is_causal(folder: Path) -> bool:
    """Return whether the model in ``folder`` is a language model; a pairwise one is, and has no score head."""
    return "score.weight" not in stored_codes(folder)


def files_of(output: Path) -> dict[str, bytes]:
    """Return what a run leaves of models and optimizers: the exported folders and the newest checkpoint."""
    kept = [path for name in ("policy", "reward", "value", LAST) for path in (output / name).rglob("*.safetensors")]
    return {str(path.relative_to(output)): path.read_bytes() for path in kept}


def same_bits(run: Run) -> bool:
    """Return whether the continued run ended with the very files of the one that was never stopped."""
    one, other = files_of(run.output), files_of(run.resumed)
    return one == other and len(one) > 2


def stored_codes(folder: Path) -> dict[str, str]:
    """Return the dtype of every tensor of a model folder as its files say it."""
    return {location.name: location.code for location in list_tensors(folder)}


def loss_gap(run: Run, exact: Run) -> float:
    """Return the largest difference of a loss to ``exact``, relative to the loss: before the first update, where the
    sampled tokens decide about it (PPO), and else over all updates.
    """
    gaps = []
    for one, other in zip(exact.metrics, run.metrics, strict=True):
        names = loss_names([one])
        if "policy/loss" in names:
            names = ["ptx/loss"]
        gaps += [abs(one[name] - other[name]) / abs(one[name]) for name in names]
    return max(gaps)


def gradient_gap(run: Run, exact: Run) -> float:
    """Return the norm of the difference of the first gradients, relative to the norm."""
    one, other = exact.gradient(), run.gradient()
    return float(np.linalg.norm(one - other) / np.linalg.norm(one))


def same_tokens(run: Run, exact: Run) -> float:
    """Return the share of equal tokens in the responses of the first iteration."""
    pairs = list(zip(exact.seen[0]["responses"], run.seen[0]["responses"], strict=True))
    equal = sum(int((one[:n] == other[:n]).sum()) for one, other in pairs for n in [min(len(one), len(other))])
    return equal / sum(max(len(one), len(other)) for one, other in pairs)
