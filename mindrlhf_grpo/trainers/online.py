"""Online reinforcement learning: the whole loop, readable from top to bottom.

Every rank runs it. One step: prompts -> rollouts -> rewards -> advantages -> update -> weight sync.
It knows no algorithm and no framework: the plan and the backend do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..algorithms.plan import resolve
from ..backend import Backend, UpdateResult, load_backend
from ..config.run import DataConfig, RunConfig
from ..data.stream import PromptStream
from ..errors import RunFailed
from ..metrics.metric_functions import MetricFunctions
from ..rewards import Rewards
from ..run.rollout_log import write_rollouts
from ..tokenizers.tokenizer import Tokenizer
from .critic import Critic, critic_metrics
from .evaluation import HeldOut
from .experience import Collector, Experience
from .phases import residency_of
from .pretraining_mix import mix_of
from .schedule import learning_rate
from .session import RunSession, tokenizer_of
from .step_metrics import check_on_policy, update_metrics


def train(config: RunConfig) -> dict[str, Any]:
    """Run (or resume) a configuration to its end; returns the summary.

    Raises:
        RunFailed: NaN, a weight fingerprint or an on-policy ratio outside tolerance; the batch is saved.
    """
    backend = load_backend(config)
    try:
        return OnlineTrainer(config, backend).run()
    finally:
        backend.comm.close()


class OnlineTrainer:
    """The parts of one run and the loop over them."""

    def __init__(self, config: RunConfig, backend: Backend) -> None:
        self.config, self.backend, self.comm = config, backend, backend.comm
        self.session = RunSession(config, backend)
        self.plan = resolve(config.algorithm)
        self.plan.check(config.rollout.group_size)
        self.tokenizer = tokenizer_of(config)
        self.stream = PromptStream(config.data, self.tokenizer, seed=config.seed)
        self.held_out = held_out(config, self.tokenizer)
        self.rewards = Rewards(config.rewards, backend=backend, policy=config.model.path)
        self.metric_functions = MetricFunctions(config.metrics or [], config.run_dir, self.comm)
        self.session.open()

        self.policy = backend.load_policy()
        self.critic = Critic(config, backend, self.policy) if "critic" in self.plan.needs else None
        self.engine = backend.load_engine(self.policy, self.tokenizer)
        self.sync = backend.weight_sync(self.policy, self.engine)
        self.collector = Collector(config, self.plan, self.comm, self.stream, self.engine, self.rewards, self.tokenizer)
        self.mix = mix_of(config, self.tokenizer, self.comm)
        self.session.resume(self._restore)
        self.memory = residency_of(
            config.swap, self.policy, self.critic, self.engine, models_score=self.rewards.uses_models
        )
        self.session.enter = self.memory.enter

    def run(self) -> dict[str, Any]:
        """Train to the last step or to the target, then write summary and report."""
        self.begin()
        try:
            self.session.steps(self.step)
        finally:
            self.close()
        return self.finish()

    def step(self, step: int) -> None:
        """One step in its two halves."""
        self.learn(step, self.collect())

    def begin(self) -> None:
        """What comes before the first step."""
        self.session.announce(self._warnings())
        self.memory.enter("sync")
        self.sync.push(self.session.progress.step)
        self.memory.enter("eval")
        self._first_evaluation()

    def collect(self) -> Experience:
        """The completions of the next step."""
        self.engine.wake_up()
        experience = self.collector.collect(self.policy, self.critic, self.session.clock)
        self.engine.sleep()
        return experience

    def learn(self, step: int, experience: Experience) -> None:
        """The rest of a step: update, sync, evaluation, metrics, checkpoint."""
        clock = self.session.clock
        with clock.phase("update"):
            learned = self._learn(step, experience)
        with clock.phase("sync"):
            self.sync.push(step)

        self._advance(step)
        with clock.phase("eval"):
            evaluated = self._evaluate(step)
        with clock.phase("save"):
            self._log_rollouts(step, experience)
        metrics = {**experience.metrics, **learned}
        own = self.metric_functions.compute(
            experience.groups, experience.table, metrics,
            split="train", step=step, advantages=experience.batch.advantages, kl=experience.kl,
        )  # fmt: skip
        self.session.log(step, {**metrics, **own, **evaluated, **self.memory.figures()})
        self.session.keep(step, self.write, self.gather)

    def _learn(self, step: int, experience: Experience) -> dict[str, float]:
        """``inner_epochs`` passes of ``updates_per_batch`` optimizer steps, without those in which no token has a loss."""
        results: list[UpdateResult] = []
        of_critic: list[UpdateResult] = []
        if not any(experience.trained_tokens):
            self.session.tracker.note(
                f"step {step}: no completion can be learned from (all groups dead or masked); skipped"
            )
        rate = learning_rate(self.config.train, step)
        for _ in range(self.config.algorithm.inner_epochs):
            for chunk in np.flatnonzero(experience.trained_tokens):
                batch = experience.batch.take((experience.chunk_of == chunk).nonzero()[0])
                try:
                    if self.critic is not None and not self.critic.shared:
                        self.memory.enter("update critic")
                        of_critic.append(self.critic.learn(batch))
                        if self.critic.warming_up(step):
                            continue
                        self.memory.enter("update")
                    also = [*(self.mix.take() if self.mix else ()), *(self.critic.joined(batch) if self.critic else ())]
                    results.append(self.policy.update(batch, self.plan.loss, learning_rate=rate, also=also))
                    of_critic += self.critic.found_in(results[-1]) if self.critic else []
                    if len(results) == 1:
                        check_on_policy(results[0], self.config.model.dtype)
                except RunFailed as error:
                    evidence = self.session.folder.save_evidence(step, batch, str(error)) if self.session.main else ""
                    raise RunFailed(f"step {step}: {error}. The batch is in {evidence}") from None
        sync = self.config.algorithm.reference_sync
        if sync is not None and step % sync.every == 0:
            self.memory.enter("move reference")
            self.policy.sync_reference(sync.share)
        return {"lr": rate, **update_metrics(results), **critic_metrics(of_critic)}

    def _first_evaluation(self) -> None:
        """Accuracy of the untrained policy, once in the life of a run."""
        progress = self.session.progress
        if self.held_out is None or progress.step or progress.accuracy_before is not None:
            return
        metrics = self.held_out.evaluate(self.engine, self.rewards, self.comm, self.metric_functions, step=0)
        accuracy = metrics["eval/accuracy"]
        progress.accuracy_before = progress.accuracy = accuracy
        progress.before = metrics
        self.session.tracker.note(
            f"held-out accuracy before training: {accuracy:.3f} ({len(self.held_out.prompts)} problems)"
        )

    def _evaluate(self, step: int) -> dict[str, float]:
        """Held-out figures when they are due; sets the best step and the reason to stop."""
        every, last = self.config.eval.every, step == self.config.train.steps
        if self.held_out is None or not (last or (every and step % every == 0)):
            return {}
        metrics = self.held_out.evaluate(self.engine, self.rewards, self.comm, self.metric_functions, step=step)
        accuracy, progress = metrics["eval/accuracy"], self.session.progress
        progress.accuracy, progress.after = accuracy, metrics
        if progress.best_accuracy is None or accuracy > progress.best_accuracy:
            progress.best_accuracy, progress.best_step = accuracy, step
        target = self.config.eval.stop_at
        if target is not None and accuracy >= target:
            progress.stopped_because = f"held-out accuracy {accuracy:.3f} reached the target {target}"
        return metrics

    def _advance(self, step: int) -> None:
        """This step is done: what a resumed run has to know."""
        progress = self.session.progress
        progress.step, progress.stream = step, self.stream.state()
        progress.algorithm = {"kl_coef": self.collector.kl_control.state()}
        if self.collector.scaling is not None:
            progress.algorithm["scaling"] = self.collector.scaling.state()
        if self.mix is not None:
            progress.algorithm["pretraining"] = self.mix.state()

    def gather(self) -> None:
        """Bring together what is shared out over ranks, before a checkpoint."""
        self.memory.enter("checkpoint")
        self.policy.gather()
        if self.critic is not None and not self.critic.shared:
            self.memory.enter("checkpoint critic")
            self.critic.model.gather()

    def write(self, folder: Path) -> None:
        """Fill the folder of a checkpoint."""
        self.memory.enter("checkpoint")
        self.policy.save_model(folder / "policy")
        self.policy.save_state(folder / "optimizer")
        if self.critic is not None:
            self.memory.enter("checkpoint critic")
            self.critic.save(folder)

    def _restore(self, folder: Path) -> None:
        """Take up policy, optimizer, critic and data positions from a checkpoint."""
        progress = self.session.progress
        self.policy.load_state(folder / "policy", folder / "optimizer")
        if self.critic is not None:
            self.critic.load(folder)
        self.stream.load_state(progress.stream)
        self.collector.kl_control.restore(progress.algorithm["kl_coef"])
        if self.collector.scaling is not None:
            self.collector.scaling.restore(progress.algorithm["scaling"])
        if self.mix is not None:
            self.mix.load_state(progress.algorithm["pretraining"])

    def _log_rollouts(self, step: int, experience: Experience) -> None:
        """Keep the step's completions for the report: rank by rank, in the order of the prompts."""
        every = self.config.tracking.rollouts_every
        if not every or step % every:
            return
        parts = self.comm.gather_objects((experience.groups, experience.table, experience.batch.advantages))
        if self.session.main:
            write_rollouts(self.session.folder.path, step, parts, self.tokenizer)

    def _warnings(self) -> list[str]:
        """What a reader of the curves must know, said at the start and in the report."""
        notes = [f"training layout: {self.policy.layout} ({self.policy.layout_reason})"]
        if self.collector.sampling.truncated:
            notes.append(
                "completions are drawn from a truncated or penalised distribution (top_k, top_p, min_p or "
                "repetition_penalty); log-probs and ratios are those of softmax(logits / temperature) without it"
            )
        return notes

    def close(self) -> None:
        """End what runs beside the trainer."""
        self.rewards.close()
        self.session.tracker.close()

    def finish(self) -> dict[str, Any]:
        """The numbers of the last evaluation are the run's."""
        progress = self.session.progress
        figures = {
            "accuracy_before": progress.accuracy_before,
            "accuracy_after": progress.accuracy,
            "problems": len(self.held_out.prompts) if self.held_out else 0,
        }
        held_out = {"before": progress.before, "after": progress.after}
        details = {"best_accuracy": progress.best_accuracy, "held_out": held_out, "data": self.stream.counts}
        return self.session.finish(figures, details | self.memory.summary())


def held_out(config: RunConfig, tokenizer: Tokenizer) -> HeldOut | None:
    """The held-out prompts, tokenised like the training data."""
    if config.eval.source is None:
        return None
    data: DataConfig = config.data.model_copy(update={"source": config.eval.source})
    return HeldOut.of(config, PromptStream(data, tokenizer, seed=config.seed).all())
