"""The frozen reference: where it is, and who computes its log-probs."""

from __future__ import annotations

from collections.abc import Mapping

from alignment.errors import ModelFolderError
from alignment.models.adapters.attach import BaseRunner
from alignment.models.decoder.decoder import CausalLM
from alignment.models.tokenizer.tokenizer import Tokenizer
from alignment.parallel.comms.together import on_main
from alignment.parallel.roles import RoleRanks
from alignment.rollout.judge import LoadedReference, ReferenceLogprobs
from alignment.rollout.reference_service import ReferenceClient, ServiceLimits
from alignment.runs.adapters import warn_of_start
from alignment.runs.frozen import FrozenInput
from alignment.runs.launch import Launch
from alignment.runs.on_policy.algorithm import ChosenAlgorithm
from alignment.runs.placed import place_frozen, scoring_runner
from alignment.telemetry import log
from alignment.training.learner import Learner


def find_reference_client(launch: Launch, tokenizer: Tokenizer) -> tuple[ReferenceClient | None, list[FrozenInput]]:
    """Return what asks ``reference_server``, and its model as an input that must not change.

    (None, []) without a server, with adapters, whose base is the reference, or if nothing reads the reference.
    ModelFolderError if its model has another tokenizer, or reads shorter sequences than the run has.
    """
    given = launch.parsed.reference_server
    is_read = ChosenAlgorithm.of(launch.parsed).needs_reference and not launch.parsed.adapter.lora
    if given.reference_server is None or not is_read:
        return None, []
    limits = ServiceLimits(timeout_seconds=given.reference_timeout, retries=given.reference_retries)
    client = ReferenceClient(given.reference_server, limits)
    identity = on_main(launch.topology.world, client.identify)
    place, longest = client.service.place, launch.parsed.data.max_length
    if identity.tokenizer != tokenizer.fingerprint():
        raise ModelFolderError(
            f"reference_server={place} serves a model with another tokenizer than the policy's, whose token ids would "
            "mean something else there: serve the model that training starts from"
        )
    if identity.longest < longest:
        raise ModelFolderError(
            f"reference_server={place} serves a model that reads {identity.longest} tokens, and max_length={longest}: "
            f"give max_length={identity.longest} or less, or serve another model"
        )
    log.info(f"the reference's log-probs come from {place}, in {identity.dtype} (reference_server)")
    return client, [FrozenInput("the reference", place, identity.weights)]


def place_reference(
    launch: Launch, reference: CausalLM | ReferenceClient | None, policy: Learner
) -> ReferenceLogprobs | None:
    """Return what gives the log-probs of ``reference``, or of the base of a ``policy`` with an adapter; None: nothing
    reads them.
    """
    if launch.parsed.adapter.lora and ChosenAlgorithm.of(launch.parsed).needs_reference:
        warn_of_start(launch)
        return LoadedReference(runner=BaseRunner(scoring_runner(policy)))
    if reference is None or isinstance(reference, ReferenceClient):
        return reference and reference.logprobs
    topology, offload = launch.ranks_of("reference").topology, "freeze_model" in launch.parsed.parallel.offloaded
    return LoadedReference(runner=place_frozen("reference", reference, topology, offload=offload))


def judging_ranks(launch: Launch, client: ReferenceClient | None) -> Mapping[str, RoleRanks]:
    """Return the ranks of each role that not everyone has; the first process asks a reference's server."""
    return launch.roles if client is None else {**launch.roles, "reference": RoleRanks(world=launch.topology.world)}
