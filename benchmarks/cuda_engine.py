"""Build csrc/cuda on a machine with a GPU, check it, time it, and perhaps write a dated result.

    python benchmarks/cuda_engine.py [--write] [--models 110m 1b 8b] [--skip-times]
    python benchmarks/cuda_engine.py --engine [--write]  the fused engine first, and its times instead of the kernels'
    python benchmarks/cuda_engine.py --emulated          the checks only, on the host, without a GPU

Needs nvcc, cuBLASLt, torch and numpy; no Paddle. With --engine also g++, for the CPU's kernels. Exits with 1 when a
check fails; row invariance is reported, but is a property of the algorithms that cuBLASLt picks and fails nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))

import numpy as np  # noqa: E402
from cuda_cases import FAMILIES, draw_prompts  # noqa: E402
from cuda_checks import every_check, load  # noqa: E402
from cuda_decode import DecodeLoop  # noqa: E402
from cuda_library import CudaLibrary, Device, Host, build  # noqa: E402

MAY_FAIL = "row invariance"
LOOP_LENGTHS = (5, 250, 40)


def decode_tokens(library: CudaLibrary, *, graph: bool) -> np.ndarray:
    """Return what 30 sampled steps of three small sequences draw, perhaps from a replayed graph."""
    sizes = FAMILIES["llama"]
    prompts = draw_prompts(sizes, LOOP_LENGTHS)
    model = load(library, "llama")
    loop = DecodeLoop(model, np.arange(60).reshape(3, 20), options=dict(temperature=0.8, top_p=0.9), seed=3)
    loop.prefill(prompts.tokens, chunk=64)
    if not graph:
        return loop.tokens(30, longest=320)
    from cuda_timing import captured

    replay = captured(lambda: loop.step(longest=320))
    loop.begin([tokens[-1] for tokens in prompts.tokens], [len(tokens) - 1 for tokens in prompts.tokens])
    drawn = []
    for _ in range(30):
        replay()
        drawn.append(np.array(loop.sampler.result().tokens))
    return np.stack(drawn)


def check_graph(library: CudaLibrary) -> None:
    """Bits: a replayed graph draws what single calls draw."""
    assert np.array_equal(decode_tokens(library, graph=True), decode_tokens(library, graph=False))


def all_checks(library: CudaLibrary, *, on_device: bool) -> dict[str, Callable[[], None]]:
    """Return the checks of the kernels by name, each a function of nothing."""
    checks = every_check() | ({"graph": check_graph} if on_device else {})
    return {name: partial(check, library) for name, check in checks.items()}


def run_checks(checks: dict[str, Callable[[], None]]) -> dict[str, str]:
    """Return ``ok`` or what went wrong for every check."""
    results = {}
    for name, check in checks.items():
        try:
            check()
            results[name] = "ok"
        except Exception as error:  # noqa: BLE001
            results[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            if not isinstance(error, AssertionError):
                traceback.print_exc()
        print(f"{name}: {results[name]}", flush=True)
    return results


def run_times(library: CudaLibrary, args: argparse.Namespace) -> tuple[float, list[Any]]:
    """Return the measured bandwidth and all measurements."""
    import cuda_timing

    limit = cuda_timing.bandwidth()
    print(f"bandwidth {limit:.0f} GB/s", flush=True)
    rows = []
    for batch, context, group in (
        (1, 4096, 4),
        (8, 4096, 1),
        (8, 4096, 4),
        (32, 1024, 4),
        (32, 1024, 8),
        (1, 32768, 4),
    ):
        rows += cuda_timing.time_attention(library, batch, context, group, limit)
    for name in args.models:
        rows += cuda_timing.time_steps(library, name, args.batches, args.context, limit)
        rows += cuda_timing.time_transformers(name, args.batches, args.context, limit)
    return limit, rows


def run_engine_times(engines: Any, batches: list[int]) -> tuple[float, list[Any]]:
    """Return the measured bandwidth and the times of the fused engine."""
    import cuda_fused
    import cuda_timing
    from cuda_shapes import SIZES

    limit, rows = cuda_timing.bandwidth(), []
    for name in SIZES:
        for kind in ("bfloat16", "int8"):
            for batch in batches:
                for work, milliseconds, gigabytes in cuda_fused.time_engine(engines, name, batch, kind):
                    rows.append(cuda_timing.Row(work, milliseconds, gigabytes, gigabytes / milliseconds * 1e3 / limit))
                    print(f"{work}: {milliseconds:.3f} ms", flush=True)
    return limit, rows


def report(title: str, checks: dict[str, str], limit: float, rows: list[Any]) -> str:
    """Return the result in Markdown."""
    lines = [title, "", "| check | result |", "|---|---|", *(f"| {name} | {text} |" for name, text in checks.items())]
    if rows:
        lines += ["", f"Measured bandwidth: {limit:.0f} GB/s. bf16 weights and cache; steps are graph replays.", ""]
        lines += ["| work | ms | GB read | of the bandwidth |", "|---|---|---|---|"]
        lines += [f"| {r.work} | {r.milliseconds:.3f} | {r.gigabytes:.2f} | {100 * r.share:.0f} % |" for r in rows]
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emulated", action="store_true", help="check the kernels on an emulated device")
    parser.add_argument("--engine", action="store_true", help="check and time the fused engine, with torch for Paddle")
    parser.add_argument("--skip-kernels", action="store_true", help="no checks of the kernels alone")
    parser.add_argument("--skip-times", action="store_true")
    parser.add_argument("--models", nargs="+", default=["110m", "1b", "8b"], choices=["110m", "1b", "8b"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--write", action="store_true", help="write the result into results/")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    return parser.parse_args()


def main() -> int:
    """Build, check, time, print and perhaps write; 1 when a check failed."""
    args = parse()
    with tempfile.TemporaryDirectory() as folder:
        if args.emulated:
            path, name = build(Path(folder) / "libemulated.so", "--emulated"), "emulated"
            library = CudaLibrary(path, Host())
        else:
            import torch  # before the library: it brings cuBLASLt

            name = torch.cuda.get_device_name()
            path = build(Path(folder) / "libalignment_cuda.so")
            library = CudaLibrary(path, Device())
        checks, engines = {}, None
        if args.engine:
            import cuda_fused

            engines = cuda_fused.Engines(path, on_device=not args.emulated)
            checks |= cuda_fused.engine_checks(engines)
        if not args.skip_kernels:
            checks |= all_checks(library, on_device=not args.emulated)
        checks = run_checks(checks)
        limit, rows = 0.0, []
        if not args.emulated and not args.skip_times:
            limit, rows = run_engine_times(engines, args.batches) if args.engine else run_times(library, args)
    day = datetime.date.today().isoformat()
    text = report(f"# CUDA kernels on {name}, {day}", checks, limit, rows)
    print(text)
    if args.write:
        path = args.results / f"{day}-cuda-engine-{name.lower().replace(' ', '-')}"
        numbers = {"device": name, "checks": checks, "bandwidth": limit, "rows": [row._asdict() for row in rows]}
        path.with_suffix(".md").write_text(text, encoding="utf-8")
        path.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    failed = [check for check, result in checks.items() if result != "ok" and not check.startswith(MAY_FAIL)]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
