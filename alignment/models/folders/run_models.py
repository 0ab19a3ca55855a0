"""The subfolders of a run's output, and of its checkpoints, that hold a model; works without Paddle."""

from __future__ import annotations

CRITIC_FOLDER = "value"
"""The name of a critic's folder in runs and checkpoints."""
CRITIC_FOLDERS = {"critic": CRITIC_FOLDER, "cost_critic": "cost_value"}
"""The folder of each critic of a run, by role."""
RUN_MODELS = ("policy", "reward", *CRITIC_FOLDERS.values())
"""All of them, in search order."""
