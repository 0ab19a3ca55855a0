"""Plots of a reward model: calibration, and score against response length.

Evaluations keep the numbers (``keep_scores``); the pictures are drawn when a report is written (``draw_kept_scores``).
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from alignment.errors import why_unreadable
from alignment.telemetry import log
from alignment.telemetry.files import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = "plots"
"""Where the plots of a run lie, in its output folder."""
KEPT_FILE = "held_out.npz"
"""The numbers that they are drawn from."""
CALIBRATION, SCORE_BY_LENGTH = "calibration.png", "score_by_length.png"
NUM_BINS = 10
DENSE_FROM = 1500
BETTER_COLOUR, WORSE_COLOUR, QUIET_COLOUR = "#2563c9", "#e07a2e", "#98a2b3"


def keep_scores(folder: Path, margins: np.ndarray, **by_length: np.ndarray) -> None:
    """Write what the plots in ``folder`` are drawn from.

    ``margins`` are those of ``bin_calibration``; ``by_length`` are ``scores``, ``lengths`` and ``chosen`` of
    ``plot_score_by_length``, or nothing.
    """
    content = io.BytesIO()
    np.savez(content, margins=margins, **by_length)
    replace_file(folder / KEPT_FILE, content.getvalue())


def draw_kept_scores(output_dir: Path, into: Path | None = None) -> None:
    """Draw the plots of the run in ``output_dir`` unless they are newer than the kept scores, or there are none.

    They are written to the folder ``into`` (None: where the plots of the run lie).
    """
    kept = output_dir / FOLDER / KEPT_FILE
    into = into or kept.parent
    if not kept.is_file():
        return
    try:
        with np.load(kept) as arrays:
            margins = arrays["margins"]
            by_length = [arrays[name] for name in ("scores", "lengths", "chosen") if name in arrays]
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
        log.warn(f"{kept} is left out of the report: {why_unreadable(error)}")
        return
    if _is_older(kept.with_name(CALIBRATION), kept):
        plot_calibration(margins, into / CALIBRATION)
    if by_length and _is_older(kept.with_name(SCORE_BY_LENGTH), kept):
        plot_score_by_length(*by_length, into / SCORE_BY_LENGTH)


def _is_older(picture: Path, kept: Path) -> bool:
    return not picture.is_file() or picture.stat().st_mtime_ns <= kept.stat().st_mtime_ns


class CalibrationBins(NamedTuple):
    """Pairs grouped by the reward model's confidence in k bins of equal width over [0.5, 1]."""

    edges: np.ndarray
    """[k + 1] confidence at the borders."""
    counts: np.ndarray
    """[k] int64, pairs in each bin."""
    confidence: np.ndarray
    """[k] mean confidence of each bin, NaN if it is empty."""
    accuracy: np.ndarray
    """[k] share of pairs ranked right, with ties counting one half; NaN if empty."""
    expected_error: float
    """Mean over pairs of |confidence - accuracy| of their bin (expected calibration error, Guo et al. 2017, eq. 3)."""


def bin_calibration(margins: np.ndarray, num_bins: int = NUM_BINS) -> CalibrationBins:
    """Return pairs grouped by confidence; ``margins`` [B] are scores of better minus scores of worse answers.

    Under the Bradley-Terry model sigma(|margin|) is the probability that the model gives to its own ranking, which is
    right if margin > 0.
    """
    margins = np.asarray(margins, np.float64).reshape(-1)
    margins = margins[np.isfinite(margins)]
    confidence = 1.0 / (1.0 + np.exp(-np.abs(margins)))
    right = np.where(margins > 0, 1.0, np.where(margins < 0, 0.0, 0.5))
    edges = np.linspace(0.5, 1.0, num_bins + 1)
    index = np.clip(np.digitize(confidence, edges) - 1, 0, num_bins - 1)
    counts = np.bincount(index, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(index, confidence, num_bins) / counts
        accuracy = np.bincount(index, right, num_bins) / counts
    gaps = np.nan_to_num(np.abs(mean_confidence - accuracy))
    return CalibrationBins(
        edges, counts, mean_confidence, accuracy, float((gaps * counts).sum() / max(1, counts.sum()))
    )


def plot_calibration(margins: np.ndarray, path: Path) -> Path:
    """Plot accuracy against confidence, and the number of pairs; ``margins`` [B] as in ``bin_calibration``."""
    bins = bin_calibration(margins)
    figure = _make_figure()
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1]})
    upper.plot([0.5, 1], [0.5, 1], color=QUIET_COLOUR, linestyle="--", linewidth=1, label="perfectly calibrated")
    filled = bins.counts > 0
    upper.plot(bins.confidence[filled], bins.accuracy[filled], "o-", color=BETTER_COLOUR, label="reward model")
    upper.set(ylabel="share of pairs ranked right", ylim=(min(0.4, *bins.accuracy[filled], 1.0) - 0.03, 1.03))
    upper.set_title(f"Calibration error {bins.expected_error:.3f} over {int(bins.counts.sum()):,} pairs", fontsize=11)
    upper.legend(frameon=False, loc="upper left")
    lower.bar(bins.edges[:-1], bins.counts, width=np.diff(bins.edges) * 0.92, align="edge", color=QUIET_COLOUR)
    lower.set(xlabel="predicted probability that the ranking is right, sigma(|margin|)", ylabel="pairs", xlim=(0.5, 1))
    return _save(figure, path)


def plot_score_by_length(scores: np.ndarray, lengths: np.ndarray, chosen: np.ndarray, path: Path) -> Path:
    """Plot score against response length, separately for better and worse answers.

    ``scores`` [N] float, ``lengths`` [N] tokens, ``chosen`` [N] bool, True for the better answer of a pair.
    """
    scores, lengths = np.asarray(scores, np.float64).reshape(-1), np.asarray(lengths, np.float64).reshape(-1)
    chosen = np.asarray(chosen, bool).reshape(-1)
    assert scores.shape == lengths.shape == chosen.shape, "scores, lengths and chosen need one entry per response"
    figure = _make_figure()
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    groups = (("better", chosen, BETTER_COLOUR), ("worse", ~chosen, WORSE_COLOUR))
    for axis, (name, members, colour) in zip(axes, groups, strict=True):
        _draw_group(axis, lengths[members], scores[members], colour)
        correlation = _correlation(lengths[members], scores[members])
        axis.set_title(f"{name} answers: correlation {correlation:+.2f}", fontsize=11)
        axis.set_xlabel("response length (tokens)")
    axes[0].set_ylabel("score")
    return _save(figure, path)


def _draw_group(axis: Axes, lengths: np.ndarray, scores: np.ndarray, colour: str) -> None:
    if lengths.size > DENSE_FROM:
        from matplotlib.colors import LinearSegmentedColormap

        shades = LinearSegmentedColormap.from_list("shades", ["#f2f5fa", colour])
        axis.hexbin(lengths, scores, gridsize=28, mincnt=1, bins="log", cmap=shades)
    else:
        axis.scatter(lengths, scores, s=14, alpha=0.45, color=colour, linewidths=0)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return Pearson's correlation, NaN if one side does not vary."""
    if first.size < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def _make_figure() -> Figure:
    """Return a figure made without pyplot's global state; matplotlib is imported late as it takes half a second."""
    from matplotlib.figure import Figure

    return Figure(figsize=(7.2, 4.8), dpi=130, layout="constrained")


def _save(figure: Figure, path: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.set_axisbelow(True)
    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image)
    replace_file(Path(path), image.getvalue())
    return Path(path)
