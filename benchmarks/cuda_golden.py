"""Write tests/golden/cuda_*.npz: what the CPU kernels make of the cases in ``cuda_cases.py``.

    python benchmarks/cuda_golden.py

The device that the CUDA kernels are checked on need not have Paddle or the CPU kernels.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))

from cuda_cases import (  # noqa: E402
    FAMILIES,
    SAMPLINGS,
    VOCAB,
    checksum,
    draw_logits,
    draw_prompts,
    draw_weights,
    rotary_tables,
)
from cuda_checks import GOLDEN, sampler_marks, sampler_uniforms  # noqa: E402

from alignment.ops.native.library import CoreLibrary, Sampling, find_core  # noqa: E402

EVERY = 5
"""One row in so many is kept."""
SAMPLE_ROWS = 24


def decoder_records(core: CoreLibrary) -> dict[str, np.ndarray]:
    """Return ``rows``, and for each family its logits there and a checksum of what went in."""
    records: dict[str, np.ndarray] = {}
    for family, sizes in FAMILIES.items():
        prompts, weights = draw_prompts(sizes), draw_weights(sizes)
        model = core.create_model(sizes)
        for name, values in weights.items():
            model.set_weight(name, values.ctypes.data, dtype="float32", shape=values.shape)
        model.set_rotary(*rotary_tables(sizes))
        lengths = [len(tokens) for tokens in prompts.tokens]
        records["rows"] = np.arange(0, sum(lengths), EVERY)
        records[f"{family}.checksum"] = np.float64(checksum([*weights.values(), *prompts.tokens]))
        records[f"{family}.logits"] = model.forward(
            np.concatenate(prompts.tokens),
            np.repeat(prompts.slots, lengths),
            np.concatenate([np.arange(length) for length in lengths]),
            block_tables=prompts.block_tables,
            logit_rows=records["rows"],
            threads=1,
        )
        model.close()
    return records


def sampler_records(core: CoreLibrary) -> dict[str, np.ndarray]:
    """Return tokens and log-probs of every set of options, and a checksum of the logits."""
    vocab = VOCAB * 10
    logits, uniforms = draw_logits(SAMPLE_ROWS, vocab), sampler_uniforms(SAMPLE_ROWS)
    forbidden, marks = sampler_marks(SAMPLE_ROWS, vocab)
    records: dict[str, np.ndarray] = {"checksum": np.float64(checksum([logits]))}
    for name, options in SAMPLINGS.items():
        given = dict(options)
        stops = tuple(given.pop("stops", ()))
        sampling = Sampling(**({"usable_vocab": vocab} | given), stop_token_ids=stops)
        seen = marks if sampling.repetition_penalty != 1.0 else None
        tokens, logprobs = core.sample(logits, uniforms, sampling, forbid_stops=forbidden, seen=seen)
        records |= {f"{name}.tokens": tokens, f"{name}.logprobs": logprobs}
    return records


def main() -> None:
    """Write both files."""
    core, reason = find_core()
    if core is None:
        raise SystemExit(f"no CPU kernels: {reason}")
    np.savez_compressed(GOLDEN / "cuda_decoder.npz", **decoder_records(core))
    np.savez_compressed(GOLDEN / "cuda_sampler.npz", **sampler_records(core))


if __name__ == "__main__":
    main()
