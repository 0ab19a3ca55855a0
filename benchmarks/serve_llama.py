"""The model of ``serve.py`` in llama.cpp's own server (of xllamacpp), or of llama_cpp_python's: ``KIND FOLDER PORT``.

The GGUF holds the same float32 weights and a tokenizer that makes a token of each word of the benchmark. Keys and
values have 16 bits, as is usual for both; requests run side by side in the first and one after the other in the second.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
from gguf_llama import write_gguf
from safetensors.numpy import load_file


def write_file(folder: Path) -> Path:
    """Write ``model.gguf`` beside the model; return its path."""
    model, path = folder / "model", folder / "model.gguf"
    config = json.loads((model / "config.json").read_text())
    weights = {name: np.ascontiguousarray(value, np.float32) for name, value in _read(model).items()}
    vocabulary = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    write_gguf(path, config, weights, "F32", words=sorted(vocabulary, key=vocabulary.__getitem__))
    return path


def _read(model: Path) -> dict[str, np.ndarray]:
    return {name: value for path in sorted(model.glob("*.safetensors")) for name, value in load_file(path).items()}


def run_own(path: Path, options: argparse.Namespace) -> None:
    """Serve until a signal with llama.cpp's server, which batches."""
    import xllamacpp

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    wanted = xllamacpp.CommonParams()
    wanted.model.path, wanted.port = str(path), options.port
    wanted.n_parallel, wanted.n_ctx = options.slots, options.slots * options.length
    wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = options.threads
    wanted.n_gpu_layers, wanted.fit_params = 0, False
    server = xllamacpp.Server(wanted)
    print(xllamacpp.__version__, xllamacpp.get_system_info(), server.listening_address, flush=True)
    signal.sigwait([signal.SIGTERM])
    os._exit(0)


def run_python(path: Path, options: argparse.Namespace) -> None:
    """Become the server of llama_cpp_python."""
    shape = ["--n_ctx", str(options.length), "--n_threads", str(options.threads), "--n_gpu_layers", "0"]
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(path), "--port", str(options.port), *shape]
    os.execv(sys.executable, command)


def main() -> None:
    """Write the file and serve it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("own", "python"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    run = run_own if options.kind == "own" else run_python
    run(write_file(options.folder), options)


if __name__ == "__main__":
    main()
