"""The commands of other suites that are understood."""

from __future__ import annotations

import re
from collections.abc import Sequence

from alignment.arguments.peers.programs import (
    openrlhf,
    openrlhf_ppo,
    openrlhf_sampling,
    rlhflow,
    safe_rlhf,
    sheeprlhf,
    sheeprlhf_eval,
)
from alignment.arguments.peers.programs.program import Program

PROGRAMS: tuple[Program, ...] = (
    *openrlhf.PROGRAMS,
    *openrlhf_ppo.PROGRAMS,
    *openrlhf_sampling.PROGRAMS,
    *rlhflow.PROGRAMS,
    *safe_rlhf.PROGRAMS,
    *sheeprlhf.PROGRAMS,
    *sheeprlhf_eval.PROGRAMS,
)


def find_program(words: Sequence[str]) -> tuple[Program, int] | None:
    """Return the program that a command starts, and the number of the word after its name; None: it is none of them."""
    for place, word in enumerate(words):
        for program in PROGRAMS:
            after = place + 1
            if not re.fullmatch(program.pattern, word):
                continue
            if not program.first_word:
                return program, after
            if list(words[after : after + 1]) == [program.first_word]:
                return program, after + 1
    return None
