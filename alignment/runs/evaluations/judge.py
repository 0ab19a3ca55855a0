"""Score answers with reward sources, leaving out what is too long for a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from alignment.arguments.parsed import Parsed
from alignment.arguments.rewards.entries import RewardEntry
from alignment.errors import ArgumentError, TooLongError
from alignment.models.config import read_config
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.models.tokenizer.trained_template import describe_template, template_warning
from alignment.runs.launch import prepare_device
from alignment.runs.stages.policy import choose_template
from alignment.runs.stages.scoring_sources import SourceBuilder, Texts, model_folder
from alignment.runs.stages.source_inputs import check_sources, source_contents

TOO_LONG = "too_long_for_the_reward_model"


class Compared(NamedTuple):
    """Answers to one prompt that are scored together."""

    prompt: Any
    responses: Sequence[str]
    label: str | None = None
    reasons: Sequence[str] | None = None
    """``stop`` or ``length`` for each response; None: all ended."""


class AnswerJudge:
    """The reward sources of an evaluation."""

    def __init__(self, parsed: Parsed, *, drops_overlong: bool) -> None:
        self._parsed = parsed
        self._drops = drops_overlong
        self._texts = Texts()
        self._scorer: Any = None

    def check(self) -> None:
        """ArgumentError for sources that cannot be used, such as a model whose training template is not at hand."""
        check_sources(self._parsed.sources)
        for entry in self._parsed.sources.entries:
            if entry.is_model and entry.template is None:
                _check_template(entry)

    def inputs(self) -> dict[str, Any]:
        """Return the contents of the sources."""
        return source_contents(self._parsed.sources, self._parsed.base_dir)

    def score(self, groups: Sequence[Compared]) -> list[np.ndarray | None]:
        """Return the rewards of the answers of each group [K]; None if one of them is too long for a model."""
        try:
            return self._score(groups)
        except TooLongError:
            if not self._drops:
                raise
            if len(groups) == 1:
                return [None]
        middle = len(groups) // 2
        return [*self.score(groups[:middle]), *self.score(groups[middle:])]

    def _score(self, groups: Sequence[Compared]) -> list[np.ndarray | None]:
        counts = [len(group.responses) for group in groups]
        rollout = self._texts.rollout(
            [group.prompt for group in groups for _ in group.responses],
            [text for group in groups for text in group.responses],
            [group.label for group in groups for _ in group.responses],
            np.repeat(np.arange(len(groups)), counts),
            [why for group in groups for why in group.reasons or ["stop"] * len(group.responses)],
        )
        scorer = self._open()
        rewards = np.asarray(scorer.normalize(scorer.score(rollout).columns), np.float64)
        return np.split(rewards, np.cumsum(counts)[:-1])

    def _open(self) -> Any:
        if self._scorer is None:
            device = prepare_device(self._parsed.eval.device)
            builder = SourceBuilder(self._parsed.sources, self._texts, device=device, base_dir=self._parsed.base_dir)
            self._scorer = builder.build()
        return self._scorer


def _check_template(entry: RewardEntry) -> None:
    folder = model_folder(entry)
    config, tokenizer = read_config(folder), load_tokenizer(folder)
    name = choose_template(config, tokenizer)
    problem = template_warning(str(folder), config, tokenizer, describe_template(name, tokenizer))
    if problem is not None:
        raise ArgumentError(
            f"reward_sources: {problem}. To score with another one all the same, give "
            f'{{"name": "{entry.name}", "template": ...}} (allowed: none, tokenizer, or a text with one {{}})'
        )
