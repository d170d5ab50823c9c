"""A rehearsal of 16 bits on the processor: every part of a run compiles and computes in float16 what it does in float32.

MindSpore's processor kernels multiply float16 matrices and no bfloat16 ones. Types are inferred alike for both, so what
compiles here does not fail on Ascend by its types. Weights are rounded to float16 first, so both runs have the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import tiny_families, tiny_policy

pytest.importorskip("mindspore")
pytest.importorskip("torch")

import mindrlhf_grpo_mindspore
import mindrlhf_grpo_torch

from mindrlhf_grpo.losses import PolicyLoss
from mindrlhf_grpo.testing.numpy_model.tiny_llama import NumberTokenizer
from mindrlhf_grpo.types import Batch, Prompt, RolloutGroup, Sampling

ROUNDING = 2.0**-11  # of one float16 number, relative
# About a dozen roundings follow one another in a layer, and errors of independent ones add up by their squares.
LOG_PROBS = 64 * ROUNDING  # 0.03, absolute, of log-probs up to about 15
GRADIENTS = 64 * ROUNDING  # relative to the norm of all
LOSS = PolicyLoss()
LORA = {"lora_rank": 4, "lora_alpha": 8.0}
OTHERS = [pytest.param(family, marks=pytest.mark.slow) for family in ("llama", "qwen3", "glm4", "deepseek_v3")]


def folder_of(family: str, folder: Path) -> Path:
    """A tiny model whose weights are float16 numbers, stored as float32."""
    model = tiny_families.make_model(family).half().float()
    return tiny_families.save(model, folder)


def policies(path: Path, **model: Any) -> tuple[Any, Any]:
    """(backend, policy) of torch in float32 and of MindSpore in float16."""
    config = tiny_policy.run_config(path, device="cpu", **model)
    narrow = config.model_copy(update={"model": config.model.model_copy(update={"dtype": "float16"})})
    pairs = [module.build(each) for module, each in ((mindrlhf_grpo_torch, config), (mindrlhf_grpo_mindspore, narrow))]
    return tuple((backend, backend.load_policy()) for backend in pairs)  # type: ignore[return-value]


@pytest.mark.parametrize("family", ["qwen2", *OTHERS])
def test_log_probs_gradients_and_a_step_are_those_of_float32(tmp_path: Path, family: str) -> None:
    (_, wide), (backend, narrow) = policies(folder_of(family, tmp_path))
    check_training(wide, narrow)
    check_sampling(backend, narrow)


def test_adapters_train_over_sixteen_bits(tmp_path: Path) -> None:
    (_, wide), (backend, narrow) = policies(folder_of("qwen2", tmp_path), **LORA)
    check_training(wide, narrow)
    check_sampling(backend, narrow)


def batch_of(groups: list[RolloutGroup]) -> Batch:
    """The sampled completions as a batch, with the log-probs they were sampled with."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    lengths = np.array([len(rollout.ids) for rollout in rollouts], np.int32)
    ids, logps = (np.zeros((len(rollouts), lengths.max()), kind) for kind in (np.int32, np.float32))
    for row, rollout in enumerate(rollouts):
        ids[row, : lengths[row]], logps[row, : lengths[row]] = rollout.ids, rollout.logps
    mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.float32)
    return Batch(
        prompts=tuple(group.prompt.ids for group in groups),
        prompt_of=np.repeat(np.arange(len(groups)), [len(group.rollouts) for group in groups]).astype(np.int32),
        ids=ids, lengths=lengths, mask=mask, weights=mask, advantages=mask, rollout_logps=logps, temperature=1.0,
    )  # fmt: skip


def check_training(wide: Any, narrow: Any) -> None:
    batch = tiny_policy.make_batch()
    expected, found = (policy.logps(batch, entropy=True) for policy in (wide, narrow))
    np.testing.assert_allclose(found.logps, expected.logps, rtol=0, atol=LOG_PROBS)
    np.testing.assert_allclose(found.entropy, expected.entropy, rtol=0, atol=LOG_PROBS)
    for _ in range(2):
        theirs, ours = (policy.update(batch, LOSS, learning_rate=1e-3) for policy in (wide, narrow))
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=GRADIENTS)
        assert ours.loss == pytest.approx(theirs.loss, abs=LOG_PROBS)


def check_sampling(backend: Any, policy: Any) -> None:
    """Prefill, decoding over the cache of a device, and sampling: the log-probs are the policy's own."""
    engine = backend.load_engine(policy, NumberTokenizer(tiny_families.VOCABULARY, (2,)))
    prompts = [
        Prompt(uid=uid, ids=np.arange(3, 3 + length, dtype=np.int32), text="", row=uid)
        for uid, length in enumerate((4, 9))
    ]
    groups = engine.generate(prompts, Sampling(max_tokens=8, seed=0), group_size=2)
    batch = batch_of(groups)
    assert batch.rollout_logps is not None
    difference = (policy.logps(batch).logps - batch.rollout_logps) * batch.mask
    np.testing.assert_allclose(difference, 0, rtol=0, atol=LOG_PROBS)
