"""Answers to prompts from servers: the requests, and what is read from their answers."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignment.errors import ArgumentError, UserError, why_unreadable
from alignment.generation.engine import GenerationOptions
from alignment.runs.stages.server_arguments import ServerArguments
from alignment.runs.stages.server_pool import Nonsense, ServedModel, ServerPool
from alignment.telemetry import log

_REASONS = ("stop", "length")
_LARGEST = 1e30
"""Log-probs beyond are nonsense (NaN and infinities, too)."""
_PROMPTS_AHEAD = 2
"""Prompts that wait for a thread, in units of threads."""


class ServedPrompt(NamedTuple):
    """A prompt, its number among all, and how it is sent: token ids or a text."""

    number: int
    content: list[int] | str


class ServedAnswers:
    """Asks servers for ``count`` answers to each prompt.

    Servers of this suite get the seed and the place of the first answer among all, and give the answers of the local
    engine. Others get one request for each answer, with a seed made from seed and place.
    """

    def __init__(
        self, given: ServerArguments, options: GenerationOptions, *, count: int, seed: int, width: int
    ) -> None:
        """``width``: requests that each server gets at once."""
        self._options, self._count, self._seed = options, count, seed
        self._num_threads = width * len(given.addresses)
        self._pool = ServerPool(
            given.addresses,
            token=_read_token(given.server_token_file),
            timeout=given.server_timeout,
            retries=given.server_retries,
            width=width,
        )
        models = self._pool.find_models(given.server_model)
        self.is_ours = all(model.is_ours for model in models)
        """Whether all servers are this suite's."""
        self.names = sorted({model.name for model in models})
        self.tokenizers = {model.tokenizer for model in models if model.tokenizer is not None}
        """Fingerprints of the tokenizers, as far as they are known."""
        self.weights = _only_weights(models)
        """What tells the weights of this suite's servers from others; None: there are none, or they tell nothing."""
        if not self.is_ours:
            self._warn_of_extensions()

    def groups(self, prompts: Iterable[ServedPrompt]) -> Iterator[dict[str, list[Any]]]:
        """Yield the answers to each of ``prompts``, in their order."""
        waiting: deque[list[Future[dict[str, list[Any]]]]] = deque()
        pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="server")
        try:
            for prompt in prompts:
                waiting.append([pool.submit(self._ask, body) for body in self._bodies(prompt)])
                if sum(map(len, waiting)) > (1 + _PROMPTS_AHEAD) * self._num_threads:
                    yield _joined([future.result() for future in waiting.popleft()])
            while waiting:
                yield _joined([future.result() for future in waiting.popleft()])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            self._pool.close()

    def _bodies(self, prompt: ServedPrompt) -> list[dict[str, Any]]:
        """Return the requests for the answers to ``prompt``."""
        body, first = {"prompt": prompt.content, **self._sampling()}, prompt.number * self._count
        if self.is_ours:
            ours = {"n": self._count, "seed": self._seed, "sequence_id": first, "return_token_ids": True, "logprobs": 0}
            return [{**body, **ours}]
        return [
            {**body, "n": 1, "seed": derived_seed(self._seed, first + k), "logprobs": 1} for k in range(self._count)
        ]

    def _sampling(self) -> dict[str, Any]:
        options = self._options
        plain = {
            "max_tokens": options.max_new_tokens,
            "temperature": options.temperature if options.do_sample else 0,
            "top_p": options.top_p,
        }
        return {**plain, **self._extensions()}

    def _extensions(self) -> dict[str, Any]:
        """Return the options that OpenAI's interface lacks, as vLLM and this suite call them."""
        options = self._options
        given = {
            "top_k": options.top_k,
            "min_tokens": options.min_new_tokens,
            "repetition_penalty": options.repetition_penalty,
            "stop_token_ids": list(options.stop_token_ids) if self.is_ours else [],
        }
        return {key: value for key, value in given.items() if value not in (0, 1.0, [])}

    def _warn_of_extensions(self) -> None:
        if extensions := self._extensions():
            log.warn(
                f"{', '.join(extensions)}: not all servers are alignment serve, and whether another honours these "
                "keys is not known here"
            )

    def _ask(self, body: dict[str, Any]) -> dict[str, list[Any]]:
        return self._pool.complete(body, lambda found: self._read(found, body["n"]))

    def _read(self, found: Any, count: int) -> dict[str, list[Any]]:
        columns = read_choices(found, count)
        if self.is_ours and self.weights not in (None, found.get("system_fingerprint")):
            raise UserError(
                f"servers: an answer is from other weights ({found.get('system_fingerprint')}) than those served at "
                f"the start ({self.weights}); load the same again to continue, or --overwrite true to begin anew"
            )
        return columns


