"""Weight sync from policy to engine: shared parameters, copies, and a difference that stops the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import tiny
from tests.support.tiny_generation import by_request, load_model, make_engine, make_prompts, sampling, tokenizer_of
from tests.support.tiny_generation import tokens as tokens_of

ms = pytest.importorskip("mindspore")

from mindrlhf_grpo_mindspore.devices import Device  # noqa: E402
from mindrlhf_grpo_mindspore.generation.engine import build_engine  # noqa: E402
from mindrlhf_grpo_mindspore.sync.weight_sync import build_weight_sync  # noqa: E402
from mindrlhf_grpo_mindspore.training.policy import MindSporePolicy  # noqa: E402
from mindrlhf_grpo_mindspore.training.trained_model import RunContext  # noqa: E402
from mindspore import Tensor  # noqa: E402

from mindrlhf_grpo.backend import CompileLog  # noqa: E402
from mindrlhf_grpo.batches.online import build_batch  # noqa: E402
from mindrlhf_grpo.config.run import RunConfig  # noqa: E402
from mindrlhf_grpo.errors import BackendError, RunFailed  # noqa: E402
from mindrlhf_grpo.losses.function_loss import FunctionLoss  # noqa: E402
from mindrlhf_grpo.parallel.single_process import SingleProcess  # noqa: E402
from mindrlhf_grpo.types import Batch, RolloutGroup  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sync")
    tiny.write_model(folder / "model")
    return folder


def make_policy(folder: Path, **model: Any) -> MindSporePolicy:
    config = RunConfig.model_validate(tiny.settings(folder, model=model))
    around = RunContext(
        device=Device("cpu"), comm=SingleProcess(), log=CompileLog(), seed=config.seed, rollout=config.rollout
    )
    return MindSporePolicy(config, around)


@FunctionLoss
def weighted_loss(xp: Any, logps: Any, tensors: Any) -> tuple[Any, dict[str, Any]]:
    loss = -xp.sum(logps * tensors["advantages"] * tensors["weights"])
    return loss, {"loss": loss}


def batch_of(groups: list[RolloutGroup]) -> Batch:
    rollouts = list(by_request(groups).values())
    longest = max(len(rollout.ids) for rollout in rollouts)
    mask = (np.arange(longest) < np.array([[len(rollout.ids)] for rollout in rollouts])).astype(np.float32)
    return build_batch(groups, mask, weights=mask / mask.sum(), temperature=1.0, mask=mask)


def test_after_an_update_the_engine_samples_from_the_policy(folder: Path) -> None:
    policy = make_policy(folder, lora_rank=3)
    engine = build_engine(policy.config, policy, tokenizer_of(folder / "model"), CompileLog())
    sync = build_weight_sync(policy, engine)
    sync.push(0)
    groups = engine.generate(make_prompts(), sampling(), group_size=2)
    for _ in range(2):
        policy.update(batch_of(groups), weighted_loss, learning_rate=0.05)
    sync.push(4)
    assert engine.fingerprint() == policy.fingerprint()
    after = engine.generate(make_prompts(), sampling(), group_size=2)
    assert {rollout.weight_version for rollout in by_request(after).values()} == {4}
    assert tokens_of(after) != tokens_of(groups)
    batch = batch_of(after)
    gap = (policy.logps(batch).logps - batch.rollout_logps) * batch.mask
    assert np.abs(gap).max() < 1e-4


def test_an_engine_of_its_own_is_overwritten_where_its_weights_lie(folder: Path) -> None:
    policy = make_policy(folder)
    policy.weights["model.layers.1.mlp.up_proj.weight"] *= 1.5
    engine = make_engine(folder / "model", slots=8)
    first = tokens_of(engine.generate(make_prompts(), sampling(), group_size=1))
    sync = build_weight_sync(policy, engine)
    with pytest.raises(RunFailed, match=r"model\.layers\.1\.mlp\.up_proj\.weight differs between engine and policy"):
        sync.verify()
    assert engine.weight_version == 0
    sync.push(2)
    assert (engine.fingerprint(), engine.weight_version) == (policy.fingerprint(), 2)
    assert tokens_of(engine.generate(make_prompts(), sampling(), group_size=1)) != first


def test_a_weight_put_elsewhere_after_compilation_is_found(folder: Path) -> None:
    policy = make_policy(folder)
    engine = build_engine(policy.config, policy, tokenizer_of(folder / "model"), CompileLog())
    engine.generate(make_prompts((4,)), sampling(max_tokens=1), group_size=1)
    norm = policy.weights["model.norm.weight"]
    norm.set_data(Tensor(norm.asnumpy() * 2))
    with pytest.raises(RunFailed, match=r"model\.norm\.weight was put elsewhere after the engine was compiled"):
        build_weight_sync(policy, engine).push(1)


def test_what_cannot_be_synced_is_refused(folder: Path) -> None:
    policy = make_policy(folder)
    engine = make_engine(folder / "model", slots=8)
    with pytest.raises(BackendError, match="not to object"):
        build_weight_sync(policy, object())
    del engine.model.weights["model.norm.weight"]
    with pytest.raises(RunFailed, match=r"model\.norm\.weight of the policy is unknown"):
        build_weight_sync(policy, engine).push(1)


def test_an_engine_without_a_policy_loads_the_model(folder: Path) -> None:
    config = RunConfig.model_validate(tiny.settings(folder))
    engine = build_engine(config, None, tokenizer_of(folder / "model"), CompileLog())
    loaded = load_model(folder / "model")
    assert engine.fingerprint() == make_engine(folder / "model", model=loaded).fingerprint()
    assert (engine.slots, engine.context, engine.decoder_name) == (8, 128, "cached")
