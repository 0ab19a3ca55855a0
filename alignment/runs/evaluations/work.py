"""What every task of an evaluation is to the stage that runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alignment.arguments.parsed import Parsed
from alignment.runs.evaluations.eval_arguments import EvalArguments


@dataclass
class EvalWork:
    """The part of ``stage.Work`` that all tasks share."""

    STAGE: ClassVar[str] = "eval"
    parsed: Parsed

    @property
    def given(self) -> EvalArguments:
        """See ``stage.Work``."""
        return self.parsed.eval
