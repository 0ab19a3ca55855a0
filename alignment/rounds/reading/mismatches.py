"""Find where a stage of a recipe cannot use what another makes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from alignment.errors import UserError
from alignment.rounds.reading.loop_arguments import LoopArguments
from alignment.rounds.reading.training_keys import Training
from alignment.selection.scored import Scored

if TYPE_CHECKING:
    from alignment.rounds.reading.recipe import LoopRecipe


def find_choices(loop: LoopArguments, training: Training) -> Iterator[str]:
    """Yield what is wrong with the choice of reference and critic."""
    name = training.trainer.name
    if training.trainer.models[0] != "policy":
        yield f"train: {name} trains no policy, so that no model would answer in the next round"
    yield from _check_choice("reference", loop.reference, name, is_there=training.has_reference)
    yield from _check_choice("critic", loop.critic, name, is_there=training.has_critic)
    is_start = training.has_reference and training.reference_key is None
    if is_start and loop.reference is not None and loop.reference != loop.train_from:
        yield (
            f"reference={loop.reference}: the reference of {name} is the model that a round starts from, so it must be "
            f"that of train_from={loop.train_from}"
        )
    if training.keys.parsed.as_dict().get("lora"):
        yield "train: lora=true leaves an adapter, and a round starts from a whole model: train whole weights"


def _check_choice(key: str, value: str | None, trainer: str, *, is_there: bool) -> Iterator[str]:
    if is_there and value is None:
        yield f"missing argument {key!r}: {trainer} has one; initial: it is fixed, previous: it moves with each round"
    if not is_there and value is not None:
        yield f"{key}={value}: {trainer} with these keys has none; leave it out"


def find_mismatches(recipe: LoopRecipe) -> Iterator[str]:
    """Yield where one stage cannot use what another makes: too few answers, or rows of another kind."""
    reward, method = recipe.loop.condition_reward, recipe.conditional
    if method is not None and not method.reward_words and reward is None:
        yield "missing argument 'condition_reward': the reward that the conditional policy is asked for"
    if reward is not None and (method is None or method.reward_words):
        why = "only select: conditional reads it" if method is None else "with reward_words the best word is asked for"
        yield f"condition_reward={reward:g}: {why}; leave it out"
    if recipe.select is None or recipe.generate is None:
        return
    count = recipe.generate.parsed.answers.num_return_sequences
    fake = Scored("x", tuple(map(str, range(count))), tuple(map(float, range(count))), "select")
    try:
        rows = recipe.select.parsed.options.select([fake]).rows
    except UserError as error:
        yield f"K={count} of generate: {error}"
        return
    name = recipe.train.trainer.name
    is_pair = bool(rows) and "chosen" in rows[0]
    wants_pairs = name not in ("sft", "kd")
    if rows and is_pair != wants_pairs:
        made, wanted = ("pairs", "single answers") if is_pair else ("single answers", "pairs")
        yield f"method={recipe.select.parsed.select.method} of select makes {made}, and {name} trains on {wanted}"
