"""The figures of each round, read from what its stages wrote, and the report that compares the rounds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from alignment.rounds.prompts import read_rows
from alignment.telemetry.files import replace_file
from alignment.telemetry.report.page import write_report
from alignment.telemetry.report.tables import ReportTable

_NUM_SAMPLES = 40


def round_figures(place: Path) -> dict[str, float]:
    """Return the numbers of the round in the folder ``place``, of the stages that are done."""
    return {**_of_answers(place), **_of_evaluation(place)}


def _of_answers(place: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    if (place / "prompts.jsonl").exists():
        found["loop/prompts"] = float(len(read_rows(place / "prompts.jsonl")))
    if (place / "scored.jsonl").exists():
        rows = read_rows(place / "scored.jsonl")
        found["loop/answers_reward"] = fmean(reward for row in rows for reward in _values(row, "reward"))
    if (place / "chosen.jsonl").exists():
        rows = read_rows(place / "chosen.jsonl")
        found["loop/chosen_rows"] = float(len(rows))
        rewards = [row["reward"] for row in rows if "reward" in row]
        if rewards:
            found["loop/chosen_reward"] = fmean(rewards)
        margins = [row["margin"] for row in rows if "margin" in row]
        if margins:
            found["loop/margin"] = fmean(margins)
    if (place / "ledger.json").exists():
        account = json.loads((place / "ledger.json").read_text(encoding="utf-8"))
        found["loop/dropped_prompts"] = float(sum(row["count"] for row in account["rows"]))
    return found


def _of_evaluation(place: Path) -> dict[str, float]:
    if not (place / "judged.jsonl").exists():
        return {}
    rows = read_rows(place / "judged.jsonl")
    sources = sorted({key.removeprefix("rewards_") for row in rows for key in row if key.startswith("rewards_")})
    sampled = [row for row in rows if row["decoding"] == "sampled"]
    greedy = [row for row in rows if row["decoding"] == "greedy"]
    ends = [reason == "stop" for row in sampled for reason in row["finish_reasons"]]
    found = {
        "eval/reward": _mean(sampled, "reward"),
        "eval/mean_generated_length": fmean(count for row in sampled for count in row["num_tokens"]),
        "eval/ended_share": fmean(ends),
        **{f"eval/{source}": _mean(sampled, f"reward_{source}") for source in sources},
    }
    if greedy:
        found["eval/greedy_reward"] = _mean(greedy, "reward")
        found |= {f"eval/greedy_{source}": _mean(greedy, f"reward_{source}") for source in sources}
    return found


def _mean(rows: Iterable[Mapping[str, Any]], name: str) -> float:
    return fmean(value for row in rows for value in _values(row, name))


def _values(row: Mapping[str, Any], name: str) -> list[float]:
    """Return the rewards of a row: a list (``rewards``, ``rewards_NAME``), or that of its one answer."""
    many = name.replace("reward", "rewards", 1)
    return row[many] if many in row else [row[name]]


def write_loop_report(folder: Path, rounds: int, settings: Mapping[str, Any]) -> Path:
    """Write ``report.html`` of the loop, with a step for each round, and the files that it is made from."""
    figures = {number: round_figures(folder / f"round-{number}") for number in range(rounds + 1)}
    figures = {number: found for number, found in figures.items() if found}
    _write_lines(folder / "metrics.jsonl", [{"step": number, **found} for number, found in figures.items()])
    _write_lines(folder / "samples.jsonl", [row for number in figures for row in _samples(folder, number)])
    replace_file(folder / "ledger.json", json.dumps(_ledgers(folder, figures), indent=1))
    replace_file(folder / "arguments.json", json.dumps(dict(settings), indent=1))
    names = list(dict.fromkeys(name for found in figures.values() for name in found))
    summary = {name: _ends(name, figures) for name in names if name.startswith("eval/")}
    return write_report(
        folder,
        title=f"Loop: {folder.name}",
        summary={name: ends for name, ends in summary.items() if ends is not None},
        tables=[compare_rounds(figures)],
    )


def compare_rounds(figures: Mapping[int, Mapping[str, float]]) -> ReportTable:
    """Return a row for each round with its figures; a figure that a round lacks is empty."""
    names = list(dict.fromkeys(name for found in figures.values() for name in found))
    ranked = sorted(names, key=lambda name: (not name.startswith("eval/"), names.index(name)))
    rows = [[number, *(found.get(name) for name in ranked)] for number, found in figures.items()]
    lead = "Held-out figures of the model after each round (0: the initial one), and what the round was trained on."
    return ReportTable("Rounds", lead, ["round", *ranked], rows)


def _ends(name: str, figures: Mapping[int, Mapping[str, float]]) -> Any:
    values = [found[name] for found in figures.values() if name in found]
    return (values[0], values[-1]) if len(values) > 1 else values[0] if values else None


def _samples(folder: Path, number: int) -> list[dict[str, Any]]:
    """Return the likeliest answers (else the first sampled ones) to the first held-out prompts."""
    path = folder / f"round-{number}" / "judged.jsonl"
    rows = read_rows(path) if path.exists() else []
    greedy = [row for row in rows if row["decoding"] == "greedy"]
    return [
        {"step": number, "prompt": _text(row["prompt"]), "response": row["responses"][0], "score": row["rewards"][0]}
        for row in (greedy or rows)[:_NUM_SAMPLES]
    ]


def _text(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(turn if isinstance(turn, str) else str(turn.get("content", turn)) for turn in prompt)


def _ledgers(folder: Path, numbers: Iterable[int]) -> dict[str, Any]:
    paths = {f"round {number}": folder / f"round-{number}" / "ledger.json" for number in numbers}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    replace_file(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
