"""Drafted tokens on text that quotes its prompt, by a real model: CPU seconds with and without.

    python tools/real_model.py FOLDER
    python benchmarks/speculation_text.py FOLDER [--at_once 1 3] [--tokens 64] [--temperatures 0.3]

The answers to half of the prompts repeat text or code of the prompt, those to the others do not. Every engine is asked
twice, the second time with other random numbers, as in the second epoch of a run whose policy has hardly moved.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alignment.device.host import num_threads, prepare_host  # noqa: E402

prepare_host()

from alignment.generation.engine import GenerationOptions  # noqa: E402
from alignment.generation.fused.fused_engine import FusedEngine  # noqa: E402
from alignment.generation.fused.fused_settings import FusedSettings  # noqa: E402
from alignment.models.folders.hub import load_causal_lm  # noqa: E402
from alignment.models.tokenizer.tokenizer import load_tokenizer  # noqa: E402

HOW = {"none": (0, "ngram"), "auto ngram": ("auto", "ngram"), "auto previous": ("auto", "previous")}
TEXT = (
    "The old harbour of Linden was built in 1832 by a merchant named Conrad Veil. He wanted ships from the north to "
    "unload their timber close to his mill, and so he paid for the pier himself."
)
CODE = """def total_price(items, discount):
    total = 0
    for item in items:
        total += item.price * item.count
    return total * (1 - discount)"""
QUOTING = (
    f"Repeat this text word for word:\n{TEXT}",
    f"Rename the variable total to result in this function and show the whole function:\n{CODE}",
    f"Correct any mistakes in this text and return all of it:\n{TEXT}",
)
FREE = ("Write two sentences about autumn.", "Why is the sky blue?", "Tell me a short story about a horse.")


def main() -> None:
    """Print a row for each kind of prompt, temperature, number at once and kind of drafts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--at_once", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.3])
    options = parser.parse_args()
    tokenizer = load_tokenizer(options.folder)
    model = load_causal_lm(options.folder, dtype="float32", tokenizer=tokenizer)
    print(
        f"{num_threads()} thread(s)\n\n| prompts | temperature | at once | drafts | ask | CPU s | passes | accepted |"
    )
    print("|---|---|---|---|---|---|---|---|")
    engines = {}
    for slots in options.at_once:
        for name, (tokens, method) in HOW.items():
            how = {"speculative_tokens": tokens, "speculative_method": method, "threads": num_threads()}
            settings = FusedSettings(num_slots=slots, max_length=256, **how)
            engines[slots, name] = FusedEngine(model, settings)
    for kind, questions in {"quoting": QUOTING, "free": FREE}.items():
        prompts = [
            tokenizer.encode(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n", False)
            for question in questions
        ]
        for temperature in options.temperatures:
            sampling = GenerationOptions(
                max_new_tokens=options.tokens, temperature=temperature, stop_token_ids=(tokenizer.eos_token_id,)
            )
            wanted: dict[int, list] = {}
            for (slots, name), engine in engines.items():
                engine.load_weights(None, 0)
                for ask in (1, 2) if name != "auto ngram" else (1,):
                    start, ids = time.process_time(), range(100 * ask, 100 * ask + len(prompts))
                    found = engine.generate(prompts, sampling, seed=1, sequence_ids=ids)
                    spent, counts = time.process_time() - start, engine.counts
                    answers = [(c.token_ids.tolist(), c.logprobs.tobytes()) for c in found]
                    assert wanted.setdefault(ask, answers) == answers, "drafts changed a token"
                    print(
                        f"| {kind} | {temperature} | {slots} | {name} | {ask} | {spent:.1f} | {counts.steps} | "
                        f"{counts.accepted} of {counts.drafted} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
