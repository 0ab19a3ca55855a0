"""Tables and curves of ``learning.py``."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, median

import numpy as np
from learning_alarms import alarms
from learning_runs import Run, shown_point
from ppo_step_report import commit, cpu_name

PEERS = ("trl ppo", "trl grpo")
TARGET = 1 / 8
"""Share of TRL's CPU seconds in which ``recommended`` should reach TRL's final score."""
COLORS = {"ppo": "tab:blue", "grpo": "tab:orange", "rloo": "tab:green", "dpo": "tab:red"}


def write_results(runs: Sequence[Run], folder: Path) -> Path:
    """Write Markdown, JSON and curves into ``folder``; return the path of the first."""
    path = folder / f"{datetime.date.today()}-learning.md"
    lines = [f"# Learning against TRL, {datetime.date.today()}", "", f"{cpu_name()}, one thread, {commit()}.", ""]
    lines += [*finals(runs), "", *costs(runs), "", *summary(runs), "", *alarms(runs), ""]
    lines += [f"![curves]({path.stem}.svg)", ""]
    path.write_text("\n".join(lines), encoding="utf-8")
    kept = [run._replace(points=[shown_point(point) for point in run.points]) for run in runs]
    rows = [run._asdict() for run in kept]
    path.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    draw(runs, path.with_suffix(".svg"))
    return path


def group(runs: Sequence[Run]) -> Iterator[tuple[str, str, list[Run]]]:
    """Yield (task, arm, its runs)."""
    for task in dict.fromkeys(run.task for run in runs):
        for arm in sorted({run.arm for run in runs if run.task == task}, key=lambda a: (not a.startswith("trl"), a)):
            yield task, arm, [run for run in runs if (run.task, run.arm) == (task, arm)]


def finals(runs: Sequence[Run]) -> Iterator[str]:
    """Yield the table of the last points, means over the seeds."""
    yield "| task | run | seeds | true score: start | end, by seed | mean | greedy: start, end | CPU seconds | tokens |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for task, arm, same in group(runs):
        first, last = ([run.points[place] for run in same] for place in (0, -1))
        starts, ends, greedy, greedy_end = (
            [point[name] for point in points] for name in ("score", "greedy") for points in (first, last)
        )
        cpu, tokens = mean(p["cpu"] for p in last), mean(p["tokens"] for p in last)
        yield (
            f"| {task} | {arm} | {len(same)} | {mean(starts):.3f} | {' '.join(f'{end:.3f}' for end in ends)} | "
            f"{mean(ends):.3f} | {mean(greedy):.3f}, {mean(greedy_end):.3f} | {cpu:.1f} | {tokens:,.0f} |"
        )


def costs(runs: Sequence[Run]) -> Iterator[str]:
    """Yield the table of what it takes to reach the final score of TRL's run with the same task and seed."""
    yield "Share of TRL's CPU seconds and tokens at which a run reaches TRL's final true score with the same models, by"
    yield f"seed (target of `recommended`: {TARGET:.3f} of the CPU seconds of the same algorithm; -: never):"
    yield ""
    yield "| task | run | TRL PPO: CPU | tokens | TRL GRPO: CPU | tokens |"
    yield "|---|---|---|---|---|---|"
    for task, arm, same in group(runs):
        if not arm.startswith("trl"):
            cells = [
                " ".join(share(run, peer_of(runs, run, peer), what) for run in same)
                for peer in PEERS
                for what in ("cpu", "tokens")
            ]
            yield f"| {task} | {arm} | {' | '.join(cells)} |"


def summary(runs: Sequence[Run]) -> Iterator[str]:
    """Yield, for each arm, how often and at what share of CPU time it reached TRL's final score; its greedy score."""
    yield f"Only cases in which TRL ended above its start; within: in at most {TARGET:.3f} of its CPU seconds."
    yield ""
    yield (
        "| run | reached TRL PPO's final score, within | median share of its CPU | reached TRL GRPO's, within | "
        "median share | greedy: mean change, runs below the start |"
    )
    yield "|---|---|---|---|---|---|"
    for arm in sorted({run.arm for run in runs}):
        cells = []
        for peer in PEERS:
            pairs = [(run, peer_of(runs, run, peer)) for run in runs if run.arm == arm]
            risen = [(run, other) for run, other in pairs if other and other.scores[-1] > other.scores[0]]
            costs_found = [(run.cost_of(other.scores[-1], "cpu"), other.points[-1]["cpu"]) for run, other in risen]
            found = [cost / whole for cost, whole in costs_found if cost is not None]
            within = sum(one <= TARGET for one in found)
            cells += [f"{len(found)}, {within} of {len(risen)}", f"{median(found):.2f}" if found else "-"]
        greedy = [run.points[-1]["greedy"] - run.points[0]["greedy"] for run in runs if run.arm == arm]
        cells.append(f"{mean(greedy):+.3f}, {sum(change < 0 for change in greedy)} of {len(greedy)}")
        yield f"| {arm} | {' | '.join(cells)} |"


def peer_of(runs: Sequence[Run], run: Run, arm: str) -> Run | None:
    """Return TRL's run that ``run`` is compared with."""
    return next((one for one in runs if (one.arm, one.task, one.seed) == (arm, run.task, run.seed)), None)


def share(run: Run, peer: Run | None, what: str) -> str:
    """Return the cost of the peer's final score as a share of the peer's."""
    cost = None if peer is None else run.cost_of(peer.scores[-1], what)
    return "-" if cost is None else f"{cost / peer.points[-1][what]:.2f}"


def draw(runs: Sequence[Run], path: Path) -> None:
    """Draw the mean curves over the seeds, by CPU seconds and by tokens."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tasks = list(dict.fromkeys(run.task for run in runs))
    figure, axes = pyplot.subplots(2, len(tasks), figsize=(5 * len(tasks), 8), squeeze=False)
    for task, arm, same in group(runs):
        color = next(color for name, color in COLORS.items() if name in arm)
        style = ":" if arm.startswith("trl") else "-" if "recommended" in arm else "--" if "preset" in arm else "-."
        for row, what in enumerate(("cpu", "tokens")):
            if what == "tokens" and arm == "dpo":
                continue
            x, y = (np.mean([[p[name] for p in run.points] for run in same], axis=0) for name in (what, "score"))
            axes[row][tasks.index(task)].plot(x, y, style, color=color, label=arm)
    for row, label in enumerate(("CPU seconds of training", "generated tokens")):
        for task, axis in zip(tasks, axes[row], strict=True):
            axis.set(title=task, xlabel=label, ylabel="true score, held out")
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