def derived_seed(seed: int, place: int) -> int:
    """Return a seed below 2^31 for the answer at ``place`` among all."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{place}".encode()).digest()[:4], "big") >> 1


def read_choices(found: Any, count: int) -> dict[str, list[Any]]:
    """Return the columns of ``count`` answers in a completion; Nonsense if they are not there."""
    choices = found.get("choices") if isinstance(found, dict) else None
    if not isinstance(choices, list) or len(choices) != count or not all(isinstance(one, dict) for one in choices):
        raise Nonsense(f"not {count} choices")
    numbers = [one.get("index", place) for place, one in enumerate(choices)]
    if not all(type(number) is int for number in numbers) or sorted(numbers) != list(range(count)):
        raise Nonsense(f"choices with the numbers {numbers}")
    choices = [choices[numbers.index(place)] for place in range(count)]
    for one in choices:
        if not isinstance(one.get("text"), str) or one.get("finish_reason") not in _REASONS:
            raise Nonsense("a choice without text, or without finish_reason stop or length")
    usage = _object(found, "usage").get("completion_tokens") if count == 1 else None
    return {
        "responses": [one["text"] for one in choices],
        "num_tokens": [_num_tokens(one, usage) for one in choices],
        "logprobs": [_logprob(one) for one in choices],
        "finish_reasons": [one["finish_reason"] for one in choices],
    }


def _num_tokens(choice: dict[str, Any], usage: Any) -> int:
    ids, logprobs = choice.get("token_ids"), _logprobs(choice)
    if isinstance(ids, list) or isinstance(logprobs, list):
        return len(ids if isinstance(ids, list) else logprobs)
    if type(usage) is not int or usage < 0:
        raise Nonsense("no number of tokens")
    return usage


def _logprob(choice: dict[str, Any]) -> float | None:
    """Return the sum of the log-probs; None if the server tells none."""
    found = _logprobs(choice)
    if found is None:
        return None
    if not isinstance(found, list) or not all(
        type(one) in (int, float) and -_LARGEST <= one <= _LARGEST for one in found
    ):
        raise Nonsense("log-probs that are no numbers")
    return float(np.asarray(found, np.float32).sum(dtype=np.float64))


def _logprobs(choice: dict[str, Any]) -> Any:
    """Return the log-probs of the tokens, in the form of completions or (llama.cpp) of chat; None: there are none."""
    told = _object(choice, "logprobs")
    content = told.get("content")
    if isinstance(content, list) and all(isinstance(one, dict) for one in content):
        return [one.get("logprob") for one in content]
    return told.get("token_logprobs")


def _object(found: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the object at ``key``; an empty one if there is none."""
    value = found.get(key) or {}
    if not isinstance(value, dict):
        raise Nonsense(f"{key} is no object")
    return value


def _only_weights(models: Sequence[ServedModel]) -> str | None:
    found = sorted({model.weights for model in models if model.weights is not None})
    if len(found) > 1:
        raise UserError(f"servers: they have different weights ({', '.join(found)}): all must serve one model")
    return found[0] if found else None


def _joined(groups: Sequence[dict[str, list[Any]]]) -> dict[str, list[Any]]:
    return {key: [value for group in groups for value in group[key]] for key in groups[0]}


def _read_token(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"server_token_file={path}: {why_unreadable(error)}") from error
