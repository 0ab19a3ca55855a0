"""Arguments of generation: sampling and length of responses."""

from __future__ import annotations

from dataclasses import dataclass

from alignment.arguments.keys.training import NO_EVALUATION
from alignment.fields import argument


@dataclass(frozen=True, kw_only=True)
class GenerationArguments:
    """How responses are sampled. Log-probs are those of the whole policy at ``temperature``, whatever the other keys
    leave of it; a run says at its start which of them restrict what is drawn.
    """

    temperature: float = argument(1.0, above=0)
    """Logits are divided by it, in sampling and in the log-probs of training alike."""
    top_p: float = argument(0.8, above=0, maximum=1)
    """Sample among the most likely tokens that reach this sum; 1: all. Log-probs stay those of all tokens."""
    top_k: int = argument(0, minimum=0)
    """Sample among this many most likely tokens; 0: all. Log-probs stay those of all tokens."""
    repetition_penalty: float = argument(1.0, above=0)
    """Divides positive and multiplies negative logits of tokens that occurred before; 1: off."""
    max_dec_len: int | None = argument(None, minimum=1, advice={"max_new_tokens": "give max_dec_len"})
    """Largest number of response tokens; null: what max_length leaves."""
    min_dec_len: int = argument(1, minimum=0, advice={"min_length": "give min_dec_len"})
    """Response tokens before a stop token may come."""
    stop_token_ids: tuple[int, ...] = argument((), minimum=0)
    """Token ids that end a response beside the tokenizer's end token."""
    eval_do_sample: bool = argument(
        True,
        inert_when=NO_EVALUATION,
        advice={"do_sample": "rollouts always sample; eval_do_sample sets it for evaluation"},
    )
    """Sample in evaluation too, as PaddleNLP does; false: greedy."""
