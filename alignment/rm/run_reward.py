"""Reward and cost models: python run_reward.py x_argument.json [--key value ...], alone or under the launcher."""

import sys
from pathlib import Path

# Running a script puts its own folder first on the path; the repository root must stand there instead.
sys.path[0] = str(Path(__file__).resolve().parents[2])

from alignment.device.host import prepare_host, require_packages  # noqa: E402

require_packages()
HOST = prepare_host()  # before the first import of Paddle, which reads these settings once

from alignment.runs.entry import GO_ON, run_entry  # noqa: E402
from alignment.trainers.registered import TRAINERS  # noqa: E402

if __name__ == "__main__":
    TRAINER = TRAINERS["rm"]
    run_entry(lambda parsed: TRAINER.train(parsed, host=HOST), go_on=GO_ON, read=TRAINER.parse)
