"""Arguments of the frozen teacher of a distillation."""

from __future__ import annotations

from dataclasses import dataclass

from alignment.fields import argument, where


@dataclass(frozen=True, kw_only=True)
class TeacherArguments:
    """The model whose distribution is learned from."""

    teacher_model_name_or_path: str = argument(path="model", aliases=("teacher_model",))
    """Folder or hub name of the teacher: any size and family, with the student's tokenizer."""
    max_dec_len: int | None = argument(
        None,
        minimum=1,
        advice={"max_new_tokens": "give max_dec_len"},
        inert_when=where("lmbda", 0, why="lmbda is 0: no answer is sampled"),
    )
    """Maximum number of tokens of an answer that the student samples; null: what max_length leaves."""
    teacher_offload: bool = False
    """Keep the teacher in host memory while the student learns, as offload_level freeze_model does (its vocabulary head
    stays on the device)."""
