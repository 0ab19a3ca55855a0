"""Answers per second of ``alignment serve`` and of other servers, on the same float32 weights in one run.

``python benchmarks/serve.py FOLDER`` writes a random Llama to FOLDER. ``--peer PYTHON`` adds ``transformers serve``
(PYTHON has torch and transformers[serving]), ``--llama PYTHON`` llama.cpp's own server (xllamacpp, gguf, safetensors),
``--llama_cpp_python PYTHON`` that of llama-cpp-python[server] (also gguf, safetensors). Clients ask at the same time,
each for one answer of a fixed length by the likeliest tokens, and the texts should be equal. Servers take turns in
every round. Wall time depends on what else the machine does; the processor time of a server does not much.
``--other NAME=ADDRESS`` adds a server of the same folder that runs already, without its processor time.
"""

from __future__ import annotations

import argparse
import json
import logging
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
def start(served: Served, command: Sequence[str], environment: dict[str, str], log: Path) -> Iterator[Served]:
    """Run a server until its end, from when it answers."""
    with (
        log.open("w") as stream,
        subprocess.Popen(command, stdout=stream, stderr=stream, env=environment) as process,
    ):
        try:
            end = time.monotonic() + _STARTED_SECONDS
            while not _answers(served.address):
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"{served.name} does not answer:\n{log.read_text()[-2000:]}")
                time.sleep(0.5)
            yield served._replace(process=process.pid)
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
            if served.name == "llama_cpp_python":
                body["repeat_penalty"] = 1.0  # its default is 1.1
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
        "| server | tokens/s | tokens per processor second | ratio of ours: wall, processor | equal answers |",
        "|---|---|---|---|---|",
    ]
    ours, answers = next(iter(rounds.values())), next(iter(rounds.values()))[0].texts
    first = _rates(ours)
    for name, found in rounds.items():
        wall, processor = _rates(found)
        equal = sum(a == b for one in found for a, b in zip(answers, one.texts, strict=True))
        lines.append(
            f"| {name} | {wall:.1f} | {processor:.1f} | {first[0] / wall:.2f}, {first[1] / processor:.2f} "
            f"| {equal} of {len(answers) * len(found)} |"
        )
    return "\n".join(lines)


def _rates(found: list[Round]) -> tuple[float, float]:
    """Return medians of tokens a second and a processor second."""
    return (
        statistics.median(one.tokens / one.seconds for one in found),
        statistics.median(one.tokens / one.processor_seconds for one in found),
    )


def commands(options: argparse.Namespace, model: str) -> Iterator[tuple[str, int, list[str]]]:
    """Yield name, port and command of each server that is wanted."""
    slots, length, threads = str(max(options.clients)), str(options.max_length), str(options.threads)
    ours = [sys.executable, "-m", "alignment", "serve", "--policy", model, "--port", "8911"]
    yield "alignment", 8911, [*ours, "--max_length", length, "--num_slots", slots]
    if options.peer:
        command = [options.peer, "-m", "transformers.cli.transformers", "serve", "--port", "8912", "--device", "cpu"]
        yield "transformers", 8912, [*command, "--dtype", "float32", *options.peer_options.split()]
    script = str(Path(__file__).with_name("serve_llama.py"))
    kinds = [("llama.cpp", options.llama, "own", 8913), ("llama_cpp_python", options.llama_cpp_python, "python", 8914)]
    for name, python, kind, port in kinds:
        if python:
            shape = ["--slots", slots, "--length", length, "--threads", threads]
            yield name, port, [python, script, kind, str(options.folder), str(port), *shape]


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folder", type=Path)
    add("--peer", help="Python with torch and transformers[serving]")
    add("--peer_options", default="", help="more options of the peer's server")
    add("--llama", help="Python with xllamacpp, gguf and safetensors")
    add("--llama_cpp_python", help="Python with llama-cpp-python[server], gguf and safetensors")
    add("--other", action="append", default=[], metavar="NAME=ADDRESS")
    add("--size", choices=MODELS, default="25m")
    add("--clients", type=int, nargs="+", default=[16])
    add("--tokens", type=int, nargs="+", default=[64])
    add("--threads", type=int, default=1)
    add("--max_length", type=int, default=256, help="most tokens of a prompt and its answer")
    add("--rounds", type=int, default=3)
    add("--peer_tokens", type=int, default=2**30, help="most tokens a round of transformers, which takes long")
    return parser.parse_args()


def compare(servers: Sequence[Served], options: argparse.Namespace, clients: int, tokens: int) -> str:
    """Measure all servers for ``clients`` answers of ``tokens`` tokens; return the table."""
    prompts = [f" w{3 * number} w{number} w{7 * number}" for number in range(1, clients + 1)]
    rounds: dict[str, list[Round]] = {}
    for _ in range(options.rounds):
        for served in servers:
            if served.name == "transformers" and clients * tokens > options.peer_tokens:
                continue
            found = ask_all(served, prompts, clients=clients, tokens=tokens)
            rounds.setdefault(served.name, []).append(found)
            shown = f"{found.seconds:.1f} s, {found.processor_seconds:.2f} processor seconds, {found.tokens} tokens"
            print(f"{clients} x {tokens}, {served.name}: {shown}", file=sys.stderr, flush=True)
    return report(rounds)


def main() -> None:
    """Measure and print."""
    options = read_options()
    write_model(options.folder, options.size)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    model = str(options.folder / "model")
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
    with ExitStack() as stack:
        servers = []
        for name, port, command in commands(options, model):
            log, address = options.folder / f"{name}.log", f"http://127.0.0.1:{port}"
            servers.append(stack.enter_context(start(Served(name, address, model, None), command, environment, log)))
        servers += [Served(*other.split("=", 1), model, None) for other in options.other]
        for served in servers:
            ask_all(served, [" w3 w1 w7"], clients=1, tokens=2)
        for clients in options.clients:
            for tokens in options.tokens:
                print(f"\n{clients} clients, {tokens} tokens each, {options.threads} threads a server\n")
                print(compare(servers, options, clients, tokens), flush=True)


if __name__ == "__main__":
    main()
