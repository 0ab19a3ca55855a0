"""The PPO step on ragged rows in torch and transformers, padded; see ``VARIANTS`` for the two ways.

Legend: N rows, T tokens of all responses, n rows of a micro-batch, S its width, t the response tokens in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from ppo_step_counted import call_rows
from ppo_step_flops import padded
from ppo_step_part import Part, pick
from ppo_step_torch import TorchSide
from ppo_step_work import MODELS
from transformers import GenerationConfig

VARIANTS = ("full", "response")
"""``full``: as TRL's PPO, prompts padded on the left and responses on the right to the longest of the rollout, rows in
order, logits of the whole width of the responses. ``response``: the fastest public way on a CPU; each micro-batch is
padded on the right to its own longest row (causal attention then needs no mask), rows sorted by length, and the head
reads the states before response tokens only. There is no packed attention for CPUs in transformers."""
ROWS_PER_CALL = 16
"""Rows of a call of ``generate``, whose keys and values are padded to its longest row."""


class Rows(NamedTuple):
    """A sampled rollout: N rows, the answers to a prompt are neighbours."""

    prompts: list[torch.Tensor]
    responses: list[torch.Tensor]


class MicroBatch(NamedTuple):
    """n padded rows."""

    ids: torch.Tensor
    """[n, S]"""
    mask: torch.Tensor | None
    """[n, S], 1 on real tokens; None: padding is on the right."""
    rows: torch.Tensor
    """[t] the row of the state that predicts each response token."""
    places: torch.Tensor
    """[t] its position."""
    targets: torch.Tensor
    """[t] the response tokens."""
    ends: torch.Tensor
    """[n] the position of the last token."""
    numbers: torch.Tensor
    """[n] which rows of the rollout these are."""
    cells: torch.Tensor
    """[t] which of the T response tokens these are."""
    width: int
    """Most response tokens of a row of the logits' grid."""


