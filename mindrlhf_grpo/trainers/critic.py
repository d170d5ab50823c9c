"""The critic of a run: it values the states of a rollout batch, then learns the returns that were found."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from ..backend import Backend, Loss, Policy, UpdateResult, ValueModel
from ..config.algorithm import CriticConfig
from ..config.run import RunConfig
from ..losses import ValueLoss
from ..types import Batch


class Critic:
    """A value model with the settings it learns by: one of its own, or a head on the policy's body.

    Attributes:
        shared: it is a head on the policy's body, learned in the policy's own steps.
    """

    def __init__(self, config: RunConfig, backend: Backend, policy: Policy) -> None:
        self.settings = config.critic or CriticConfig()
        self.shared = self.settings.shared
        self.model: ValueModel
        if self.shared:
            self.model = cast(ValueModel, policy)
            self.loss = ValueLoss(clip=self.settings.value_clip, coef=self.settings.coef, reads_values=True)
            return
        path = self.settings.path or config.model.path
        model = config.model.model_copy(update={"path": path, "lora_rank": 0})
        self.model = backend.load_value_model(model, config.train, read_at="before")
        self.loss = ValueLoss(clip=self.settings.value_clip)

    def warming_up(self, step: int) -> bool:
        """Whether only the critic learns in this step."""
        return step <= self.settings.warmup_steps

    def joined(self, batch: Batch) -> list[tuple[Batch, Loss]]:
        """What joins the policy's step: the batch with the value loss, where the body is shared."""
        return [(batch, self.loss)] if self.shared else []

    def found_in(self, result: UpdateResult) -> list[UpdateResult]:
        """The shared critic's part of a policy's step; its loss is without the bound on values."""
        if not self.shared:
            return []
        sums = result.also[-1]
        loss = 0.5 * self.loss.coef * sums.get("value_error", 0.0) / max(1.0, sums.get("tokens", 0.0))
        return [UpdateResult(loss=loss, grad_norm=result.grad_norm, sums=sums)]

    def learn(self, batch: Batch) -> UpdateResult:
        """One optimizer step towards ``returns``."""
        return self.model.update(batch, self.loss, learning_rate=self.settings.learning_rate)

    def save(self, checkpoint: Path) -> None:
        """Write ``critic/`` and ``critic_optimizer/`` into a checkpoint's folder; a shared one lies in the policy's state."""
        if self.shared:
            return
        self.model.save_model(checkpoint / "critic")
        (checkpoint / "critic_optimizer").mkdir(exist_ok=True)
        self.model.save_state(checkpoint / "critic_optimizer")

    def load(self, checkpoint: Path) -> None:
        """Restore what :meth:`save` wrote."""
        if self.shared:
            return
        self.model.load_state(checkpoint / "critic", checkpoint / "critic_optimizer")


def critic_metrics(results: list[UpdateResult]) -> dict[str, float]:
    """Figures of the critic's optimizer steps, by trained token."""
    if not results:
        return {}
    tokens = max(1.0, sum(result.sums.get("tokens", 0.0) for result in results))

    def mean(name: str) -> float:
        return sum(result.sums.get(name, 0.0) for result in results) / tokens

    return {
        "critic/loss": sum(result.loss for result in results) / len(results),
        "critic/grad_norm": sum(result.grad_norm for result in results) / len(results),
        "critic/value": mean("value"),
        "critic/error": mean("value_error"),
        "critic/clip_frac": mean("value_clip"),
    }
