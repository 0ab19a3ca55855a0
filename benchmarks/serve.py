"""Answers per second of ``alignment serve`` and of transformers' server, on the same weights in one run.

``python benchmarks/serve.py FOLDER --peer PYTHON`` writes a random Llama to FOLDER; PYTHON has torch and
transformers[serving]. Clients ask at the same time, each for one answer of a fixed length by the likeliest tokens, and
the texts should be equal. Servers take turns in every round. Wall time depends on what else the machine does; the
processor time of a server does not much. ``--other NAME=ADDRESS`` adds a server of the same folder that runs already
(of llama-cpp-python, for example), without its processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
from rollout_work import MODELS
from tokenizers import Tokenizer, models, pre_tokenizers

_TICKS = os.sysconf("SC_CLK_TCK")
_STARTED_SECONDS = 300


class Served(NamedTuple):
    """A server."""

    name: str
    address: str
    model: str
    process: int | None
    """None: it runs elsewhere."""


class Round(NamedTuple):
    """What a server did."""

    seconds: float
    processor_seconds: float
    tokens: int
    texts: list[str]


def write_model(folder: Path, size: str) -> None:
    """Write a random Llama with a tokenizer whose tokens are words; no token ends an answer soon."""
    from alignment.models.folders.hub import random_causal_lm
    from alignment.models.folders.saving import save_model
    from alignment.models.tokenizer.tokenizer import load_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    shape = {"model_type": "llama", "max_position_embeddings": 1024, "initializer_range": 0.05, **MODELS[size]}
    words = ["<unk>", "<s>", "</s>", *(f"w{number}" for number in range(shape["vocab_size"] - 3))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(words[:3])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, **special})
    )
    (folder / "config.json").write_text(json.dumps({**shape, "bos_token_id": 1, "eos_token_id": 2}))
    own = load_tokenizer(folder)
    save_model(folder / "model", random_causal_lm(folder / "config.json", seed=1, tokenizer=own), own)


@contextmanager
def start(name: str, command: Sequence[str], address: str, model: str, log: Path) -> Iterator[Served]:
    """Run a server until its end, from when it answers."""
    with log.open("w") as stream, subprocess.Popen(command, stdout=stream, stderr=stream) as process:
        try:
            end = time.monotonic() + _STARTED_SECONDS
            while not _answers(address):
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"{name} does not answer:\n{log.read_text()[-2000:]}")
                time.sleep(0.5)
            yield Served(name, address, model, process.pid)
        finally:
            process.terminate()


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/v1/models", timeout=30).status_code == 200
    except httpx.TransportError:
        return False


def ask_all(served: Served, prompts: Sequence[str], *, clients: int, tokens: int) -> Round:
    """Answer ``prompts`` for ``clients`` at once."""
    with httpx.Client(timeout=600, limits=httpx.Limits(max_connections=clients)) as client:

        def ask(prompt: str) -> tuple[str, int]:
            body = {"model": served.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
            answer = client.post(f"{served.address}/v1/completions", json=body).raise_for_status().json()
            return answer["choices"][0]["text"], answer["usage"]["completion_tokens"]

        before, begun = _processor_seconds(served), time.monotonic()
        with ThreadPoolExecutor(clients) as pool:
            answers = list(pool.map(ask, prompts))
        seconds = time.monotonic() - begun
    texts = [" ".join(re.findall(r"w\d+", text)) for text, _ in answers]
    return Round(seconds, _processor_seconds(served) - before, sum(count for _, count in answers), texts)


def _processor_seconds(served: Served) -> float:
    if served.process is None:
        return float("nan")
    fields = Path(f"/proc/{served.process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def report(rounds: dict[str, list[Round]]) -> str:
    """Return a table; ratios are to the first server."""
    lines = [
        "| server | tokens/s | tokens per processor second | ratio of ours: wall, processor |",
        "|---|---|---|---|",
    ]
    rates = {
        name: [statistics.median(one.tokens / time for one, time in zip(found, times, strict=True)) for times in kinds]
        for name, found in rounds.items()
        for kinds in [([one.seconds for one in found], [one.processor_seconds for one in found])]
    }
    ours = next(iter(rates.values()))
    for name, (wall, processor) in rates.items():
        lines.append(f"| {name} | {wall:.1f} | {processor:.1f} | {ours[0] / wall:.2f}, {ours[1] / processor:.2f} |")
    first = next(iter(rounds.values()))[0].texts
    for name, found in rounds.items():
        equal = sum(a == b for one in found for a, b in zip(first, one.texts, strict=True))
        lines.append(f"\n{name}: {equal} of {len(first) * len(found)} answers are those of the first server")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peer", help="Python with torch and transformers[serving]")
    parser.add_argument("--peer_options", default="", help="more options of the peer's server")
    parser.add_argument("--other", action="append", default=[], metavar="NAME=ADDRESS")
    parser.add_argument("--size", choices=MODELS, default="25m")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    write_model(options.folder, options.size)
    model = str(options.folder / "model")
    ours = [sys.executable, "-m", "alignment", "serve", "--policy", model, "--port", "8911", "--max_length", "256"]
    theirs = [options.peer, "-m", "transformers.cli.transformers", "serve", "--port", "8912", "--device", "cpu"]
    with ExitStack() as stack:
        enter = stack.enter_context
        servers = [enter(start("alignment", ours, "http://127.0.0.1:8911", model, options.folder / "ours.log"))]
        if options.peer:
            command = [*theirs, "--dtype", "float32", *options.peer_options.split()]
            servers.append(
                enter(start("transformers", command, "http://127.0.0.1:8912", model, options.folder / "peer.log"))
            )
        servers += [Served(*other.split("=", 1), model, None) for other in options.other]
        prompts = [f"w{3 * number} w{number} w{7 * number}" for number in range(1, options.clients + 1)]
        rounds: dict[str, list[Round]] = {served.name: [] for served in servers}
        for served in servers:
            ask_all(served, prompts[:1], clients=1, tokens=2)
        for _ in range(options.rounds):
            for served in servers:
                found = ask_all(served, prompts, clients=options.clients, tokens=options.tokens)
                rounds[served.name].append(found)
                shown = f"{found.seconds:.1f} s, {found.processor_seconds:.1f} processor seconds, {found.tokens} tokens"
                print(f"{served.name}: {shown}", file=sys.stderr, flush=True)
    print(report(rounds))


if __name__ == "__main__":
    main()
