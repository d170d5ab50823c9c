"""What each phase of an online step has on the device."""

from __future__ import annotations

from ..backend import Policy, RolloutEngine
from ..config.parallel import SwapConfig
from ..parallel.residency import NEEDS, Residency, Role
from .critic import Critic


def residency_of(
    settings: SwapConfig | None, policy: Policy, critic: Critic | None, engine: RolloutEngine, *, models_score: bool
) -> Residency:
    """The parts of a run and what its phases need; without a swap section, no parts: nothing ever moves.

    Args:
        models_score: rewards compute with models; otherwise nothing moves for them.
    """
    if settings is None:
        return Residency({}, NEEDS, ())
    roles: dict[str, Role] = {**policy.roles(), **engine.roles()}
    roles["policy"] = roles.pop("weights")
    if critic is not None:
        of_critic = critic.model.roles()
        roles |= {"critic": of_critic["weights"], "critic_optimizer": of_critic["optimizer"]}
    needs = NEEDS if models_score else {phase: names for phase, names in NEEDS.items() if phase != "reward"}
    return Residency(roles, needs, settings.roles)
