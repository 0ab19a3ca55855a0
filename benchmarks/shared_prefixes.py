"""CPU time, tokens and exactness with ``share_prefixes`` on and off, in one process, in turns.

    python benchmarks/shared_prefixes.py [--model tiny] [--rounds 5] [--threads 1]

The workloads are those of a step without its optimizer: pairs (reference forward; policy forward and backward), a
reward model on the same pairs, and groups of 4 answers (policy, reference and reward forward; policy forward and
backward). Prompts are drawn at random, so nothing is shared by chance.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import paddle

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(1, str(ROOT))

from ppo_step_work import MODELS  # noqa: E402

from alignment.architecture.decoder_config import DecoderConfig  # noqa: E402
from alignment.models.decoder.decoder import CausalLM  # noqa: E402
from alignment.models.decoder.forest import PASSED, share_tokens  # noqa: E402
from alignment.models.decoder.initialise import draw_weights  # noqa: E402
from alignment.models.decoder.logprobs import policy_logprobs  # noqa: E402
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions  # noqa: E402
from alignment.ops.native.selection import native_ops_enabled, use_native_ops  # noqa: E402
from alignment.records import TokenBatch  # noqa: E402

SEED = 20261129


@dataclass(frozen=True)
class Workload:
    """Rows of one step, and what is done with them."""

    name: str
    prompts: int
    answers: int
    prompt: int
    answer: int
    families: int
    """Prompts per micro-batch."""
    learns: str
    """``policy`` or ``reward``."""
    forwards: tuple[str, ...]
    """Models that only read the rows."""

    def batches(self, vocab: int) -> list[TokenBatch]:
        """Return the micro-batches."""
        drawn = np.random.default_rng(SEED)
        batches = []
        for _ in range(self.prompts // self.families):
            rows = []
            for _ in range(self.families):
                prompt = drawn.integers(3, vocab, self.prompt)
                rows += [np.concatenate([prompt, drawn.integers(3, vocab, self.answer)]) for _ in range(self.answers)]
            batches.append(TokenBatch.build(rows, [np.arange(self.prompt, self.prompt + self.answer)] * len(rows)))
        return batches


WORKLOADS = (
    Workload("dpo", 64, 2, 256, 64, 8, "policy", ("reference",)),
    Workload("rm", 64, 2, 256, 64, 8, "reward", ()),
    Workload("grpo", 16, 4, 192, 96, 4, "policy", ("policy", "reference", "reward")),
)


def main() -> int:
    """Run all workloads; non-zero where losses or gradients differ."""
    options = parse_options()
    use_native_ops(True)
    assert native_ops_enabled(), "the compiled operators are needed"
    print("| workload | tokens off | tokens on | ratio | CPU s off | CPU s on | ratio | wall ratio | loss | gradient |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    agree = [run(work, options) for work in WORKLOADS if work.name in options.workloads]
    return 0 if all(agree) else 1


def parse_options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="tiny")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    names = [work.name for work in WORKLOADS]
    parser.add_argument("--workloads", nargs="+", choices=names, default=names)
    return parser.parse_args()


def run(work: Workload, options: argparse.Namespace) -> bool:
    """Print one row of the table; return whether both ways agree."""
    config = DecoderConfig.from_dict({"model_type": "llama", **MODELS[options.model]})
    models = {
        name: ScoreModel(config, ScoreOptions()) if name == "reward" else CausalLM(config)
        for name in {work.learns, *work.forwards}
    }
    for name, model in models.items():
        draw_weights(model, seed=len(name), std=0.05)
    batches = work.batches(config.vocab_size)
    measured: dict[bool, list[Step]] = {False: [], True: []}
    for _ in range(options.rounds + 1):
        for shares in (False, True):
            measured[shares].append(step(work, models, batches, shares=shares))
    off, on = (Step.middle(measured[shares][1:]) for shares in (False, True))
    loss = abs(on.loss - off.loss) / max(1.0, abs(off.loss))
    gradient = max(
        float(abs(a - b).max() / max(abs(b).max(), 1e-30)) for a, b in zip(on.gradients, off.gradients, strict=True)
    )
    print(
        f"| {work.name} | {off.tokens:,} | {on.tokens:,} | {on.tokens / off.tokens:.2f} | {off.cpu:.2f} | {on.cpu:.2f} "
        f"| {on.cpu / off.cpu:.2f} | {on.wall / off.wall:.2f} | {loss:.1e} | {gradient:.1e} |",
        flush=True,
    )
    return loss < 1e-6 and gradient < 1e-5


@dataclass(frozen=True)
class Step:
    """What a step took and found."""

    tokens: int
    cpu: float
    wall: float
    loss: float
    gradients: list[np.ndarray]

    @classmethod
    def middle(cls, steps: Sequence[Step]) -> Step:
        """Return a step with the median times."""
        times = (median(getattr(step, name) for step in steps) for name in ("cpu", "wall"))
        return cls(steps[0].tokens, *times, steps[0].loss, steps[0].gradients)


def step(work: Workload, models: dict[str, Any], batches: Sequence[TokenBatch], *, shares: bool) -> Step:
    """Run the step once."""
    share_tokens(shares)
    cpu, wall = time.process_time(), time.perf_counter()
    with paddle.no_grad():
        for name in work.forwards:
            for batch in batches:
                READ[name](models[name], batch)
    model, total = models[work.learns], 0.0
    for batch in batches:
        loss = LOSS[work.learns](READ[work.learns](model, batch), work, batch)
        loss.backward()
        total += float(loss)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    gradients = [parameter.grad.numpy().copy() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.clear_gradient()
    tokens = PASSED.computed or (1 + len(work.forwards)) * sum(int(batch.lengths.sum()) for batch in batches)
    return Step(tokens, cpu, wall, total, gradients)


def sums_of_rows(logprobs: paddle.Tensor, work: Workload, batch: TokenBatch) -> paddle.Tensor:
    """Return minus the mean of log sigmoid(0.1 (first answer - second)) over pairs of neighbouring rows."""
    sums = logprobs.reshape([batch.num_rows // 2, 2, work.answer]).sum(axis=-1)
    return -paddle.nn.functional.log_sigmoid(0.1 * (sums[:, 0] - sums[:, 1])).mean()


def differences(scores: paddle.Tensor, work: Workload, batch: TokenBatch) -> paddle.Tensor:
    """Return minus the mean of log sigmoid(first score - second)."""
    pairs = scores.reshape([-1, 2])
    return -paddle.nn.functional.log_sigmoid(pairs[:, 0] - pairs[:, 1]).mean()


def read_logprobs(model: CausalLM, batch: TokenBatch) -> paddle.Tensor:
    """Return the log-probs of all targets."""
    return policy_logprobs(model, batch, temperature=1.0, with_entropy=False)[0]


READ: dict[str, Callable[[Any, TokenBatch], paddle.Tensor]] = {
    "policy": read_logprobs,
    "reference": read_logprobs,
    "reward": lambda model, batch: model.read_end_scores(batch),
}
LOSS = {"policy": sums_of_rows, "reward": differences}


if __name__ == "__main__":
    sys.exit(main())
