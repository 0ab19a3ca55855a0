"""The rollouts of ``rollout.py`` by the fused engine (float32, bfloat16, int8) and the eager engine of this package."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from alignment.device.host import prepare_host  # noqa: E402

HOST = prepare_host()  # before the first import of Paddle, which reads these settings once

import numpy as np  # noqa: E402
import paddle  # noqa: E402
from rollout_worker import Generate, Job, serve  # noqa: E402

from alignment.architecture.decoder_config import DecoderConfig  # noqa: E402
from alignment.generation.eager.eager_engine import EagerEngine  # noqa: E402
from alignment.generation.engine import GenerationOptions  # noqa: E402
from alignment.generation.fused.fused_engine import FusedEngine  # noqa: E402
from alignment.generation.fused.fused_settings import FusedSettings  # noqa: E402
from alignment.generation.fused.sequences import make_sequences  # noqa: E402
from alignment.models.decoder.decoder import CausalLM  # noqa: E402
from alignment.ops.native.library import load_core  # noqa: E402

KV_MEMORY = "3GiB"
"""Room for keys and values; only what is used becomes memory."""


class FusedSide:
    """Generates with continuous batching: rows that have ended make room for those that wait."""

    refills = True

    def __init__(self, model: CausalLM, job: Job, weight_type: str) -> None:
        """Pack the weights of ``model``; keys and values are float32 beside float32 weights, else bfloat16."""
        settings = FusedSettings(
            num_slots=job.slots,
            kv_memory=KV_MEMORY,
            max_length=job.room,
            weight_type=weight_type,
            kv_type="float32" if weight_type == "float32" else "bfloat16",
            threads=job.threads,
        )
        self._engine = FusedEngine(model, settings)
        self._engine.load_weights(None, 0)

    @property
    def bytes_read(self) -> int:
        """Bytes of matrices read by all passes so far, of the experts only those that were chosen."""
        return self._engine._packed.bytes_read

    def __call__(self, prompts: np.ndarray, limits: Sequence[int]) -> list[np.ndarray]:
        options = GenerationOptions(max_new_tokens=max(limits), do_sample=False)
        sequences = make_sequences(list(prompts), list(limits), sequence_ids=range(len(prompts)))
        return [answer.token_ids for answer in self._engine.run_sequences(sequences, options, seed=0)]


def prepare(job: Job) -> Callable[[str], Generate]:
    """Load the weights."""
    config, weights = job.read_work()
    model = CausalLM(DecoderConfig.from_dict(config))
    for name, parameter in model.named_parameters():
        parameter.set_value(weights[name])
    eager = EagerEngine(model)
    eager.load_weights(None, 0)

    def generate(prompts: np.ndarray, limits: Sequence[int]) -> list[np.ndarray]:
        options = GenerationOptions(max_new_tokens=max(limits), do_sample=False)
        answers = eager.generate(list(prompts), options, seed=0, sequence_ids=range(len(prompts)))
        return [answer.token_ids for answer in answers]

    return lambda variant: generate if variant == "eager" else FusedSide(model, job, variant)


if __name__ == "__main__":
    library = load_core()
    kernels = library.isa if library else "none"
    serve({"paddle": paddle.__version__, "host": HOST, "kernels": kernels}, prepare)
