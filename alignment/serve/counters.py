"""ServerCounters of a server, as a page that Prometheus reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from threading import Lock

_HELP = {
    "requests_total": "Answered requests by path and status",
    "request_seconds_total": "Time from a request to the end of its answer, by path",
    "prompt_tokens_total": "Tokens of answered prompts",
    "generated_tokens_total": "Tokens of answers",
    "scored_answers_total": "Answers that were scored",
    "score_batches_total": "Calls of the reward model",
    "measured_answers_total": "Answers whose log-probs a reference told",
    "answers_running": "Answers being generated or waiting",
    "weights_version": "How often weights were loaded since the start, the first time not counted",
}


class ServerCounters:
    """Numbers by name and labels; several threads may add to them."""

    def __init__(self) -> None:
        self._values: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()
        self._gauges: dict[tuple[str, tuple[tuple[str, str], ...]], Callable[[], float]] = {}
        self._lock = Lock()

    def add(self, name: str, value: float = 1, **labels: str) -> None:
        """Add ``value``."""
        with self._lock:
            self._values[name, tuple(labels.items())] += value

    def watch(self, name: str, read: Callable[[], float], **labels: str) -> None:
        """Read the number when the page is asked for."""
        self._gauges[name, tuple(labels.items())] = read

    def page(self) -> str:
        """Return the text of the page."""
        with self._lock:
            values = dict(self._values)
        values |= {key: read() for key, read in self._gauges.items()}
        lines = []
        for name in _HELP:
            found = {labels: value for (other, labels), value in values.items() if other == name}
            if found:
                kind = "counter" if name.endswith("_total") else "gauge"
                lines += [f"# HELP alignment_{name} {_HELP[name]}", f"# TYPE alignment_{name} {kind}"]
                lines += [f"alignment_{name}{_shown(dict(labels))} {value:.10g}" for labels, value in found.items()]
        return "\n".join(lines) + "\n"


def _shown(labels: Mapping[str, str]) -> str:
    # JSON escapes quotes, backslashes and line breaks as this format does.
    return "{" + ",".join(f"{name}={json.dumps(text)}" for name, text in labels.items()) + "}" if labels else ""
