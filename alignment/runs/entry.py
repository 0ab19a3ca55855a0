"""Run a trainer or a command from the command line and turn errors into messages and exit statuses."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from alignment.errors import UserError
from alignment.parallel.comms.guard import leave_cause
from alignment.parallel.comms.leave import end_quietly, leave
from alignment.parallel.comms.stop_signals import Interrupted
from alignment.rollout.rewards.user_code import describe_failure

EXIT_FAULT = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
GO_ON = "continue with --resume_from_checkpoint true --overwrite_output_dir false"
"""How an interrupted run of a trainer is continued."""


def run_entry(
    compute: Callable[[Any], int | None], *, go_on: str = "", read: Callable[[Sequence[str]], Any] | None = None
) -> NoReturn:
    """Call ``compute(arguments)`` and exit with the status it returns (None: 0); ``go_on`` is told on Ctrl-C.

    ``read`` is called first, before Paddle is imported, so that a wrong argument is told at once; ``compute`` then gets
    what it returns.

    Exit with 2 and one message on a UserError, 1 and a traceback on a bug, 130 on Ctrl-C, 143 on SIGTERM.
    """
    status, together = 0, True
    try:
        given = sys.argv[1:] if read is None else read(sys.argv[1:])
        end_quietly()
        status = compute(given) or 0
    except UserError as error:
        leave_cause(error)
        print(f"error: {error}", file=sys.stderr, flush=True)
        status, together = EXIT_USER_ERROR, False
    except Exception as error:
        leave_cause(error)
        traceback.print_exc()
        status, together = EXIT_FAULT, False
    except Interrupted as stop:
        print(stop, file=sys.stderr, flush=True)
        status, together = stop.status, stop.agreed
    except KeyboardInterrupt:
        print("interrupted" + (go_on and f"; {go_on}"), file=sys.stderr, flush=True)
        status, together = EXIT_INTERRUPTED, False
    except SystemExit as leaving:
        if "--help" in sys.argv or "-h" in sys.argv:
            raise
        # User code, such as a dataset's, must not end a run as if it had finished.
        print(f"error: a call of exit ended the run: {describe_failure(leaving)}", file=sys.stderr, flush=True)
        status, together = EXIT_USER_ERROR, False
    leave(status, together=together)
