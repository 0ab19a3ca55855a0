"""Arguments of the frozen teacher of a distillation."""

from __future__ import annotations

from dataclasses import dataclass

from alignment.arguments.keys.rollout_engine import NO_SAMPLING
from alignment.fields import Case, argument

_NO_STAGES = (
    "a teacher has the student's layout, or one without stages and sharding: give teacher_tensor_parallel_degree"
)


@dataclass(frozen=True, kw_only=True)
class TeacherArguments:
    """The model whose distribution is learned from."""

    teacher_model_name_or_path: str = argument(path="model", aliases=("teacher_model",))
    """Folder or hub name of the teacher: any size and family, with the student's tokenizer."""
    max_dec_len: int | None = argument(
        None,
        minimum=1,
        advice={"max_new_tokens": "give max_dec_len"},
        inert_when=NO_SAMPLING,
    )
    """Maximum number of tokens of an answer that the student samples; null: what max_length leaves."""
    teacher_tensor_parallel_degree: int = argument(
        -1,
        minimum=-1,
        excluded=(0,),
        inert_when=Case(lambda value, s: value != -1 and s.world_size == 1, "this run has one process"),
        advice={
            "teacher_pipeline_parallel_degree": _NO_STAGES,
            "teacher_sharding_parallel_degree": _NO_STAGES,
            "teacher_sharding": _NO_STAGES,
        },
    )
    """Neighbouring processes that hold a whole teacher together, each a share of every layer, whatever the student's
    layout (1: each process holds all of it); -1: the teacher has the student's layout.
    """
    teacher_offload: bool = False
    """Keep the teacher in host memory while the student learns, as offload_level freeze_model does (its vocabulary head
    stays on the device)."""

    def own_degree(self, world_size: int) -> int | None:
        """Return the degree of a teacher with a layout of its own; None: it has the student's."""
        degree = self.teacher_tensor_parallel_degree
        return degree if degree > 0 and world_size > 1 else None
