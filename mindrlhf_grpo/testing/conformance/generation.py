"""Conformance of the engine: tokens, log-probs, sampling options, ends of completions, independence, sync."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...types import FinishReason, Rollout, RolloutGroup, Sampling
from ..numpy_model.generation import Completion, complete
from ..parity.workload import SAMPLINGS
from .backend_under_test import END_TOKENS, STEPS, BackendUnderTest, ids
from .comparisons import Deviates, equal, within


def sampled(backend: BackendUnderTest, name: str) -> None:
    """Check that tokens equal NumPy's, and log-probs are those before truncation."""
    sampling, size = backend.sampling(name), backend.workload.group_size
    groups = backend.engine.generate(backend.prompts, sampling, group_size=size)
    compare(backend, groups, sampling)


def compare(backend: BackendUnderTest, groups: Sequence[RolloutGroup], sampling: Sampling) -> None:
    """Compare completions with those of the NumPy model."""
    equal("order of prompts", [g.prompt.uid for g in groups], [prompt.uid for prompt in backend.prompts])
    model = backend.truth()
    for group in groups:
        for sample, rollout in enumerate(group.rollouts):
            expected = complete(model, group.prompt, sample, sampling, END_TOKENS)
            where = f"prompt {group.prompt.uid}, sample {sample}"
            equal(f"number of the sample, {where}", rollout.sample, sample)
            same_completion(backend, where, rollout, expected)
            ended = rollout.ids[-1] in END_TOKENS
            equal(f"finish, {where}", rollout.finish, FinishReason.STOP if ended else FinishReason.LENGTH)


def same_completion(backend: BackendUnderTest, where: str, rollout: Rollout, expected: Completion) -> None:
    """Check tokens and their log-probs; in 16 bits the log-probs up to the first token that differs."""
    if backend.limits.tokens:
        equal(f"tokens, {where}", rollout.ids.tolist(), expected.ids)
    both = min(len(rollout.ids), len(expected.ids))
    same = int(np.cumprod(rollout.ids[:both] == np.asarray(expected.ids[:both])).sum())
    within(f"log-probs, {where}", rollout.logps[:same], expected.logps[:same], backend.limits.log_probs)


def sampling_check(name: str) -> Callable[[BackendUnderTest], None]:
    """The check of one sampling."""

    def check(backend: BackendUnderTest) -> None:
        sampled(backend, name)

    check.__name__ = f"sampling_{name.replace(' ', '_').replace('-', '_')}"
    check.__doc__ = f"{name}: tokens equal to NumPy's, log-probs before truncation."
    return check


def completions_do_not_depend_on_order(backend: BackendUnderTest) -> None:
    """Prompts in another order, or alone, have the same completions."""
    sampling, size = backend.sampling(), backend.workload.group_size
    expected = ids(backend.engine.generate(backend.prompts, sampling, group_size=size))
    turned = backend.engine.generate(backend.prompts[::-1], sampling, group_size=size)
    equal("completions of reversed prompts", ids(turned), expected)
    alone = ids(backend.engine.generate(backend.prompts[1:2], sampling, group_size=size))
    equal("completions of one prompt alone", alone, {key: expected[key] for key in alone})


def completions_do_not_depend_on_slots(backend: BackendUnderTest) -> None:
    """One slot gives the same completions as many."""
    sampling, size = backend.sampling(), backend.workload.group_size
    expected = ids(backend.engine.generate(backend.prompts, sampling, group_size=size))
    single = backend.stack(rollout={"slots": 1}).engine(backend.workload)
    equal("completions in one slot", ids(single.generate(backend.prompts, sampling, group_size=size)), expected)


def another_seed_gives_other_completions(backend: BackendUnderTest) -> None:
    """The seed of sampling changes completions."""
    size = backend.workload.group_size
    one, other = (
        ids(backend.engine.generate(backend.prompts, backend.sampling(seed=seed), group_size=size)) for seed in (0, 1)
    )
    if one == other:
        raise Deviates("seeds 0 and 1 give the same completions")


def a_stop_string_ends_a_completion(backend: BackendUnderTest) -> None:
    """The token that completes it is the last; the text ends before it."""
    free = backend.sampling(min_tokens=12)
    chosen = backend.engine.generate(backend.prompts[:1], free, group_size=1)[0].rollouts[0].ids.tolist()
    stop = f"<{chosen[12]}><{chosen[13]}>"
    sampling = backend.sampling(min_tokens=12, stop=(stop,))
    stopped = backend.engine.generate(backend.prompts[:1], sampling, group_size=1)[0].rollouts[0]
    equal("tokens up to the stop string", stopped.ids.tolist(), chosen[:14])
    equal("finish", stopped.finish, FinishReason.STOP)
    equal("text before the stop string", stopped.text, "".join(f"<{token}>" for token in chosen[:12]))


def the_engine_sleeps_and_wakes(backend: BackendUnderTest) -> None:
    """Freeing the cache changes no completion."""
    expected = ids(backend.engine.generate(backend.prompts, backend.sampling(), group_size=1))
    backend.engine.sleep()
    backend.engine.wake_up()
    equal("after sleep", ids(backend.engine.generate(backend.prompts, backend.sampling(), group_size=1)), expected)


def no_prompts_give_no_completions(backend: BackendUnderTest) -> None:
    """No prompts give an empty list."""
    equal("completions of no prompts", list(backend.engine.generate([], backend.sampling(), group_size=2)), [])


def sync_brings_the_trained_weights(backend: BackendUnderTest) -> None:
    """Fingerprints change with training and agree after a push; the engine completes with the new weights."""
    training = backend.training
    before, policy, engine = training.fingerprints
    equal("fingerprint of the engine after the push", engine, policy)
    if before == policy:
        raise Deviates("the fingerprint did not change in training")
    trained = backend.truth(training.weights[STEPS])
    for group in training.completions:
        rollout = group.rollouts[0]
        expected = complete(trained, group.prompt, 0, backend.sampling("greedy"), END_TOKENS)
        same_completion(backend, f"greedy after the push, prompt {group.prompt.uid}", rollout, expected)
        equal("weight version", rollout.weight_version, STEPS)


CHECKS = (
    *(sampling_check(name) for name in SAMPLINGS), completions_do_not_depend_on_order,
    completions_do_not_depend_on_slots, another_seed_gives_other_completions, a_stop_string_ends_a_completion,
    the_engine_sleeps_and_wakes, no_prompts_give_no_completions, sync_brings_the_trained_weights,
)  # fmt: skip
