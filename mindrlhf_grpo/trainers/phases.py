"""The memory of an online run: its parts, and which of them take turns on the device."""

from __future__ import annotations

from ..backend import Policy, RolloutEngine
from ..config.parallel import SwapConfig
from ..parallel.residency import NEEDS, Residency, Role
from .critic import Critic

KV_CACHE = "kv_cache"


def build_residency(
    settings: SwapConfig | None, policy: Policy, critic: Critic | None, engine: RolloutEngine, *, models_score: bool
) -> Residency:
    """The parts of a run that move by phase: the KV cache in every run, with a swap section what it names besides.

    Args:
        models_score: rewards compute with models, which get the memory of the other parts; otherwise nothing moves
            for rewards.
    """
    needs = NEEDS if models_score else {phase: roles for phase, roles in NEEDS.items() if phase != "reward"}
    engine_roles = engine.roles()
    if settings is None:
        cache = {name: role for name, role in engine_roles.items() if name == KV_CACHE}
        return Residency(cache, needs, (KV_CACHE,), recorded=False)
    roles: dict[str, Role] = {**policy.roles(), **engine_roles}
    roles["policy"] = roles.pop("weights")
    if critic is not None and critic.separate is not None:
        critic_roles = critic.separate.roles()
        roles |= {"critic": critic_roles["weights"], "critic_optimizer": critic_roles["optimizer"]}
    return Residency(roles, needs, (*settings.roles, KV_CACHE))
