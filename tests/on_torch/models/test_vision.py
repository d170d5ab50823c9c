"""Models that read images: log-probs, gradients and samples are transformers' own; frozen weights stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.batches.online import build_batch
from mindrlhf_grpo.config.run import RunConfig
from mindrlhf_grpo.data.stream import PromptStream
from mindrlhf_grpo.errors import BackendError, ConfigError
from mindrlhf_grpo.losses.function_loss import FunctionLoss
from mindrlhf_grpo.tokenizers.tokenizer import load_tokenizer
from mindrlhf_grpo.types import Batch, FinishReason, Prompt, Rollout, RolloutGroup, Sampling
from tests.support.tiny_vision import FAMILIES, TOWER, prepare, settings

torch = pytest.importorskip("torch")

LENGTHS = (5, 1, 3, 4, 2, 5, 3, 3, 1, 4, 5, 2)  # of two completions for each of six prompts


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp(family), family)


def policy_of(folder: Path, family: str, **model: Any) -> Any:
    from mindrlhf_grpo_torch.training.policy import TorchPolicy

    from mindrlhf_grpo.parallel.single_process import SingleProcess

    config = RunConfig.model_validate(settings(folder, family, model=model))
    return TorchPolicy(config, torch.device("cpu"), SingleProcess())


def prompts_of(folder: Path, family: str) -> list[Prompt]:
    config = RunConfig.model_validate(settings(folder, family, data={"shuffle": False}))
    return PromptStream(config.data, load_tokenizer(config.model.path), seed=0).take(6)


def batch_of(prompts: Sequence[Prompt], image_token: int) -> Batch:
    """Random completions; one of them holds an image's token, as a sampled one may."""
    random = np.random.default_rng(0)
    drawn = [random.integers(8, 30, length) for length in LENGTHS]
    drawn[3][2] = image_token
    groups = [
        RolloutGroup(
            prompt=prompt,
            rollouts=tuple(
                Rollout(sample=s, ids=ids, logps=np.zeros(len(ids), np.float32), finish=FinishReason.STOP, text="")
                for s, ids in enumerate(drawn[2 * index : 2 * index + 2])
            ),
        )
        for index, prompt in enumerate(prompts)
    ]
    mask = (np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]).astype(np.float32)
    weights = mask * random.normal(size=mask.shape).astype(np.float32)
    return build_batch(groups, mask, weights=weights, temperature=1.0, mask=mask)


@FunctionLoss
def score(xp: Any, logps: Any, tensors: Any) -> tuple[Any, dict[str, Any]]:
    """A weighted sum of log-probs."""
    return (logps * tensors["weights"]).sum(), {}


def truth(model: Any, batch: Batch) -> Any:
    """``[N, T]`` from transformers' forward on one row at a time, without an image's token in the completion."""
    rows = []
    token = model.config.image_token_id
    for row, length in enumerate(batch.lengths):
        prompt, features = batch.prompts[batch.prompt_of[row]], batch.features[batch.prompt_of[row]]
        ids = torch.tensor(np.concatenate([prompt, batch.ids[row, :length]]).astype(np.int64))[None]
        images = {name: torch.tensor(array) for name, array in features.items()}
        if hasattr(model.model, "rope_deltas"):
            model.model.rope_deltas = None
            images |= {"mm_token_type_ids": (ids == token).int()} if images else {}
        logps = torch.log_softmax(model(input_ids=ids, **images, use_cache=False).logits[0].float(), -1)
        picked = logps[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None])[:, 0]
        rows.append(torch.nn.functional.pad(picked, (0, max(LENGTHS) - length)))
    return torch.stack(rows)


@pytest.mark.parametrize("layout", ["shared", "plain"])
@pytest.mark.row("safework", "Multimodal")
def test_log_probs_and_gradients_are_those_of_transformers(folder: Path, family: str, layout: str) -> None:
    policy = policy_of(folder, family, layout=layout)
    batch = batch_of(prompts_of(folder, family), 9)
    expected = truth(policy.model, batch)
    np.testing.assert_allclose(policy.logps(batch).logps, expected.detach().numpy(), atol=1e-5)
    (expected * torch.tensor(batch.weights)).sum().backward()
    wanted = {name: weight.grad.clone() for name, weight in policy.trainable.items() if weight.grad is not None}
    policy.drop_gradients()
    assert len(policy.micro_batches(batch)) >= 2
    policy.backward_all(replace(batch, advantages=batch.mask), score)
    scale = max(float(gradient.abs().max()) for gradient in wanted.values())
    for name, gradient in wanted.items():
        torch.testing.assert_close(policy.trainable[name].grad, gradient, atol=2e-5 * scale, rtol=1e-4, msg=name)
    assert any(name.startswith(f"model.{TOWER[family][0]}") for name in wanted)


def test_an_images_token_in_a_completion_is_a_token_like_others(folder: Path, family: str) -> None:
    policy = policy_of(folder, family)
    prompts = prompts_of(folder, family)
    token = policy.model.config.image_token_id
    found = policy.logps(batch_of(prompts, token)).logps
    plain = policy.logps(batch_of(prompts, 9)).logps
    np.testing.assert_array_equal(found[3, :2], plain[3, :2])
    assert np.isfinite(found).all()
    assert abs(found[3, 2] - plain[3, 2]) > 1e-3
    assert abs(found[3, 3] - plain[3, 3]) > 1e-3


