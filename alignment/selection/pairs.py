"""Choose a pair of answers to each prompt. Which two is a choice of a name; the higher reward is ``chosen``.

The names are those of RLHFlow's Online-RLHF (``choose_type``). Two equal rewards or texts make no pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from alignment.fields import argument
from alignment.selection.method import IDENTICAL, TIED, Selected, require_responses
from alignment.selection.scored import Row, Scored

Two = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class _PairChoice:
    """Chooses two answers by ``_two``."""

    NAME: ClassVar[str]

    def select(self, prompts: Sequence[Scored]) -> Selected:
        """Return at most a row (``prompt``, ``chosen``, ``rejected``, ``margin``) for each prompt.

        ``margin`` is the difference of the rewards, above 0.
        """
        require_responses(prompts, 2, self.NAME)
        rows: list[Row] = []
        dropped: dict[str, list[int]] = {}
        for number, item in enumerate(prompts):
            one, other = self._two(item)
            if item.rewards[one] == item.rewards[other]:
                dropped.setdefault(TIED, []).append(number)
            elif item.responses[one] == item.responses[other]:
                dropped.setdefault(IDENTICAL, []).append(number)
            else:
                is_better = item.rewards[one] > item.rewards[other]
                rows.append(_row(item, *((one, other) if is_better else (other, one))))
        return Selected(rows, dropped)

    def _two(self, item: Scored) -> Two:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class MaxMin(_PairChoice):
    """The best answer against the worst, as in OpenRLHF's ``iter_dpo``."""

    NAME = "max_min"
    SUMMARY: ClassVar[str] = "the best answer against the worst"

    def _two(self, item: Scored) -> Two:
        return item.best, item.worst


@dataclass(frozen=True, kw_only=True)
class MaxRandom(_PairChoice):
    """The best answer against the first of the others, which sampling made as random as any."""

    NAME = "max_random"
    SUMMARY: ClassVar[str] = "the best answer against another one"

    def _two(self, item: Scored) -> Two:
        return item.best, int(item.best == 0)


@dataclass(frozen=True, kw_only=True)
class MaxMax(_PairChoice):
    """The best answer against the second best."""

    NAME = "max_max"
    SUMMARY: ClassVar[str] = "the best answer against the second best"

    def _two(self, item: Scored) -> Two:
        others = (index for index in range(len(item.rewards)) if index != item.best)
        return item.best, max(others, key=item.rewards.__getitem__)


@dataclass(frozen=True, kw_only=True)
class RandomPair(_PairChoice):
    """The first two answers, which sampling made as random as any."""

    NAME = "random"
    SUMMARY: ClassVar[str] = "the first two answers"

    def _two(self, item: Scored) -> Two:
        return 0, 1


@dataclass(frozen=True, kw_only=True)
class MaxMinPenalized(_PairChoice):
    """The best answer against the worst by rewards less a penalty on length.

    As in Online-RLHF, the penalty decides which two answers are compared, and their rewards without it which one is
    preferred.
    """

    NAME = "max_min_p"
    SUMMARY: ClassVar[str] = "the best answer against the worst, by rewards less a penalty on length"

    len_penalty: float = argument(minimum=0)
    """What a character of an answer costs."""

    def _two(self, item: Scored) -> Two:
        penalized = item._replace(
            rewards=tuple(
                reward - self.len_penalty * len(text) for reward, text in zip(item.rewards, item.responses, strict=True)
            )
        )
        return penalized.best, penalized.worst


def _row(item: Scored, chosen: int, rejected: int) -> Row:
    return {
        "prompt": item.prompt,
        **item.beside,
        "chosen": item.responses[chosen],
        "rejected": item.responses[rejected],
        "margin": item.rewards[chosen] - item.rewards[rejected],
    }
