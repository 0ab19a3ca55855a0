"""Calibration bins by hand, and pictures that exist."""

from __future__ import annotations

import math
import os
import time

import numpy as np
import pytest

from alignment.errors import UserError
from alignment.telemetry import plots
from alignment.telemetry.plots import (
    bin_calibration,
    draw_kept_scores,
    keep_scores,
    plot_calibration,
    plot_score_by_length,
)

PNG = b"\x89PNG\r\n"


def logit(probability):
    return math.log(probability / (1 - probability))


def test_bins_by_hand():
    margins = np.array([logit(0.72), logit(0.72), -logit(0.72), logit(0.72), logit(0.98), 0.0, np.nan])
    bins = bin_calibration(margins, num_bins=5)
    assert bins.edges == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert bins.counts.tolist() == [1, 0, 4, 0, 1]
    assert bins.confidence[[0, 2, 4]] == pytest.approx([0.5, 0.72, 0.98])
    assert bins.accuracy[[0, 2, 4]] == pytest.approx([0.5, 0.75, 1.0])
    assert np.isnan(bins.accuracy[[1, 3]]).all()
    assert bins.expected_error == pytest.approx((0 + 4 * 0.03 + 0.02) / 6)


def test_a_true_bradley_terry_model_is_calibrated():
    random = np.random.default_rng(0)
    confidence = random.uniform(0.5, 1.0, 20_000)
    right = random.uniform(size=confidence.size) < confidence
    margins = np.log(confidence / (1 - confidence)) * np.where(right, 1, -1)
    assert bin_calibration(margins).expected_error < 0.015
    assert bin_calibration(3 * margins).expected_error > 0.08


def test_certain_margins_fall_in_the_last_bin():
    with np.errstate(over="raise"):
        assert bin_calibration(np.array([1000.0, -1000.0])).counts.tolist() == [0] * 9 + [2]


@pytest.mark.parametrize("margins", [[1.0, -0.5, 0.2], [], [0.0]])
def test_calibration_picture(tmp_path, margins):
    path = plot_calibration(np.array(margins), tmp_path / "plots" / "calibration.png")
    assert path.read_bytes().startswith(PNG)


@pytest.mark.parametrize("count", [0, 2, 40, 4000])
def test_score_by_length_picture(tmp_path, count):
    random = np.random.default_rng(0)
    chosen = np.arange(count) % 2 == 0
    path = tmp_path / "score_by_length.png"
    plot_score_by_length(random.normal(size=count), random.integers(1, 50, count), chosen, path)
    assert path.read_bytes().startswith(PNG)


def test_disk_errors_name_the_file(tmp_path):
    (tmp_path / "plots").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*plots/a\.png"):
        plot_calibration(np.array([1.0]), tmp_path / "plots" / "a.png")


def test_the_bars_of_the_calibration_stand_in_their_bins(monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure) or path)
    margins = np.array([logit(0.72), logit(0.72), -logit(0.98)])
    plot_calibration(margins, tmp_path / "x.png")
    upper, lower = figures[0].axes
    bins = bin_calibration(margins)
    assert [bar.get_x() for bar in lower.patches] == pytest.approx(bins.edges[:-1])
    assert [bar.get_height() for bar in lower.patches] == bins.counts.tolist()
    perfect, model = upper.lines
    assert perfect.get_linestyle() == "--" and perfect.get_xydata().tolist() == [[0.5, 0.5], [1.0, 1.0]]
    assert model.get_ydata().tolist() == [1.0, 0.0]


@pytest.fixture
def drawn(monkeypatch):
    """Return the list of pictures that were drawn, each an empty file."""
    names = []

    def draw(*arrays):
        names.append((arrays[-1].name, [array.tolist() for array in arrays[:-1]]))
        arrays[-1].touch()
        later = time.time_ns() + 10**9  # times of files are coarse: both may be written in one tick
        os.utime(arrays[-1], ns=(later, later))

    for name in ("plot_calibration", "plot_score_by_length"):
        monkeypatch.setattr(plots, name, draw)
    return names


def test_kept_scores_are_drawn_once(tmp_path, drawn):
    draw_kept_scores(tmp_path)
    by_length = {"chosen": np.array([True]), "scores": np.array([2.0]), "lengths": np.ones(1)}
    keep_scores(tmp_path / "plots", np.array([1.0]), **by_length)
    draw_kept_scores(tmp_path)
    assert drawn == [("calibration.png", [[1.0]]), ("score_by_length.png", [[2.0], [1.0], [True]])]
    draw_kept_scores(tmp_path)
    assert len(drawn) == 2, "they are newer than the scores"
    keep_scores(tmp_path / "plots", np.array([3.0]))
    os.utime(tmp_path / "plots" / "held_out.npz", ns=(2 * 10**18, 2 * 10**18))
    draw_kept_scores(tmp_path)
    assert drawn[2:] == [("calibration.png", [[3.0]])]


def test_damaged_scores_are_left_out_with_a_line(tmp_path, drawn, caplog):
    keep_scores(tmp_path / "plots", np.array([1.0]))
    kept = tmp_path / "plots" / "held_out.npz"
    whole = kept.read_bytes()
    for content in (whole[: len(whole) // 2], b"", whole.replace(b"margins", b"another")):
        kept.write_bytes(content)
        draw_kept_scores(tmp_path)
    assert [message.split(": ")[0] for message in caplog.messages] == [f"{kept} is left out of the report"] * 3
    assert drawn == []
