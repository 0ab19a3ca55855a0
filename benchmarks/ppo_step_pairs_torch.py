"""One update of DPO or of a reward model in torch and transformers; see ``VARIANTS`` for the two ways.

Where ways differ, the fast one: log-probs from one ``log_softmax``, the fused AdamW, no gradient checkpointing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from ppo_step_counted import pair_rows
from ppo_step_pairs import START, Pair, PairWork
from ppo_step_part import Part, pick
from ppo_step_torch import load_model
from ppo_step_work import MODELS
from ppo_step_worker import serve
from torch.nn.functional import logsigmoid
from torch.nn.utils import clip_grad_norm_
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

VARIANTS = ("full", "response")
"""``full``: as TRL's trainers, both answers in one padded batch with a mask, pairs in order, logits of every position;
``response``: pairs sorted by length, no mask (padding is on the right), heads on the answers' tokens only."""


class TorchPairs:
    """n pairs are 2n rows: all better answers, then all worse ones."""

    def __init__(self, folder: Path) -> None:
        self.work = PairWork.read(folder)
        torch.set_num_threads(self.work.threads)
        is_reward = self.work.objective == "rm"
        kind = AutoModelForSequenceClassification if is_reward else AutoModelForCausalLM
        self.model = load_model(kind, folder / START[self.work.objective])
        self.reference = None if is_reward else load_model(kind, folder / "policy").requires_grad_(False)
        options = {"lr": self.work.learning_rate, "weight_decay": 0.0, "fused": True}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), **options)
        self.is_best = False
        self.part = Part(MODELS[self.work.model])

    def use_variant(self, variant: str) -> None:
        """Choose one of ``VARIANTS``."""
        assert variant in VARIANTS, variant
        self.is_best = variant == "response"

    def describe(self) -> dict[str, str]:
        """Return versions and settings."""
        return {"torch": torch.__version__, "transformers": transformers.__version__, "attention": "sdpa"}

    def step(self, number: int) -> dict[str, float]:
        """Make one update; return the loss and the gradient norm, if all micro-batches are measured."""
        self.part.start()
        total, batches = 0.0, list(self._divide(self.work.pairs(number)))
        counted = [pair_rows(pairs, is_causal=self.is_best) for pairs in batches]
        for pairs in pick(batches, self.part.choose("step", counted, self.work.peer_batches)):
            loss = (self._rewards if self.reference is None else self._preferences)(pairs) / self.work.num_pairs
            loss.backward()
            total += loss.item()
        with self.part.once("step"):
            norm = clip_grad_norm_(self.model.parameters(), self.work.max_grad_norm).item()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return {} if self.work.peer_batches else {"loss": [total], "gradient_norm": norm}

    def _divide(self, pairs: Sequence[Pair]) -> Iterator[Sequence[Pair]]:
        if self.is_best:
            pairs = sorted(pairs, key=lambda pair: max(len(pair.better), len(pair.worse)))
        for first in range(0, len(pairs), self.work.pairs_per_batch):
            yield pairs[first : first + self.work.pairs_per_batch]

    def _rows(self, pairs: Sequence[Pair]) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """Return (ids [2n, S] padded on the right, lengths [2n], the mask as an option of a model)."""
        rows = [torch.from_numpy(ids) for k in (1, 2) for ids in (_join(pair, k) for pair in pairs)]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([*map(len, rows)])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        return ids, lengths, {} if self.is_best else {"attention_mask": mask}

    def _rewards(self, pairs: Sequence[Pair]) -> torch.Tensor:
        ids, lengths, mask = self._rows(pairs)
        if self.is_best:
            hidden = self.model.model(ids, use_cache=False).last_hidden_state
            scores = self.model.score(hidden[torch.arange(len(ids)), lengths - 1]).squeeze(-1)
        else:
            scores = self.model(ids, use_cache=False, **mask).logits.squeeze(-1)
        better, worse = scores.chunk(2)
        return -logsigmoid(better - worse).sum()

    def _preferences(self, pairs: Sequence[Pair]) -> torch.Tensor:
        with torch.no_grad():
            reference = self._sums(self.reference, pairs)
        better, worse = (self._sums(self.model, pairs) - reference).chunk(2)
        return -logsigmoid(self.work.beta * (better - worse)).sum()

    def _sums(self, model, pairs: Sequence[Pair]) -> torch.Tensor:
        """Return the sum of the answer's log-probs of each row [2n]."""
        ids, lengths, mask = self._rows(pairs)
        places = torch.arange(1, ids.shape[1])
        is_target = (places >= self.work.prompt_length) & (places < lengths[:, None])
        targets = ids[:, 1:]
        if self.is_best:
            hidden = model.model(ids, use_cache=False).last_hidden_state[:, :-1][is_target]
            every = torch.log_softmax(model.lm_head(hidden), dim=-1)
            chosen = every.gather(-1, targets[is_target].unsqueeze(-1)).squeeze(-1)
            return torch.zeros(len(ids)).index_add(0, is_target.nonzero()[:, 0], chosen)
        every = torch.log_softmax(model(ids, use_cache=False, **mask).logits[:, :-1], dim=-1)
        return (every.gather(-1, targets.unsqueeze(-1)).squeeze(-1) * is_target).sum(-1)


def _join(pair: Pair, answer: int) -> np.ndarray:
    return np.concatenate([pair.prompt, pair[answer]])


if __name__ == "__main__":
    transformers.utils.logging.disable_progress_bar()
    serve(lambda: TorchPairs(Path(sys.argv[1])))
