"""Time the compiled training operators against their Paddle references, alone and in a whole model.

    python benchmarks/training_ops.py [--model 110m] [--rows 8] [--length 128] [--runs 9] [--write]

Each operator runs forward, and forward with backward; ``scoring`` is one forward pass of the model with log-probs and
entropies of the second half of every row, ``update`` the pass that also computes all gradients. Both sides take turns
in one process. The numbers are medians of process CPU time, which other work on the machine disturbs less than it does
the clock; below them stands what the matrix products of the model cost alone, which no operator here changes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))

from alignment.device.host import num_threads, prepare_host  # noqa: E402

HOST = prepare_host()  # before the first import of Paddle, which reads these settings once

import numpy as np  # noqa: E402
import paddle  # noqa: E402
from ppo_step_work import MODELS  # noqa: E402

from alignment.architecture.decoder_config import DecoderConfig  # noqa: E402
from alignment.models.decoder.decoder import CausalLM  # noqa: E402
from alignment.models.decoder.initialise import draw_weights  # noqa: E402
from alignment.models.decoder.logprobs import policy_logprobs  # noqa: E402
from alignment.ops.native.library import find_core  # noqa: E402
from alignment.ops.native.selection import use_native_ops  # noqa: E402
from alignment.ops.rms_norm import rms_norm  # noqa: E402
from alignment.ops.rotary_attention import RotaryAttention  # noqa: E402
from alignment.ops.swiglu import swiglu  # noqa: E402
from alignment.ops.token_logprobs import head_logprobs, token_entropy, token_logprobs  # noqa: E402
from alignment.records import TokenBatch  # noqa: E402


class Row(NamedTuple):
    """One measurement, milliseconds of CPU time."""

    work: str
    paddle: float
    compiled: float

    @property
    def ratio(self) -> float:
        """Compiled over Paddle."""
        return self.compiled / self.paddle


class Case(NamedTuple):
    """An operator on its inputs, which all get gradients."""

    name: str
    operator: Callable[..., tuple[paddle.Tensor, ...] | paddle.Tensor]
    inputs: list[paddle.Tensor]


def draw(*shape: int) -> paddle.Tensor:
    """Return normal numbers that want a gradient."""
    numbers = np.random.default_rng(len(shape)).standard_normal(shape, np.float32)
    return paddle.to_tensor(numbers, stop_gradient=False)


def list_cases(config: DecoderConfig, rows: int, length: int) -> list[Case]:
    """Return the operators in the sizes of one layer, and those behind the last one."""
    tokens, width, heads, dim = rows * length, config.hidden_size, config.num_attention_heads, config.head_dim
    kv_heads = config.num_key_value_heads
    targets = paddle.to_tensor(np.arange(tokens // 2) % config.vocab_size)

    def attend(q, k, v):
        plan = RotaryAttention(
            lengths=np.full(rows, length),
            positions=np.tile(np.arange(length), rows),
            frequencies=1e4 ** -(np.arange(0, dim, 2) / dim),
            scale=1.0,
            num_heads=heads,
            num_kv_heads=kv_heads,
            window=None,
            dtype=q.dtype,
        )
        return plan.attend(q, k, v)

    def head(hidden, weight):
        return head_logprobs(hidden, weight, targets, with_entropy=True)

    logits = draw(tokens // 2, config.vocab_size)
    return [
        Case("rotary attention", attend, [draw(tokens, n * dim) for n in (heads, kv_heads, kv_heads)]),
        Case("rms_norm", lambda x, w: rms_norm(x, w, 1e-6), [draw(tokens, width), draw(width)]),
        Case("swiglu", swiglu, [draw(tokens, config.intermediate_size) for _ in range(2)]),
        Case("token log-probs", lambda x: token_logprobs(x, targets), [logits]),
        Case("token entropy", token_entropy, [logits]),
        Case("head with log-probs and entropy", head, [draw(tokens // 2, width), draw(width, config.vocab_size)]),
    ]


def forward(case: Case) -> Callable[[], None]:
    """Return the forward pass alone."""

    def run() -> None:
        with paddle.no_grad():
            case.operator(*case.inputs)

    return run


def forward_backward(case: Case) -> Callable[[], None]:
    """Return forward and backward pass."""
    made = case.operator(*case.inputs)
    shapes = [out.shape for out in (made if isinstance(made, tuple) else (made,))]
    upstream = [paddle.ones(shape) for shape in shapes]

    def run() -> None:
        made = case.operator(*case.inputs)
        outputs = list(made) if isinstance(made, tuple) else [made]
        paddle.autograd.backward(outputs, upstream)
        for x in case.inputs:
            x.clear_gradient(set_to_zero=False)

    return run


def model_passes(config: DecoderConfig, rows: int, length: int) -> dict[str, Callable[[], None]]:
    """Return scoring and update of one micro-batch."""
    model = CausalLM(config)
    draw_weights(model, seed=1, std=0.02)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (rows, length))
    batch = TokenBatch.build(list(ids), [list(range(length // 2, length))] * rows)

    def score() -> None:
        with paddle.no_grad():
            policy_logprobs(model, batch, temperature=1.0, with_entropy=True)

    def update() -> None:
        logprobs, _ = policy_logprobs(model, batch, temperature=1.0, with_entropy=False)
        logprobs.mean().backward()
        model.clear_gradients(set_to_zero=False)

    return {"scoring": score, "update": update}


def product_seconds(config: DecoderConfig, rows: int, length: int) -> tuple[float, float]:
    """Return CPU seconds of the model's matrix products without attention: forward; forward and backward."""
    width, inner = config.hidden_size, config.intermediate_size
    keys = config.num_key_value_heads * config.head_dim
    in_layer = ((width, width, 2), (width, keys, 2), (width, inner, 2), (inner, width, 1))
    counts = [(rows * length, *shape, count * config.num_hidden_layers) for *shape, count in in_layer]
    counts.append((rows * length // 2, width, config.vocab_size, 1))
    once = twice = 0.0
    for tokens, inputs, outputs, count in counts:
        x, w, y = draw(tokens, inputs), draw(inputs, outputs), draw(tokens, outputs)
        with paddle.no_grad():
            kinds = [
                lambda x=x, w=w: paddle.matmul(x, w),
                lambda y=y, w=w: paddle.matmul(y, w, transpose_y=True),
                lambda x=x, y=y: paddle.matmul(x, y, transpose_x=True),
            ]
            seconds = [median(cpu_seconds(kind) for _ in range(5)) for kind in kinds]
        once += count * seconds[0]
        twice += count * sum(seconds)
    return once, twice


def cpu_seconds(work: Callable[[], None]) -> float:
    """Return the CPU time of this process for one run."""
    started = time.process_time()
    work()
    return time.process_time() - started


def compare(name: str, work: Callable[[], None], runs: int) -> Row:
    """Return medians of both sides, which take turns."""
    durations: dict[bool, list[float]] = {False: [], True: []}
    for run in range(runs + 1):
        for native, taken in durations.items():
            use_native_ops(native)
            seconds = cpu_seconds(work)
            if run > 0:
                taken.append(1e3 * seconds)
    use_native_ops(True)
    return Row(name, median(durations[False]), median(durations[True]))


def report(rows: list[Row], title: str, products: tuple[float, float]) -> str:
    """Return the table in Markdown."""
    lines = [title, "", "| work | Paddle ms | compiled ms | compiled / Paddle |", "|---|---|---|---|"]
    lines += [f"| {row.work} | {row.paddle:.2f} | {row.compiled:.2f} | {row.ratio:.2f} |" for row in rows]
    once, twice = (1e3 * seconds for seconds in products)
    lines += ["", f"Matrix products alone: {once:.0f} ms of scoring, {twice:.0f} ms of update, on either side."]
    lines += [f"CPU time of the process, medians of runs in turns. Host: {HOST}."]
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="110m", choices=sorted(MODELS))
    parser.add_argument("--rows", type=int, default=8, help="sequences of the micro-batch")
    parser.add_argument("--length", type=int, default=128, help="tokens of each")
    parser.add_argument("--runs", type=int, default=9, help="of each operator and side; a third of it for the model")
    parser.add_argument("--write", action="store_true", help="write the table and its numbers into results/")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    return parser.parse_args()


def main() -> None:
    """Measure, print and perhaps write."""
    args = parse()
    core, reason = find_core()
    if core is None:
        raise SystemExit(f"no kernel library: {reason}")
    config = DecoderConfig.from_dict(
        {"model_type": "llama", "max_position_embeddings": max(2048, args.length), **MODELS[args.model]}
    )
    rows = []
    for case in list_cases(config, args.rows, args.length):
        rows.append(compare(f"{case.name}, forward", forward(case), args.runs))
        rows.append(compare(f"{case.name}, forward + backward", forward_backward(case), args.runs))
    products = product_seconds(config, args.rows, args.length)
    for name, work in model_passes(config, args.rows, args.length).items():
        rows.append(compare(f"{args.model} {name}", work, max(3, args.runs // 3)))
    size = f"{args.model}, {args.rows} x {args.length} tokens"
    text = report(rows, f"# Training operators: {size}, {core.isa}, {num_threads()} thread(s)", products)
    print(text)
    if args.write:
        day = datetime.date.today().isoformat()
        path = args.results / f"{day}-training-ops-{args.model}-{args.rows}x{args.length}"
        path.with_suffix(".md").write_text(text, encoding="utf-8")
        numbers = {"products": products, "rows": [row._asdict() for row in rows]}
        path.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
