"""Arguments of a reference that another process serves."""

from __future__ import annotations

from dataclasses import dataclass

from alignment.fields import argument, where

_IS_BASE = where("lora", True, why="the reference is the policy without its adapter")
_NO_SERVER = where("reference_server", None)


@dataclass(frozen=True, kw_only=True)
class ReferenceServerArguments:
    """The frozen reference as a service."""

    reference_server: str | None = argument(None, inert_when=_IS_BASE)
    """Address of a server of the reference, started with alignment serve --reference FOLDER; null: the run loads the
    model that training starts from, and so must the server.
    """
    reference_timeout: float = argument(600.0, above=0, inert_when=_NO_SERVER)
    """Seconds allowed for a request to reference_server."""
    reference_retries: int = argument(3, minimum=0, inert_when=_NO_SERVER)
    """Retries of a request to reference_server after a failure that may be temporary, with growing pauses."""

    @property
    def is_given(self) -> bool:
        """Whether a server has the reference, where there is one."""
        return self.reference_server is not None
