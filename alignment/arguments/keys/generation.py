"""Arguments of generation: sampling and length of responses."""

from __future__ import annotations

from dataclasses import dataclass

from alignment.arguments.keys.training import NO_EVALUATION
from alignment.fields import argument, where


@dataclass(frozen=True, kw_only=True)
class GenerationArguments:
    """How responses are sampled. Log-probs are always those of the full policy at ``temperature``; a run says at its
    start which other keys restrict sampling.
    """

    temperature: float = argument(1.0, above=0)
    """Divides the logits, both in sampling and in the log-probs of training."""
    top_p: float = argument(0.8, above=0, maximum=1)
    """Sample from the most likely tokens up to this total probability; 1: all. Does not affect log-probs."""
    top_k: int = argument(0, minimum=0)
    """Sample from this many most likely tokens; 0: all. Does not affect log-probs."""
    repetition_penalty: float = argument(1.0, above=0)
    """Divides positive and multiplies negative logits of tokens that occurred before; 1: off."""
    max_dec_len: int | None = argument(None, minimum=1, advice={"max_new_tokens": "give max_dec_len"})
    """Maximum number of response tokens; null: what max_length leaves."""
    min_dec_len: int = argument(1, minimum=0, advice={"min_length": "give min_dec_len"})
    """Minimum number of response tokens before a stop token."""
    stop_token_ids: tuple[int, ...] = argument((), minimum=0)
    """Token ids that end a response, in addition to the tokenizer's end token."""
    eval_do_sample: bool = argument(
        True,
        inert_when=NO_EVALUATION,
        advice={"do_sample": "rollouts always sample; eval_do_sample sets it for evaluation"},
    )
    """Sample in evaluation too, as PaddleNLP does; false: greedy."""
    eval_greedy: bool = argument(False, inert_when=(NO_EVALUATION, where("eval_do_sample", False)))
    """Also give each held-out prompt a greedy answer, for the reward, the second judges and the alarm
    (docs/how-to/reward_hacking.md): eval/greedy_reward, eval/greedy_NAME.
    """

    @property
    def answers_twice(self) -> bool:
        """Whether evaluations answer greedily beside their samples."""
        return self.eval_greedy and self.eval_do_sample
