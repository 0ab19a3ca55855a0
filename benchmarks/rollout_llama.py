"""The rollouts of ``rollout.py`` by llama.cpp (llama_cpp_python) with weights in f32, bf16 and q8_0."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from gguf_llama import write_gguf
from rollout_worker import Generate, Job, read_linear, serve


class LlamaSide:
    """A model and a context for as many sequences as were last asked for."""

    def __init__(self, path: Path, job: Job, *, exact: bool) -> None:
        """Load the file; ``exact``: attention, its keys and its values in float32, where the default has 16 bits."""
        self._exact = exact
        options = llama_cpp.llama_model_default_params()
        options.n_gpu_layers = 0
        self._job = job
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), options)
        if not self._model:
            raise RuntimeError(f"llama.cpp could not load {path.name}")
        self._vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._shape, self._context, self._batch = (0, 0), None, None

    def __call__(self, prompts: np.ndarray, limits: Sequence[int]) -> list[list[int]]:
        """Continue all rows side by side; a row that has its tokens is computed no more."""
        rows, length = prompts.shape
        self._make_room(rows, length)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)
        last = np.arange(length) == length - 1
        places = np.repeat(np.arange(rows), length)
        self._decode(prompts.ravel(), places, np.tile(np.arange(length), rows), np.tile(last, rows))
        answers: list[list[int]] = [[] for _ in range(rows)]
        going, outputs = np.arange(rows), np.flatnonzero(np.tile(last, rows))
        while True:
            for row, token in zip(going, self._likeliest(outputs), strict=True):
                answers[row].append(token)
            going = np.array([row for row in going if len(answers[row]) < limits[row]], np.int64)
            if not len(going):
                return answers
            known = np.array([len(answers[row]) for row in going])
            tokens = np.array([answers[row][-1] for row in going])
            self._decode(tokens, going, length + known - 1, np.ones(len(going), bool))
            outputs = np.arange(len(going))

    def _make_room(self, rows: int, length: int) -> None:
        if self._shape == (rows, length):
            return
        if self._context is not None:
            llama_cpp.llama_batch_free(self._batch)
            llama_cpp.llama_free(self._context)
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = rows * -(-self._job.room // 256) * 256
        options.n_batch = rows * length
        options.n_seq_max = rows
        options.kv_unified = False
        if self._exact:
            options.type_k = options.type_v = gguf.GGMLQuantizationType.F32
            options.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        options.n_threads = options.n_threads_batch = self._job.threads
        options.no_perf = True
        self._context = llama_cpp.llama_init_from_model(self._model, options)
        if not self._context:
            raise RuntimeError(f"llama.cpp could not make room for {rows} rows")
        self._batch = llama_cpp.llama_batch_init(rows * length, 0, 1)
        self._shape = (rows, length)

    def _decode(self, tokens: np.ndarray, rows: np.ndarray, positions: np.ndarray, wanted: np.ndarray) -> None:
        batch, size = self._batch, len(tokens)
        batch.n_tokens = size
        columns = ((batch.token, tokens), (batch.pos, positions), (batch.n_seq_id, 1), (batch.logits, wanted))
        for pointer, values in columns:
            np.ctypeslib.as_array(pointer, (size,))[:] = values
        for place, row in enumerate(rows.tolist()):
            batch.seq_id[place][0] = row
        status = llama_cpp.llama_decode(self._context, batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")

    def _likeliest(self, outputs: np.ndarray) -> Iterator[int]:
        for place in outputs.tolist():
            logits = llama_cpp.llama_get_logits_ith(self._context, place)
            yield int(np.ctypeslib.as_array(logits, (self._vocab,)).argmax())


@llama_cpp.llama_log_callback
def _stay_silent(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """Drop what llama.cpp has to say below errors."""
    if level >= 4:
        print(text.decode(errors="replace"), end="")


def prepare(job: Job) -> Callable[[str], Generate]:
    """Load the weights."""
    config, stored = job.read_work()
    weights = read_linear(stored)
    llama_cpp.llama_log_set(_stay_silent, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()

    def build(variant: str) -> Generate:
        path = Path(job.folder) / f"{variant}-{job.threads}.gguf"
        kind, _, exact = variant.partition(" ")
        write_gguf(path, config, weights, kind)
        return LlamaSide(path, job, exact=bool(exact))

    return build


if __name__ == "__main__":
    features = llama_cpp.llama_print_system_info().decode()
    serve({"llama_cpp_python": llama_cpp.__version__, "llama.cpp": features}, prepare)
