"""The shared layout equals the plain one, and both equal transformers' own logits."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindrlhf_grpo.errors import BackendError
from tests.support.tiny_policy import (
    gradients,
    load_policy,
    make_batch,
    own_logps,
    relative,
    weighted_loss,
    write_model,
)

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

SHARED = ["llama", "qwen2", "qwen3", "mistral", "gemma3_text", "glm4", "gpt2", "granite", "deepseek_v3"]
GROUPS = st.lists(
    st.tuples(st.integers(1, 12), st.lists(st.integers(1, 14), min_size=1, max_size=5)), min_size=1, max_size=3
)


@cache
def folder(family: str) -> Path:
    return write_model(Path(mkdtemp()), family)


@cache
def policy(family: str, layout: str, lora_rank: int = 0, recompute: bool = False) -> Any:
    made = load_policy(folder(family), layout=layout, lora_rank=lora_rank, recompute=recompute)
    torch.manual_seed(1)
    for name, weight in made.trainable.items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return made


@pytest.mark.parametrize("family", SHARED)
def test_auto_takes_the_shared_layout_and_gives_transformers_log_probs(family: str) -> None:
    made = policy(family, "auto")
    assert made.layout == "shared", made.layout_reason
    batch = make_batch()
    truth = own_logps(made.model, batch)
    assert np.abs(made.logps(batch).logps - truth).max() < 2e-5
    assert np.abs(policy(family, "plain").logps(batch).logps - truth).max() < 2e-5


@settings(max_examples=40, deadline=None)
@given(
    groups=GROUPS,
    family=st.sampled_from(["llama", "qwen3", "gpt2", "mistral"]),
    lora=st.booleans(),
    seed=st.integers(0, 9),
)
def test_loss_and_gradients_of_shared_and_plain_are_equal(groups: Any, family: str, lora: bool, seed: int) -> None:
    batch = make_batch(groups, seed=seed)
    rank = 3 if lora else 0
    shared_loss, shared = gradients(policy(family, "shared", rank), batch)
    plain_loss, plain = gradients(policy(family, "plain", rank), batch)
    assert shared_loss == pytest.approx(plain_loss, rel=1e-5, abs=1e-6)
    total = torch.cat([gradient.flatten() for gradient in plain.values()]).norm()
    for name, gradient in plain.items():
        assert (shared[name] - gradient).norm() <= 1e-5 * max(gradient.norm(), 0.01 * total), name


@pytest.mark.parametrize("layout", ["shared", "plain"])
def test_recomputed_activations_change_no_gradient(layout: str) -> None:
    batch = make_batch()
    loss, kept = gradients(policy("llama", layout), batch)
    again, recomputed = gradients(policy("llama", layout, 0, True), batch)
    assert again == loss
    assert all(torch.equal(recomputed[name], gradient) for name, gradient in kept.items())


def test_recomputation_really_runs_the_layers_again() -> None:
    made, calls = policy("llama", "shared", 0, True), []
    hook = made.model.model.layers[0].self_attn.q_proj.register_forward_hook(lambda *_: calls.append(1))
    made.backward(make_batch(), weighted_loss)
    hook.remove()
    made.drop_gradients()
    assert len(calls) == 2


@pytest.mark.parametrize("layout", ["shared", "plain"])
@pytest.mark.parametrize("budget", [1, 14, 30, 10_000])
def test_the_token_budget_changes_no_gradient(layout: str, budget: int) -> None:
    batch = make_batch()
    loss, whole = gradients(policy("qwen2", layout), batch)
    made = load_policy(folder("qwen2"), layout=layout, train={"tokens_per_micro_batch": budget})
    cut_loss, cut = gradients(made, batch)
    assert (len(made.micro_batches(batch)) > 1) == (budget < 100)
    assert cut_loss == pytest.approx(loss, rel=1e-5)
    assert all(relative(cut[name], gradient) < 1e-5 for name, gradient in whole.items())


def test_a_model_with_soft_capped_scores_falls_back_to_plain_and_says_so() -> None:
    made = policy("gemma2", "auto")
    assert made.layout == "plain"
    assert "softcap" in made.layout_reason
    assert made.scorer.head_reason.startswith("the model's own head")
    batch = make_batch()
    assert np.abs(made.logps(batch).logps - own_logps(made.model, batch)).max() < 2e-5


def test_forcing_the_shared_layout_on_such_a_model_is_an_error() -> None:
    with pytest.raises(BackendError, match=r"model\.layout=shared is not possible for Gemma2ForCausalLM.*softcap"):
        load_policy(folder("gemma2"), layout="shared")


def test_a_prompt_is_computed_once_and_nothing_is_padded() -> None:
    made = policy("llama", "shared")
    inputs = made.scorer.input(make_batch([(5, [3, 7, 1]), (2, [4, 4])]))
    assert inputs.ids.shape == (1, 5 + 2 + 2 + 6 + 0 + 3 + 3)  # the last token of a completion predicts nothing
    assert sorted(inputs.positions[0, :7].tolist()) == [0, 0, 1, 1, 2, 3, 4]


def test_completions_do_not_see_each_other() -> None:
    made = policy("llama", "shared")
    batch = make_batch([(4, [6, 6])])
    before = made.logps(batch).logps
    batch.ids[1] = (batch.ids[1] + 1) % 61
    after = made.logps(batch).logps
    assert np.array_equal(before[0], after[0])
    assert not np.array_equal(before[1], after[1])


def test_the_portable_attention_equals_the_cpu_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    from mindrlhf_grpo_torch.training import attention

    batch = make_batch()
    loss, fast = gradients(policy("llama", "shared"), batch)
    monkeypatch.setattr(attention, "flash_fits", lambda query, value: False)
    portable_loss, portable = gradients(policy("llama", "shared"), batch)
    assert portable_loss == pytest.approx(loss, rel=1e-5)
    assert all(relative(portable[name], gradient) < 1e-5 for name, gradient in fast.items())


def test_outside_the_policy_the_model_attends_as_usual() -> None:
    made = policy("llama", "shared")
    ids = torch.tensor([[0, 0, 5, 6, 7], [1, 2, 3, 4, 5]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    with torch.no_grad():
        padded = made.model(input_ids=ids, attention_mask=mask, position_ids=mask.cumsum(1).sub(1).clamp_min(0)).logits
        alone = made.model(input_ids=ids[:1, 2:]).logits
    assert torch.allclose(padded[0, 2:], alone[0], atol=1e-5)
