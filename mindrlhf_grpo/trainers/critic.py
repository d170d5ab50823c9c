"""The critic of a run: it values the states of a rollout batch, then learns the returns that credit assignment found."""

from __future__ import annotations

from pathlib import Path

from ..backend import Backend, Loss, Policy, UpdateResult, ValueModel
from ..config.algorithm import CriticConfig
from ..config.run import RunConfig
from ..losses import ValueLoss
from ..types import Batch, FloatArray


class Critic:
    """A value model with its settings: a separate model, or a head on the policy's body (``critic.shared``).

    Attributes:
        separate: the value model that has weights and an optimizer apart from the policy's; None for a shared critic,
            which learns in the policy's optimizer steps and is saved with its state.
    """

    def __init__(self, config: RunConfig, backend: Backend, policy: Policy) -> None:
        self.settings = config.critic or CriticConfig()
        self.policy = policy
        self.separate: ValueModel | None = None
        if self.settings.shared:
            self.loss = ValueLoss(clip=self.settings.value_clip, coef=self.settings.coef, reads_values=True)
            return
        path = self.settings.path or config.model.path
        model = config.model.model_copy(update={"path": path, "lora_rank": 0})
        self.separate = backend.load_value_model(model, config.train, read_at="before")
        self.loss = ValueLoss(clip=self.settings.value_clip)

    def values(self, batch: Batch) -> FloatArray:
        """Values before each token ``[n, T]``, without gradient."""
        return self.policy.values(batch) if self.separate is None else self.separate.values(batch)

    def warming_up(self, step: int) -> bool:
        """True while only the critic learns."""
        return step <= self.settings.warmup_steps

    def update(self, batch: Batch) -> list[UpdateResult]:
        """One optimizer step of a separate critic towards ``returns``; nothing for a shared one."""
        if self.separate is None:
            return []
        return [self.separate.update(batch, self.loss, learning_rate=self.settings.learning_rate)]

    def joint_loss(self, batch: Batch) -> list[tuple[Batch, Loss]]:
        """The value loss that a shared critic adds to the policy's optimizer step; nothing for a separate one."""
        return [(batch, self.loss)] if self.separate is None else []

    def joint_result(self, result: UpdateResult) -> list[UpdateResult]:
        """The shared critic's part of a policy's optimizer step; its loss is without the bound on values."""
        if self.separate is not None:
            return []
        sums = result.also[-1]
        loss = 0.5 * self.loss.coef * sums.get("value_error", 0.0) / max(1.0, sums.get("tokens", 0.0))
        return [UpdateResult(loss=loss, grad_norm=result.grad_norm, sums=sums)]

    def save(self, checkpoint: Path) -> None:
        """Write ``critic/`` and ``critic_optimizer/`` of a separate critic into a checkpoint's folder."""
        if self.separate is None:
            return
        self.separate.save_model(checkpoint / "critic")
        (checkpoint / "critic_optimizer").mkdir(exist_ok=True)
        self.separate.save_state(checkpoint / "critic_optimizer")

    def load(self, checkpoint: Path) -> None:
        """Restore what :meth:`save` wrote."""
        if self.separate is not None:
            self.separate.load_state(checkpoint / "critic", checkpoint / "critic_optimizer")


def critic_metrics(results: list[UpdateResult]) -> dict[str, float]:
    """Metrics of the critic's optimizer steps, per trained token."""
    if not results:
        return {}
    tokens = max(1.0, sum(result.sums.get("tokens", 0.0) for result in results))

    def per_token(name: str) -> float:
        return sum(result.sums.get(name, 0.0) for result in results) / tokens

    return {
        "critic/loss": sum(result.loss for result in results) / len(results),
        "critic/grad_norm": sum(result.grad_norm for result in results) / len(results),
        "critic/value": per_token("value"),
        "critic/error": per_token("value_error"),
        "critic/clip_frac": per_token("value_clip"),
    }
