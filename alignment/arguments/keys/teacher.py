"""Arguments of the frozen teacher of a distillation."""

from __future__ import annotations

from dataclasses import dataclass

from alignment.fields import argument


@dataclass(frozen=True, kw_only=True)
class TeacherArguments:
    """The model whose distribution is learned from."""

    teacher_model_name_or_path: str = argument(path="model", aliases=("teacher_model",))
    """Folder or hub name of the teacher: any size and family, with the student's tokenizer."""
    teacher_offload: bool = False
    """Keep the teacher in host memory while the student learns, as offload_level freeze_model does (its vocabulary head
    stays on the device)."""
