"""``make demo`` raises the true score that no model sees, and leaves what it promises."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import runs

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_demo_raises_the_true_score(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "alignment", "demo", "--seeds", "1", "--output_dir", str(tmp_path)],
        cwd=runs.ROOT,
        env=runs.environment(),
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    [outcome] = json.loads((tmp_path / "outcomes.json").read_text())
    assert outcome["scores"]["ppo"] > outcome["scores"]["sft"] + 0.2, outcome
    assert outcome["figures"]["reward model accuracy on held-out pairs"] > 0.8, outcome
    assert 0 < outcome["figures"]["KL to the SFT policy (nats per response)"] < 20, outcome
    assert (tmp_path / "exported-policy" / "model.safetensors").is_file()
    assert (tmp_path / "ppo" / "report.html").stat().st_size > 10_000
    for line in ("true score on held-out prompts, after ppo", "report", "exported policy"):
        assert line in done.stdout
