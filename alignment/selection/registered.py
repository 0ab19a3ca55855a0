"""The methods of selection that a user can name."""

from __future__ import annotations

from alignment.selection.answers import AtLeast, BestOfN, TopK
from alignment.selection.conditional import Conditional
from alignment.selection.method import Method
from alignment.selection.pairs import MaxMax, MaxMin, MaxMinPenalized, MaxRandom, RandomPair

METHODS: dict[str, type[Method]] = {
    "best_of_n": BestOfN,
    "top_k": TopK,
    "at_least": AtLeast,
    "conditional": Conditional,
    **{cls.NAME: cls for cls in (MaxMin, MaxRandom, MaxMax, RandomPair, MaxMinPenalized)},
}
PEERS = {"rs": "best_of_n", "raft": "best_of_n", "iter_dpo": "max_min", "csft": "conditional"}
"""Names of other suites (OpenRLHF's ``post_processor``) for these methods."""
