"""Online reinforcement learning: the whole loop, readable from top to bottom.

Every rank runs it. One step: prompts -> rollouts -> rewards -> advantages -> update -> weight sync. ``memory.place``
brings what the next phase computes with to the device. The loop knows no algorithm and no framework: the plan and the
backend do.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..algorithms.plan import resolve
from ..backend import Backend, UpdateResult, load_backend
from ..config.run import RunConfig
from ..errors import RunFailed
from ..metrics.metric_functions import MetricFunctions
from ..rewards import Rewards
from ..run.clock import Clock
from ..run.completion_table import best_and_worst
from ..run.folder import Progress
from ..run.rollout_log import table_rows, write_rollouts
from ..types import Batch
from .critic import Critic, critic_metrics
from .epochs import in_steps
from .evaluation import load_held_out, without_accuracy
from .experience import Collector, Experience
from .phases import build_residency
from .pretraining_mix import load_pretraining_mix
from .rollouts import RolloutSource, load_environments
from .rows import notes_on, open_prompts
from .schedule import learning_rate
from .session import Judged, RunSession, leaving, load_run_tokenizer
from .step_metrics import check_on_policy, update_metrics


def train(config: RunConfig) -> dict[str, Any]:
    """Run (or resume) a configuration to its end; returns the summary.

    Raises:
        RunFailed: NaN, a weight fingerprint or an on-policy ratio outside tolerance; the batch is saved.
    """
    backend = load_backend(config)
    with leaving(backend.comm):
        return OnlineTrainer(config, backend).run()


class OnlineTrainer:
    """The parts of one run and the loop over them."""

    def __init__(self, config: RunConfig, backend: Backend) -> None:
        self.tokenizer = load_run_tokenizer(config)
        self.stream = open_prompts(config, self.tokenizer)
        self.stream.check()
        config = in_steps(config, len(self.stream))
        self.config, self.backend, self.comm = config, backend, backend.comm
        self.session = RunSession(config, backend)
        self.plan = resolve(config.algorithm)
        self.plan.check(config.rollout.group_size)
        self.held_out = load_held_out(config, self.tokenizer)
        self.rewards = Rewards(config.rewards, backend=backend, policy=config.model.path)
        self.environments = load_environments(config, self.tokenizer)
        self.metric_functions = MetricFunctions(config.metrics or [], config.run_dir, self.comm)
        self.session.open()
        self._rehearse_rewards()

        self.session.note(f"loading {config.model.path}")
        self.policy = backend.load_policy()
        self.critic = Critic(config, backend, self.policy) if "critic" in self.plan.needs else None
        self.engine = backend.load_engine(self.policy, self.tokenizer)
        self.sync = backend.weight_sync(self.policy, self.engine)
        self.memory = build_residency(
            config.swap, self.policy, self.critic, self.engine, models_score=self.rewards.uses_models
        )
        source = RolloutSource(
            config, self.plan, self.comm.rows, self.stream, self.engine, self.rewards, self.memory, self.environments
        )
        self.collector = Collector(config, self.plan, self.comm.rows, source, self.tokenizer, self.memory)
        self.pretraining = load_pretraining_mix(config, self.tokenizer, self.comm.rows)
        self.session.resume(self._restore)

    def _rehearse_rewards(self) -> None:
        """Let the models that score judge a literal completion before a policy is loaded: they fail now or work later."""
        if self.rewards.uses_models:
            row = open_prompts(self.config, self.tokenizer).take(1)[0]
            self.rewards.rehearse(row, self.tokenizer)

    def run(self) -> dict[str, Any]:
        """Train to the last step or to the target, then write summary and report."""
        try:
            self.begin()
            for step, clock in self.session.steps():
                experience = self.collect(clock)
                self.learn(step, experience, clock)
        finally:
            self.close()
        return self.finish()

    def begin(self) -> None:
        """Bring the weights to the engine and evaluate the untrained policy."""
        self.session.announce(self._warnings())
        self.memory.place("sync")
        self.sync.push(self.session.progress.step)
        self._evaluate_untrained()

    def collect(self, clock: Clock) -> Experience:
        """The first half of a step: completions with their rewards, advantages and loss weights."""
        return self.collector.collect(self.policy, self.critic, clock)

    def learn(self, step: int, experience: Experience, clock: Clock) -> None:
        """The second half of a step: update, weight sync, evaluation, metrics, checkpoint."""
        with clock.phase("update"):
            learned = self._update(step, experience)
        with clock.phase("sync"):
            self.memory.place("sync")
            try:
                self.sync.push(step)
            except RunFailed as error:
                raise self.session.failure(step, experience.batch, error) from None

        self.session.done(step, stream=self.stream.state(), algorithm=self._algorithm_state())
        with clock.phase("eval"):
            evaluated = self._evaluate(step)
        with clock.phase("save"):
            self._log_rollouts(step, experience)
        self._show_completions(step, experience)
        metrics = {"epoch": self.stream.epoch, **experience.metrics, **learned}
        user_defined = self.metric_functions.compute(
            experience.groups,
            experience.table,
            metrics,
            split="train",
            step=step,
            advantages=experience.batch.advantages,
            kl=experience.kl,
        )
        logged = {**metrics, **user_defined, **evaluated, **self.memory.metrics()}
        self.session.log(step, logged, clock, reasons=experience.failure_reasons)
        self.session.keep(step, self.write, self.gather, clock)

    def _update(self, step: int, experience: Experience) -> dict[str, float]:
        """Learn from the batch: ``inner_epochs`` passes of ``updates_per_batch`` optimizer steps."""
        rate = learning_rate(self.config.train, step)
        policy_results: list[UpdateResult] = []
        critic_results: list[UpdateResult] = []
        if not any(experience.trained_tokens):
            self.session.note(f"step {step}: no completion can be learned from (all groups dead or masked); skipped")
        for batch in self._optimizer_batches(experience):
            try:
                critic_results += self._update_critic(batch)
                if self.critic is not None and self.critic.separate is not None and self.critic.warming_up(step):
                    continue
                result = self._update_policy(batch, rate)
                policy_results.append(result)
                critic_results += self.critic.joint_result(result) if self.critic is not None else []
                if len(policy_results) == 1:
                    check_on_policy(result, self.config.model.dtype)
            except RunFailed as error:
                raise self.session.failure(step, batch, error) from None
        reference_sync = self.config.algorithm.reference_sync
        if reference_sync is not None and step % reference_sync.every == 0:
            self.memory.place("move reference")
            self.policy.sync_reference(reference_sync.share)
        return {"lr": rate, **update_metrics(policy_results), **critic_metrics(critic_results)}

    def _optimizer_batches(self, experience: Experience) -> Iterator[Batch]:
        """The rows of each optimizer step, without the steps in which no token of any rank has a loss."""
        for _ in range(self.config.algorithm.inner_epochs):
            for chunk in np.flatnonzero(experience.trained_tokens):
                yield experience.batch.take(np.flatnonzero(experience.chunk_of == chunk))

    def _update_critic(self, batch: Batch) -> list[UpdateResult]:
        """One optimizer step of a critic that is apart from the policy."""
        if self.critic is None or self.critic.separate is None:
            return []
        self.memory.place("update critic")
        return self.critic.update(batch)

    def _update_policy(self, batch: Batch, rate: float) -> UpdateResult:
        """One optimizer step of the policy, with the losses that join it: a pretraining mix, a shared critic."""
        also = [*self.pretraining.take()] if self.pretraining is not None else []
        if self.critic is not None:
            also += self.critic.joint_loss(batch)
        self.memory.place("update")
        return self.policy.update(batch, self.plan.loss, learning_rate=rate, also=also)

    def _evaluate_untrained(self) -> None:
        """Evaluate the untrained policy, once in the life of a run."""
        if self.held_out is not None and not self.session.progress.step and not self.session.progress.before:
            self.session.note(f"evaluating {len(self.held_out.prompts)} held-out prompts before training")
            self._held_out_metrics(0)

    def _evaluate(self, step: int) -> dict[str, float]:
        """Held-out metrics when they are due."""
        return self._held_out_metrics(step) if self.held_out is not None and self.session.evaluation_due(step) else {}

    def _held_out_metrics(self, step: int) -> dict[str, float]:
        """Completions of the held-out prompts, scored; the session records what they say."""
        assert self.held_out is not None
        found = self.held_out.evaluate(
            self.engine,
            self.rewards,
            self.comm.rows,
            self.memory,
            self.metric_functions,
            step=step,
            environments=self.environments,
        )
        progress, metrics = self.session.progress, found.metrics
        progress.graded |= found.graded
        if (
            progress.graded
        ):  # values between 0 and 1 have been seen: those of an evaluation that are all 0 or 1 are rewards, too
            metrics = without_accuracy(metrics)
        count = len(self.held_out.prompts)
        judged = Judged(metric=found.judged_by, name=self._judged_name, counted=f"{count} problem{'s' * (count != 1)}")
        self.session.evaluated(step, metrics, judged)
        return metrics

    @property
    def _judged_name(self) -> str:
        """What the mean of the first reward component is called."""
        return "reward" if self.session.progress.graded else "accuracy"

    def _algorithm_state(self) -> dict[str, Any]:
        """The state of the algorithm after a step, as plain JSON."""
        pretraining = {} if self.pretraining is None else {"pretraining": self.pretraining.state()}
        return {**self.collector.state(), **pretraining}

    def gather(self) -> None:
        """Bring together what is sharded over ranks, before a checkpoint."""
        self.memory.place("checkpoint")
        self.policy.gather()
        if self.critic is not None and self.critic.separate is not None:
            self.memory.place("checkpoint critic")
            self.critic.separate.gather()

    def write(self, folder: Path) -> None:
        """Fill the folder of a checkpoint."""
        self.memory.place("checkpoint")
        self.policy.save_model(folder / "policy")
        self.policy.save_state(folder / "optimizer")
        if self.critic is not None:
            self.memory.place("checkpoint critic")
            self.critic.save(folder)

    def _restore(self, folder: Path, progress: Progress) -> None:
        """Load policy, optimizer, critic and data positions from a checkpoint."""
        self.policy.load_state(folder / "policy", folder / "optimizer")
        if self.critic is not None:
            self.critic.load(folder)
        self.stream.load_state(progress.stream)
        self.collector.restore(progress.algorithm)
        if self.pretraining is not None:
            self.pretraining.load_state(progress.algorithm["pretraining"])

    def _log_rollouts(self, step: int, experience: Experience) -> None:
        """Keep the step's completions for the report: rank by rank, in the order of the prompts."""
        every = self.config.tracking.rollouts_every
        if not every or step % every:
            return
        parts = self.comm.rows.gather_objects((experience.groups, experience.table, experience.batch.advantages))
        if self.session.main:
            write_rollouts(self.config.run_dir, step, parts, self.tokenizer)
            self.session.tracker.completion_table(step, lambda: table_rows(step, parts))

    def _show_completions(self, step: int, experience: Experience) -> None:
        """Print some completions of rank 0 when they are due."""
        every = self.config.tracking.print_every
        if every and step % every == 0 and self.session.main:
            self.session.tracker.completions(
                f"completions of step {step}", best_and_worst(experience.groups, experience.table)
            )

    def _warnings(self) -> list[str]:
        """Facts that a reader of the curves must know, shown at the start and in the report."""
        notes = [f"training layout: {self.policy.layout} ({self.policy.layout_reason})"]
        notes += notes_on(self.stream, self.config.train.prompts_per_step)
        if self.collector.source.sampling.truncated:
            notes.append(
                "completions are drawn from a truncated or penalised distribution (top_k, top_p, min_p or "
                "repetition_penalty); log-probs and ratios are those of softmax(logits / temperature) without it"
            )
        return notes

    def close(self) -> None:
        """Stop the reward workers and close the tracker."""
        self.rewards.close()
        self.session.close()

    def finish(self) -> dict[str, Any]:
        """Write summary and report, with the last evaluation as the run's result; returns the summary."""
        progress, name = self.session.progress, self._judged_name
        headline = {
            f"{name}_before": progress.before.get(progress.judged_by),
            f"{name}_after": progress.after.get(progress.judged_by),
            "problems": len(self.held_out.prompts) if self.held_out else 0,
        }
        held_out = {"before": progress.before, "after": progress.after}
        details = {f"best_{name}": progress.best, "held_out": held_out, "data": self.stream.counts}
        return self.session.finish(headline, details | self.memory.summary())
