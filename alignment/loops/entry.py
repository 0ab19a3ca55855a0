"""From the command line to a trainer and back: one message for what a user can put right."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from alignment.errors import UserError
from alignment.parallel.leave import end_quietly, leave

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def run_entry(train: Callable[[Sequence[str]], None]) -> None:
    """Call ``train(arguments)`` and exit: 0 when it ends, 2 with one message on a UserError, 130 on Ctrl-C."""
    end_quietly()
    status = 0
    try:
        train(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        status = EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted; continue with --resume_from_checkpoint true", file=sys.stderr, flush=True)
        status = EXIT_INTERRUPTED
    leave(status)