def test_samples_have_the_log_probs_they_are_trained_with_whatever_the_slots(folder: Path, family: str) -> None:
    from mindrlhf_grpo_torch.generation.engine import TorchEngine

    policy = policy_of(folder, family)
    prompts = prompts_of(folder, family)
    tokenizer = load_tokenizer(str(folder / family))
    found = []
    for slots in (1, 5, 18):
        engine = TorchEngine(policy.model, tokenizer, slots=slots)
        assert engine.decoder_name == "cached"
        groups = engine.generate(prompts, Sampling(max_tokens=6, seed=2), group_size=3)
        found.append([rollout.ids.tolist() for group in groups for rollout in group.rollouts])
    assert found[0] == found[1] == found[2]
    lengths = np.array([len(ids) for ids in found[0]])
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.float32)
    batch = build_batch(groups, mask, weights=mask, temperature=1.0, mask=mask)
    np.testing.assert_allclose(policy.logps(batch).logps, batch.rollout_logps, atol=1e-5)


def test_recomputed_activations_leave_generation_its_cache(folder: Path, family: str) -> None:
    from mindrlhf_grpo_torch.generation.engine import TorchEngine

    prompts, found = prompts_of(folder, family), []
    for recompute in (False, True):
        policy = policy_of(folder, family, recompute=recompute)
        engine = TorchEngine(policy.model, load_tokenizer(str(folder / family)), slots=4)
        assert engine.decoder_name == "cached"
        groups = engine.generate(prompts, Sampling(max_tokens=4, seed=2), group_size=2)
        found.append([rollout.ids.tolist() for group in groups for rollout in group.rollouts])
    assert found[0] == found[1]
    assert any(layer.training for layer in policy.model.modules())


def test_text_alone_has_the_same_samples_beside_images(folder: Path, family: str) -> None:
    from mindrlhf_grpo_torch.generation.engine import TorchEngine

    engine = TorchEngine(policy_of(folder, family).model, load_tokenizer(str(folder / family)), slots=4)
    prompts = prompts_of(folder, family)
    beside = engine.generate(prompts, Sampling(max_tokens=6, seed=2), group_size=2)
    alone = engine.generate([prompts[1], prompts[4]], Sampling(max_tokens=6, seed=2), group_size=2)
    for one, other in zip((beside[1], beside[4]), alone, strict=True):
        assert [r.ids.tolist() for r in one.rollouts] == [r.ids.tolist() for r in other.rollouts]


def test_adapters_are_on_the_language_part_and_recomputing_changes_nothing(folder: Path, family: str) -> None:
    batch = batch_of(prompts_of(folder, family), 9)
    plain, lean = (policy_of(folder, family, lora_rank=2, recompute=recompute) for recompute in (False, True))
    assert plain.trainable
    assert all(".language_model." in name and "lora_" in name for name in plain.trainable)
    for policy in (plain, lean):
        policy.backward_all(batch, score)
    for name, weight in plain.trainable.items():
        torch.testing.assert_close(lean.trainable[name].grad, weight.grad)


def test_frozen_weights_have_no_gradient_and_no_optimizer_state(folder: Path, family: str) -> None:
    policy = policy_of(folder, family, freeze={"prefixes": TOWER[family]})
    before = {name: weight.detach().clone() for name, weight in policy.model.named_parameters()}
    policy.update(batch_of(prompts_of(folder, family), 9), score, learning_rate=0.01)
    moved = {name for name, weight in policy.model.named_parameters() if not torch.equal(weight, before[name])}
    tower = {name for name in before if not name.startswith(("model.language_model.", "lm_head."))}
    assert tower
    assert not moved & tower
    assert not any(name.partition("/")[2] in tower for name in policy.optimizer.named_state())
    assert "lm_head.weight" in moved


def test_prefixes_must_name_weights_and_leave_some(folder: Path, family: str) -> None:
    with pytest.raises(ConfigError, match=r"no weight is called vis\. \.\.\.; here: language_model, lm_head, "):
        policy_of(folder, family, freeze={"prefixes": ["vis"]})
    with pytest.raises(ConfigError, match="leave no weight to train"):
        policy_of(folder, family, freeze={"prefixes": ["language_model", "lm_head", *TOWER[family]]})


def test_images_that_do_not_fit_the_model_are_an_error(folder: Path, family: str) -> None:
    policy = policy_of(folder, family)
    prompt = prompts_of(folder, family)[0]
    shorter = prompt.ids[prompt.ids != policy.model.config.image_token_id]
    bad = [replace(prompt, ids=np.append(shorter, policy.model.config.image_token_id).astype(np.int32))] * 6
    with pytest.raises(BackendError, match="the image processor's settings do not fit the model"):
        policy.logps(batch_of(bad, 9))


def test_a_model_that_reads_text_only_refuses_images(folder: Path, family: str, tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    Qwen2ForCausalLM(Qwen2Config(**sizes, num_attention_heads=2, num_key_value_heads=1)).save_pretrained(
        tmp_path / "text"
    )
    policy = policy_of(tmp_path, "text")
    with pytest.raises(
        BackendError, match=r"Qwen2ForCausalLM reads text only, but prompts have images \(data.images\)"
    ):
        policy.logps(batch_of(prompts_of(folder, family), 9))
