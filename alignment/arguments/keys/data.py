"""Arguments of the data: lengths, templates, and what to do with rows that do not fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alignment.arguments.keys.training import NO_EVALUATION
from alignment.fields import argument, where_given


@dataclass(frozen=True, kw_only=True)
class DataArguments:
    """How rows become token ids."""

    max_length: int = argument(2048, minimum=2, aliases=("max_seq_len", "max_seq_length", "max_len"))
    """Maximum tokens of prompt and response together."""
    max_prompt_len: int | None = argument(None, minimum=1, aliases=("max_src_len", "src_length", "max_prompt_length"))
    """Maximum tokens of a prompt; null: max_length minus max_dec_len (or minus 1)."""
    on_overlong: Literal["drop", "left", "right", "error"] = "drop"
    """What to do with rows over the limit: drop, truncate left or right, or stop. The ledger counts them."""
    on_bad_row: Literal["drop", "error"] = "drop"
    """What to do with empty or null texts, conversations without an answer, and identical or tied pairs: drop and
    count, or stop. Wrong columns always stop.
    """
    chat_template: Literal["none", "tokenizer"] = "none"
    """none: BEGINNING OF CONVERSATION: USER: ... ASSISTANT:; tokenizer: the tokenizer's own chat template."""
    input_template: str | None = None
    """Text around each user text, such as "User: {}\\nAssistant: ", instead of that of chat_template=none."""
    tokenizer_chat_template: str | None = argument(None, path="template")
    """A Jinja file, or Jinja text, that replaces the tokenizer's chat template and is saved with the model."""
    dataset_modules: tuple[str, ...] = argument((), path="module", separator=r"\s*,\s*")
    """Python modules or .py files, separated by commas, imported first so that they register their datasets."""
    eval_split_ratio: float | None = argument(
        None, above=0, below=1, inert_when=(where_given("eval_datasets"), NO_EVALUATION)
    )
    """Share of the training rows held out for evaluation; of prompts, where answers are compared or rated (reward
    models, DPO, KTO), so that no prompt is on both sides."""
    dataloader_shuffle: bool = True
    """Shuffle the training rows for every epoch, by data_seed; false: keep the order of the datasets."""
    dataloader_drop_last: bool = False
    """Drop the last batch of an epoch if it is not full."""
    dataloader_num_workers: int | None = argument(None, minimum=0, maximum=256)
    """Processes that encode rows at the start, if there are 20,000 or more; null: one per processor core, 0: none."""
    encoded_cache_dir: str | None = argument(None, path="output")
    """Folder in which such encoded rows are cached; null: encoded_rows in output_dir."""

    @property
    def template(self) -> str:
        """``none``, ``tokenizer``, or the text of ``input_template``."""
        if self.input_template is not None:
            return self.input_template.replace("\\n", "\n")  # a shell passes backslash and n
        return self.chat_template if self.tokenizer_chat_template is None else "tokenizer"
