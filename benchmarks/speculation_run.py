"""CPU seconds of a PPO run's rollouts and evaluations with and without drafted tokens, on the same weights.

    python benchmarks/speculation_run.py SFT_POLICY REWARD_MODEL [--prompts 128] [--updates 128] [--slots 64 8]

Trains the demo's task on few prompts, so that there are several epochs. Whenever the run asks its engine for answers,
engines with other settings answer too, with the same weights, prompts and random numbers; all must give the same
tokens. The first epoch has no previous answers, so sums are shown for it and for the later ones apart.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))

from dataclasses import replace  # noqa: E402

from alignment.generation.fused.fused_engine import FusedEngine  # noqa: E402
from alignment.runs.on_policy import engines  # noqa: E402
from alignment.runs.on_policy.run import EVALUATION_SEED_OFFSET  # noqa: E402
from alignment.trainers.registered import TRAINERS  # noqa: E402

HOW = {"none": (0, "ngram"), "auto ngram": ("auto", "ngram"), "auto previous": ("auto", "previous")}
HOW |= {"3 previous": (3, "previous")}


class Watched:
    """The run's engine, which has engines with other settings answer too."""

    slots: tuple[int, ...] = ()
    epoch_calls = 1
    spent: dict[tuple, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0.0])
    """CPU seconds, passes, drafted and accepted tokens by (phase, slots, name)."""

    def __init__(self, model: Any, settings: Any, **options: Any) -> None:
        options.pop("previous")
        self._num_rollouts = 0
        self._others = {}
        for slots in self.slots:
            for name, (tokens, method) in HOW.items():
                how = {"num_slots": slots, "speculative_tokens": tokens, "speculative_method": method}
                self._others[slots, name] = FusedEngine(model, replace(settings, **how), **options)
        self.features = FusedEngine.features

    def load_weights(self, weights: Any, version: int) -> None:
        """Load all engines."""
        weights = None if weights is None else list(weights)
        for engine in self._others.values():
            engine.load_weights(weights, version)

    def generate(self, prompts: Any, options: Any, *, seed: int, sequence_ids: Any) -> Any:
        """Answer with all engines in turn and return the answers, which must be the same."""
        is_rollout = seed < EVALUATION_SEED_OFFSET
        epoch = "later epochs" if self._num_rollouts >= self.epoch_calls else "first epoch"
        phase = epoch if is_rollout else f"evaluation, {epoch}"
        self._num_rollouts += is_rollout
        wanted = None
        for (slots, name), engine in self._others.items():
            start = time.thread_time()
            found = engine.generate(prompts, options, seed=seed, sequence_ids=sequence_ids)
            counts = engine.counts
            sums = (time.thread_time() - start, counts.steps, counts.drafted, counts.accepted)
            kept = self.spent[phase, slots, name]
            kept[:] = [one + other for one, other in zip(kept, sums, strict=True)]
            answers = [(c.token_ids.tolist(), c.logprobs.tobytes()) for c in found]
            wanted = wanted or answers
            assert answers == wanted, "drafts changed a token"
        return found

    def release(self) -> None:
        """Nothing to free before the run ends."""


def main() -> None:
    """Train and print a row for each phase, number of slots and kind of drafts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path)
    parser.add_argument("reward", type=Path)
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--updates", type=int, default=128)
    parser.add_argument("--slots", type=int, nargs="+", default=[64, 8])
    parser.add_argument("--temperature", type=float, default=1.0)
    options = parser.parse_args()
    Watched.slots, Watched.epoch_calls = tuple(options.slots), options.prompts // 16
    engines.FusedEngine = Watched
    keys = json.loads((HERE.parent / "config" / "tiny" / "ppo_argument.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        keys |= {
            "actor_model_name_or_path": str(options.policy), "reward_model_name_or_path": str(options.reward),
            "train_datasets": f"packing-prompts/train:{options.prompts}/-1", "max_steps": options.updates,
            "temperature": options.temperature, "eval_steps": 32, "save_strategy": "no", "output_dir": folder,
            "eval_datasets": "packing-prompts/test:64/-1",
        }  # fmt: skip
        path = Path(folder) / "run.json"
        path.write_text(json.dumps(keys), encoding="utf-8")
        TRAINERS["ppo"].train([str(path)], host="benchmark")
    print("| phase | at once | drafts | CPU seconds | passes | drafts accepted |")
    print("|---|---|---|---|---|---|")
    for (phase, slots, name), (seconds, passes, drafted, accepted) in Watched.spent.items():
        print(f"| {phase} | {slots} | {name} | {seconds:.2f} | {passes:.0f} | {accepted:.0f} of {drafted:.0f} |")


if __name__ == "__main__":
    main()