class RaggedTorchSide(TorchSide):
    """See ``ppo_step_worker.Side``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        lengths = self.work.response_lengths
        self._lengths, self._firsts = lengths, np.cumsum(lengths) - lengths
        self.part = Part(MODELS[self.work.model])

    def rollout(self, step: int) -> Rows:
        """Sample at temperature 1 from all tokens; a call of ``generate`` ends when all its rows have their length."""
        self.part.start()
        torch.manual_seed(self.work.seed + step)
        prompts = [torch.from_numpy(prompt) for prompt in self.work.prompts(step)]
        count = ROWS_PER_CALL // self.work.answers
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i])) if self._is_best else range(len(prompts))
        calls = [list(order)[first : first + count] for first in range(0, len(prompts), count)]
        counted = [call_rows(self.work, call) for call in calls]
        # Rows whose call is not measured keep drawn answers of their length.
        responses = {row: torch.from_numpy(response) for row, response in enumerate(self.work.fixed_responses())}
        for call in pick(calls, self.part.choose("rollout", counted, self.work.peer_batches)):
            responses.update(self._generate(prompts, call))
        return Rows(
            [prompts[i // self.work.answers] for i in range(self.work.num_rows)],
            [*map(responses.get, range(len(responses)))],
        )

    def _generate(self, prompts: Sequence[torch.Tensor], numbers: Sequence[int]) -> dict[int, torch.Tensor]:
        """Return by row the answers to the prompts with the given ``numbers``."""
        answers = self.work.answers
        rows = [number * answers + k for number in numbers for k in range(answers)]
        ids, mask = pad_left([prompts[number] for number in numbers])
        config = GenerationConfig(
            max_new_tokens=int(self._lengths[rows].max()),
            num_return_sequences=answers,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            eos_token_id=None,
            pad_token_id=0,
        )
        with torch.no_grad():
            found = self.policy.generate(ids, attention_mask=mask, generation_config=config)[:, ids.shape[1] :]
        return {row: new[: self._lengths[row]] for row, new in zip(rows, found, strict=True)}

    def fixed_rollout(self) -> Rows:
        """Return the fixed tokens."""
        prompts, answers = [torch.from_numpy(prompt) for prompt in self.work.prompts(0)], self.work.answers
        responses = [torch.from_numpy(response) for response in self.work.fixed_responses()]
        return Rows([prompts[i // answers] for i in range(len(responses))], responses)

    @property
    def _is_best(self) -> bool:
        return self.keep_response_only

    def _batches(self, rows: Rows) -> Iterator[MicroBatch]:
        """Yield the micro-batches of the variant in use."""
        sizes = [len(p) + len(r) for p, r in zip(*rows, strict=True)]
        order = np.argsort(sizes, kind="stable") if self._is_best else np.arange(len(sizes))
        longest = (max(map(len, rows.prompts)), max(map(len, rows.responses)))
        for numbers in np.split(order, range(self.work.rows_per_batch, len(order), self.work.rows_per_batch)):
            part = Rows(*([side[i] for i in numbers] for side in rows))
            yield self._right_padded(part, numbers) if self._is_best else self._both_padded(part, numbers, longest)

    def _right_padded(self, part: Rows, numbers: np.ndarray) -> MicroBatch:
        ids = torch.nn.utils.rnn.pad_sequence([torch.cat(row) for row in zip(*part, strict=True)], batch_first=True)
        return self._micro_batch(part, numbers, ids, None, [len(prompt) - 1 for prompt in part.prompts])

    def _both_padded(self, part: Rows, numbers: np.ndarray, longest: tuple[int, int]) -> MicroBatch:
        (left, left_mask), right = (
            pad_left(part.prompts, longest[0]),
            torch.zeros(len(numbers), longest[1], dtype=torch.long),
        )
        right_mask = torch.zeros_like(right)
        for row, response in enumerate(part.responses):
            right[row, : len(response)], right_mask[row, : len(response)] = response, 1
        ids, mask = torch.cat([left, right], 1), torch.cat([left_mask, right_mask], 1)
        return self._micro_batch(part, numbers, ids, mask, [longest[0] - 1] * len(numbers))

    def _micro_batch(
        self, part: Rows, numbers: np.ndarray, ids: torch.Tensor, mask: torch.Tensor | None, before: Sequence[int]
    ) -> MicroBatch:
        """``before``: the position of the state that predicts the first response token of each row."""
        lengths = [len(response) for response in part.responses]
        spans = [np.arange(length) for length in lengths]
        return MicroBatch(
            ids=ids,
            mask=mask,
            rows=torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)),
            places=torch.from_numpy(np.concatenate([first + span for first, span in zip(before, spans, strict=True)])),
            targets=torch.cat(part.responses),
            ends=torch.tensor(before) + torch.tensor(lengths),
            numbers=torch.from_numpy(numbers),
            cells=torch.from_numpy(
                np.concatenate([self._firsts[n] + span for n, span in zip(numbers, spans, strict=True)])
            ),
            width=ids.shape[1] - min(before) - 1,
        )

    def score(self, rows: Rows) -> dict[str, torch.Tensor]:
        """Return flat response tokens [T]: old and reference log-probs, entropies, values, advantages, returns; and
        scores [N].
        """
        names, found = ("old_logprobs", "entropy", "ref_logprobs", "values"), []
        scores = torch.full((self.work.num_rows,), torch.nan)
        flat = {name: torch.full((int(self._lengths.sum()),), torch.nan) for name in names}
        batches = self._measured_batches(rows)
        with torch.no_grad():
            for batch in batches:
                old, entropy = self._read(self.policy, batch, with_entropy=True)
                found = (old, entropy, self._read(self.reference, batch)[0], self._read_values(batch))
                for name, numbers in zip(names, found, strict=True):
                    flat[name][batch.cells] = numbers
                scores[batch.numbers] = self._read_scores(batch)
            scored = {**flat, "scores": scores}
            self._kept = batches
            return {**scored, **self._estimate(scored)}

    def _measured_batches(self, rows: Rows) -> list[MicroBatch]:
        batches = list(self._batches(rows))
        # Padded to the longest of the rollout, all have one shape: one stands for them.
        count = self.work.peer_batches if self._is_best else min(self.work.peer_batches, 1)
        counted = [padded([[(batch.ids.shape[1], 0)] * len(batch.ids)]) for batch in batches]
        for phase in ("scoring", "update"):
            chosen = self.part.choose(phase, counted, count)
        return pick(batches, chosen)

    def measured(self, scored: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
        """Return the arrays to compare; NaN where a micro-batch was not measured."""
        return {name: value.numpy() for name, value in scored.items()}

    def update(self, scored: dict[str, torch.Tensor]) -> dict[str, float]:
        """Update critic and policy once over all rows."""
        fields = {name: value for name, value in scored.items() if name != "scores"}
        parts = [{name: value[batch.cells] for name, value in fields.items()} for batch in self._kept]
        for batch, part in zip(self._kept, parts, strict=True):
            self._value_loss(self._read_values(batch), part).backward()
        with self.part.once("update"):
            critic = self._apply(self.critic)
        for batch, part in zip(self._kept, parts, strict=True):
            loss, metrics = self._policy_loss(self._read(self.policy, batch)[0], part)
            loss.backward()
            assert all(np.isfinite(value.item()) for value in metrics)
        with self.part.once("update"):
            policy = self._apply(self.policy)
        if self.work.peer_batches:  # of a part of the rows, which no one else computes
            return {}
        return {"critic_gradient_norm": critic, "policy_gradient_norm": policy}

    def _read(self, model, batch: MicroBatch, *, with_entropy: bool = False):
        """Return log-probs [t] and, if asked, entropies [t]."""
        if self._is_best:
            hidden = model.model(batch.ids, use_cache=False).last_hidden_state[batch.rows, batch.places]
            every = torch.log_softmax(model.lm_head(hidden), dim=-1)
            chosen = every.gather(-1, batch.targets.unsqueeze(-1)).squeeze(-1)
            return chosen, -(every.exp() * every).sum(-1) if with_entropy else None
        logits = model(batch.ids, use_cache=False, **_mask_options(batch)).logits[:, -batch.width - 1 : -1]
        every = torch.log_softmax(logits, dim=-1)
        chosen = every.gather(-1, batch.ids[:, -batch.width :].unsqueeze(-1)).squeeze(-1)
        entropy = -(every.exp() * every).sum(-1) if with_entropy else None
        cells = (batch.rows, batch.places - (batch.ids.shape[1] - batch.width - 1))
        return chosen[cells], None if entropy is None else entropy[cells]

    def _hidden(self, model, batch: MicroBatch) -> torch.Tensor:
        return model.model(batch.ids, use_cache=False, **_mask_options(batch)).last_hidden_state

    def _read_values(self, batch: MicroBatch) -> torch.Tensor:
        return self.critic.score(self._hidden(self.critic, batch)[batch.rows, batch.places]).squeeze(-1)

    def _read_scores(self, batch: MicroBatch) -> torch.Tensor:
        hidden = self._hidden(self.reward, batch)
        return self.reward.score(hidden[torch.arange(len(hidden)), batch.ends]).squeeze(-1)

    def _estimate(self, scored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return advantages and returns [T], estimated on a grid that is zero beyond the ends."""
        width = int(self._lengths.max())
        mask = torch.arange(width) < torch.from_numpy(self._lengths)[:, None]
        work, values = self.work, torch.zeros(mask.shape).masked_scatter(mask, scored["values"])
        penalties = -work.kl_coeff * (scored["old_logprobs"] - scored["ref_logprobs"])
        rewards = torch.zeros(mask.shape).masked_scatter(mask, penalties)
        rewards[torch.arange(len(mask)), self._lengths - 1] += scored["scores"].clamp(-work.clip_score, work.clip_score)
        last, columns = torch.zeros(len(mask)), []
        for t in reversed(range(width)):
            following = values[:, t + 1] if t + 1 < width else torch.zeros_like(last)
            last = rewards[:, t] + work.gamma * following - values[:, t] + work.gamma * work.gae_lambda * last
            last = last * mask[:, t]
            columns.append(last)
        advantages = torch.stack(columns[::-1], dim=1)[mask]
        return {"advantages": advantages, "returns": advantages + scored["values"]}

    @property
    def _num_tokens(self) -> int:
        return int(self._lengths.sum())


def pad_left(rows: Sequence[torch.Tensor], width: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (ids, mask) [n, S] of ``rows`` padded on the left to the longest, or to ``width``."""
    width = max(width, *map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :], mask[number, width - len(row) :] = row, 1
    return ids, mask


def _mask_options(batch: MicroBatch) -> dict[str, torch.Tensor]:
    """Return the mask and the positions of a batch that is padded on the left; nothing without a mask."""
    if batch.mask is None:
        return {}
    return {"attention_mask": batch.mask, "position_ids": (batch.mask.cumsum(1) - 1).clamp(min=0)}
