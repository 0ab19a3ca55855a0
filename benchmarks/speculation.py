"""Tokens a second of the fused engine with and without drafted tokens, on the same answers.

python benchmarks/speculation.py [--layers 8 --hidden 512] [--at_once 1 2 4 8] [--drafts 0 3 7] [--noise 0.02]

Every engine is asked twice with the same prompts and seed, and the second time is shown. Between the two the weights
move by ``noise`` of their standard deviation, as an epoch of updates moves them: some old answers no longer hold.
With 0 every draft of ``previous`` is right, which is the most that can be gained.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alignment.device.host import num_threads, prepare_host  # noqa: E402

prepare_host()

import numpy as np  # noqa: E402
import paddle  # noqa: E402

from alignment.architecture.decoder_config import DecoderConfig  # noqa: E402
from alignment.generation.engine import GenerationOptions  # noqa: E402
from alignment.generation.fused.fused_engine import FusedEngine  # noqa: E402
from alignment.generation.fused.fused_settings import FusedSettings  # noqa: E402
from alignment.models.decoder.decoder import CausalLM  # noqa: E402
from alignment.models.decoder.initialise import draw_weights  # noqa: E402


def build(options: argparse.Namespace) -> CausalLM:
    """Return a Llama with weights drawn large enough to have preferences."""
    heads = options.hidden // 64
    sizes = {"hidden_size": options.hidden, "intermediate_size": options.hidden * 8 // 3 // 64 * 64}
    sizes |= {"num_attention_heads": heads, "num_key_value_heads": heads, "num_hidden_layers": options.layers}
    shape = {"model_type": "llama", "vocab_size": options.vocab, "max_position_embeddings": 512, **sizes}
    model = CausalLM(DecoderConfig.from_dict(shape))
    draw_weights(model, seed=0, std=0.05)
    return model


def move(model: CausalLM, noise: float) -> None:
    """Add noise to every matrix, as an epoch of updates does."""
    generator = np.random.default_rng(1)
    for parameter in model.parameters():
        values = parameter.numpy()
        change = generator.standard_normal(values.shape).astype(np.float32) * values.std() * noise
        parameter.set_value(paddle.to_tensor(values + change))


def main() -> None:
    """Print one line for each setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in {"layers": 8, "hidden": 512, "vocab": 2048, "tokens": 96}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--at_once", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--drafts", type=int, nargs="+", default=[0, 3, 7])
    parser.add_argument("--noise", type=float, default=0.02)
    parser.add_argument("--temperature", type=float, default=0.3)
    options = parser.parse_args()
    model = build(options)
    count = sum(int(np.prod(parameter.shape)) for parameter in model.parameters())
    print(f"{count / 1e6:.0f}M parameters, {num_threads()} thread(s), temperature {options.temperature}", flush=True)
    first = {name: parameter.clone() for name, parameter in model.named_parameters()}
    move(model, options.noise)
    second = {name: parameter.clone() for name, parameter in model.named_parameters()}
    sampling = GenerationOptions(max_new_tokens=options.tokens, temperature=options.temperature)
    for slots in options.at_once:
        prompts = np.random.default_rng(0).integers(0, options.vocab, (slots, 32)).tolist()
        wanted = None
        for drafts in options.drafts:
            for method in ("ngram", "previous")[: 1 + (drafts > 0)]:
                how = {"speculative_tokens": drafts, "speculative_method": method}
                settings = FusedSettings(num_slots=slots, max_length=256, threads=num_threads(), **how)
                engine = FusedEngine(model, settings)
                seconds = []
                for weights in (first, second):
                    engine.load_weights(weights.items(), 0)
                    start = time.process_time()
                    found = engine.generate(prompts, sampling, seed=1, sequence_ids=range(slots))
                    seconds.append(time.process_time() - start)
                tokens, counts = [c.token_ids.tolist() for c in found], engine.counts
                wanted = wanted or tokens
                assert tokens == wanted, "drafts changed a token"
                print(
                    f"{slots:3} at once, {drafts} drafts {method if drafts else '':8}: "
                    f"{slots * options.tokens / seconds[1]:7.0f} tokens per CPU second, {counts.steps:4} passes, "
                    f"{counts.accepted} of {counts.drafted} drafts right",
                    flush=True,
                )


if __name__ == "__main__":
    main()
