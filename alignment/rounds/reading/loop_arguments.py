"""Arguments of ``alignment loop``: its own keys, and an object of keys for each stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alignment.arguments.groups import Groups
from alignment.fields import Case, argument

Start = Literal["previous", "initial"]
_NO_PROMPTS = Case(lambda value, s: s.values.get("prompts") is None, "prompts is not given")


@dataclass(frozen=True, kw_only=True)
class LoopArguments:
    """How many rounds, and which model each starts from."""

    output_dir: str = argument(path="output")
    """Folder of the loop: a folder for each round, state.json, and report.html."""
    rounds: int = argument(minimum=1, aliases=("TRAINING_ITERS",))
    """How many rounds are made."""
    model_name_or_path: str = argument(path="model", aliases=("pretrain", "initial_model"))
    """Folder or hub name of the initial model, or the output folder of a run. It answers in the first round."""
    train_from: Start = argument()
    """Which model the training of a round starts from. previous: the one that the round before trained (in the first
    round the initial model); initial: always the initial model. Answers always come from the newest model."""
    reference: Start | None = None
    """The reference model, for trainers that have one (dpo, kto, ppo, ...), which must be chosen. initial: it stays
    fixed; previous: it moves, and is the newest model before the training of the round."""
    critic: Start | None = None
    """The model that PPO's critic starts from. previous: the critic of the round before; initial: what the train keys
    say, in every round. It must be chosen where there is a critic."""
    rollout_batch_size: int | None = argument(None, minimum=1, inert_when=_NO_PROMPTS)
    """Prompts of a round, in their order; null: an equal share, so that each prompt belongs to one round."""
    condition_reward: float | None = None
    """For the method conditional: the reward in the prompts that a conditional policy answers, which are those of the
    evaluations after the first training and of the later rounds. With reward_words it is left out: the best word."""
    seed: int = argument(42, minimum=0)
    """Seed of a share of a dataset. The seeds of stages are theirs, plus the number of the round less 1."""
    generate: str | None = argument(None, is_object=True)
    """Keys of alignment generate, without those of model, prompts and files."""
    score: str | None = argument(None, is_object=True)
    """Keys of alignment score. Without generate it names the answers_file, and there is one round."""
    select: str | None = argument(None, is_object=True)
    """Keys of alignment select."""
    train: str = argument(is_object=True)
    """The trainer (trainer: sft, dpo, ppo, ...), num_processes (1), and the keys of that trainer without those of its
    models, rows and folder."""
    evaluate: str | None = argument(None, is_object=True)
    """Held-out evaluation of the initial model and after each round: prompts (with input_key, label_key, split), the
    objects generate and score, and greedy (true: the likeliest answer is judged, too)."""


@dataclass(frozen=True, kw_only=True)
class PromptSource:
    """Where prompts come from."""

    prompts: str | None = argument(None, path="datasets", aliases=("prompt_data",))
    """The prompts of all rounds: datasets as in train_datasets, in their order."""
    input_key: str | None = argument(None, aliases=("prompt_key", "dataset_key"), inert_when=_NO_PROMPTS)
    """Column of the prompt: text, or messages; null: the layout of each row is recognised."""
    label_key: str | None = argument(None, inert_when=_NO_PROMPTS)
    """Column of the reference answer, for rewards that read it."""
    split: str | None = argument(None, aliases=("train_split", "prompt_split"), inert_when=_NO_PROMPTS)
    """Split to read, if a folder or hub dataset has several; null: train."""
    dataset_modules: tuple[str, ...] = argument((), path="module", separator=r"\s*,\s*")
    """Python modules or .py files, separated by commas, imported first so that they register their datasets."""


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """How each model is judged on held-out prompts."""

    greedy: bool = True
    """Also judge the likeliest answer to each prompt."""
    generate: str = argument(is_object=True)
    """Keys of alignment generate for the sampled answers."""
    score: str = argument(is_object=True)
    """Keys of alignment score: several reward_sources are reported one by one, those of weight 0 too."""


@dataclass(frozen=True, kw_only=True)
class TrainStageArguments:
    """Which trainer trains, in how many processes."""

    trainer: str = argument()
    """Name of the trainer."""
    num_processes: int = argument(1, minimum=1, aliases=("nproc_per_node",))
    """Processes of a training on this machine, started by Paddle's launcher."""


GROUPS: Groups = {"loop": LoopArguments, "prompts": PromptSource}
EVALUATE_GROUPS: Groups = {"evaluate": EvaluateArguments, "prompts": PromptSource}
STAGES = ("generate", "score", "select", "train", "evaluate")
