"""The PPO step of ``ppo_step.py`` in torch and transformers, as TRL and OpenRLHF write it.

Where ways differ, the fast one: log-probs from one ``log_softmax`` (cheaper on a CPU than the gather and ``logsumexp``
of TRL), the fused AdamW, no padding masks, no scores kept by ``generate``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from ppo_step_work import Work
from ppo_step_worker import serve
from torch.nn.utils import clip_grad_norm_
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GenerationConfig

VARIANTS = ("full", "response")
"""``full``: logits of every position, then those of the response; ``response``: ``logits_to_keep``."""


class TorchSide:
    """See ``ppo_step_worker.Side``. Tokens are [N, P + R]; N rows, P prompt, R response, V vocabulary."""

    def __init__(self, folder: Path) -> None:
        self.work = Work.read(folder)
        torch.set_num_threads(self.work.threads)
        policy, reference = (load_model(AutoModelForCausalLM, folder / "policy") for _ in range(2))
        critic, reward = (
            load_model(AutoModelForSequenceClassification, folder / name) for name in ("critic", "reward")
        )
        self.policy, self.critic = policy, critic
        self.reference, self.reward = reference.requires_grad_(False), reward.requires_grad_(False)
        self.optimizers = {
            model: torch.optim.AdamW(model.parameters(), lr=self.work.learning_rate, weight_decay=0.0, fused=True)
            for model in (policy, critic)
        }
        self.keep_response_only = False

    def use_variant(self, variant: str) -> None:
        """Choose one of ``VARIANTS``."""
        assert variant in VARIANTS, variant
        self.keep_response_only = variant == "response"

    def describe(self) -> dict[str, str]:
        """Return versions and settings."""
        return {"torch": torch.__version__, "transformers": transformers.__version__, "attention": "sdpa"}

    def rollout(self, step: int) -> torch.Tensor:
        """Return tokens [N, P + R] sampled at temperature 1 from all tokens."""
        torch.manual_seed(self.work.seed + step)
        prompts = torch.from_numpy(np.stack(self.work.prompts(step)))
        config = GenerationConfig(
            max_new_tokens=self.work.response_length,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            eos_token_id=None,
            pad_token_id=0,
        )
        with torch.no_grad():
            tokens = self.policy.generate(prompts, attention_mask=torch.ones_like(prompts), generation_config=config)
        assert tokens.shape[1] == self.work.prompt_length + self.work.response_length
        return tokens

    def fixed_rollout(self) -> torch.Tensor:
        """Return the fixed tokens [N, P + R]."""
        return torch.from_numpy(np.concatenate([self.work.prompts(0), self.work.fixed_responses()], axis=1))

    def score(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return tokens, old and reference log-probs, entropies, values, scores, advantages and returns."""
        parts = []
        with torch.no_grad():
            for rows in tokens.split(self.work.rows_per_batch):
                old, entropy = self._logprobs(self.policy, rows, with_entropy=True)
                reference, _ = self._logprobs(self.reference, rows)
                measured = (old, entropy, reference, self._values(self.critic, rows), self._score(rows))
                parts.append(measured)
            names = ("old_logprobs", "entropy", "ref_logprobs", "values", "scores")
            scored = dict(zip(names, map(torch.cat, zip(*parts, strict=True)), strict=True))
            return {"tokens": tokens, **scored, **self._advantages(scored)}

    def measured(self, scored: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
        """Return the arrays to compare."""
        return {name: value.numpy().reshape(-1) for name, value in scored.items() if name != "tokens"}

    def update(self, scored: dict[str, torch.Tensor]) -> dict[str, float]:
        """Update critic and policy once over all rows."""
        batches = [
            dict(zip(scored, rows, strict=True))
            for rows in zip(*(value.split(self.work.rows_per_batch) for value in scored.values()), strict=True)
        ]
        for batch in batches:
            self._value_loss(self._values(self.critic, batch["tokens"]), batch).backward()
        critic = self._apply(self.critic)
        for batch in batches:
            loss, metrics = self._policy_loss(self._logprobs(self.policy, batch["tokens"])[0], batch)
            loss.backward()
            assert all(np.isfinite(value.item()) for value in metrics)
        return {"critic_gradient_norm": critic, "policy_gradient_norm": self._apply(self.policy)}

    def _apply(self, model: torch.nn.Module) -> float:
        norm = clip_grad_norm_(model.parameters(), self.work.max_grad_norm)
        self.optimizers[model].step()
        self.optimizers[model].zero_grad()
        return norm.item()

    def _logprobs(self, model, tokens: torch.Tensor, *, with_entropy: bool = False):
        """Return log-probs [n, R] of the responses and, if asked, the entropies [n, R]."""
        length = self.work.response_length
        keep = length + 1 if self.keep_response_only else 0
        logits = model(tokens, use_cache=False, logits_to_keep=keep).logits[:, -length - 1 : -1]
        every = torch.log_softmax(logits, dim=-1)
        chosen = every.gather(-1, tokens[:, -length:].unsqueeze(-1)).squeeze(-1)
        return chosen, -(every.exp() * every).sum(-1) if with_entropy else None

    def _values(self, model, tokens: torch.Tensor) -> torch.Tensor:
        hidden = model.model(tokens, use_cache=False).last_hidden_state
        return model.score(hidden[:, -self.work.response_length - 1 : -1]).squeeze(-1)

    def _score(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.reward.score(self.reward.model(tokens, use_cache=False).last_hidden_state[:, -1]).squeeze(-1)

    def _advantages(self, scored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Generalised advantage estimation; rewards are the KL penalty and, on the last token, the score."""
        work, values = self.work, scored["values"]
        rewards = -work.kl_coeff * (scored["old_logprobs"] - scored["ref_logprobs"])
        rewards[:, -1] += scored["scores"].clamp(-work.clip_score, work.clip_score)
        last, columns = torch.zeros_like(values[:, 0]), []
        for t in reversed(range(values.shape[1])):
            following = values[:, t + 1] if t + 1 < values.shape[1] else torch.zeros_like(last)
            last = rewards[:, t] + work.gamma * following - values[:, t] + work.gamma * work.gae_lambda * last
            columns.append(last)
        advantages = torch.stack(columns[::-1], dim=1)
        return {"advantages": advantages, "returns": advantages + values}

    def _value_loss(self, values: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        old, returns = batch["values"], batch["returns"]
        clipped = old + (values - old).clamp(-self.work.clip_value, self.work.clip_value)
        losses = torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
        return 0.5 * losses.sum() / self._num_tokens

    def _policy_loss(
        self, logprobs: torch.Tensor, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        log_ratio, advantages = logprobs - batch["old_logprobs"], batch["advantages"]
        ratio, clip = log_ratio.exp(), self.work.clip_ratio
        clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)
        unclipped = -advantages * ratio
        with torch.no_grad():
            metrics = [(clipped > unclipped).float().mean(), ratio.mean(), ratio.max(), -log_ratio.mean()]
        return torch.maximum(unclipped, clipped).sum() / self._num_tokens, metrics

    @property
    def _num_tokens(self) -> int:
        return self.work.num_prompts * self.work.response_length


def load_model(kind, folder: Path):
    """Return the model of ``kind`` in ``folder``, without dropout."""
    extra = {} if kind is AutoModelForCausalLM else {"num_labels": 1}
    return kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa", **extra).eval()


if __name__ == "__main__":
    transformers.utils.logging.disable_progress_bar()
    folder = Path(sys.argv[1])
    if Work.read(folder).is_ragged:
        from ppo_step_torch_ragged import RaggedTorchSide

        serve(lambda: RaggedTorchSide(folder))
    else:
        serve(lambda: TorchSide(folder))
