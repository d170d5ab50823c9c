"""Lean norms and MLPs: the values and gradients of the original modules, with less kept for backward."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.tiny_policy import load_policy, make_model, write_model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from mindrlhf_grpo_torch.models.lean_layers import lean_forward, make_lean  # noqa: E402

torch.set_num_threads(1)


def layer(name: str, dtype: Any = torch.float32) -> Any:
    module = make_model("llama").model.layers[0].get_submodule(name).to(dtype)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    return module


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["input_layernorm", "mlp"])
def test_values_are_equal_to_the_bit_and_gradients_to_rounding(name: str, dtype: Any) -> None:
    module = layer(name, dtype)
    x = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    inputs = [x, *module.parameters()]
    own, lean = module(x), lean_forward(module)(x)
    assert torch.equal(own, lean)
    slope = torch.randn(own.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    limit = 1e-6 if dtype == torch.float32 else 2**-7
    for ours, theirs in zip(
        torch.autograd.grad(lean, inputs, slope), torch.autograd.grad(own, inputs, slope), strict=True
    ):
        assert (ours - theirs).float().norm() <= limit * theirs.float().norm()


@pytest.mark.parametrize("name", ["input_layernorm", "mlp"])
def test_gradients_pass_the_numerical_check(name: str) -> None:
    module = layer(name, torch.float64)
    x = torch.randn(3, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    if name == "mlp":
        assert torch.autograd.gradcheck(lean_forward(module), x)
    else:  # the norm computes in float32
        own, lean = module(x), lean_forward(module)(x)
        assert torch.equal(own, lean)


def kept_numbers(module: Any, forward: Any) -> int:
    """Elements kept for backward, the module's weights and the input apart."""
    x = torch.randn(16, 32).requires_grad_()
    own = {parameter.data_ptr() for parameter in module.parameters()} | {x.data_ptr()}
    kept: dict[int, int] = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.update({t.data_ptr(): t.numel()}) or t, lambda t: t):
        forward(x)
    return sum(size for place, size in kept.items() if place not in own)


def test_what_is_kept_for_backward() -> None:
    norm, mlp = layer("input_layernorm"), layer("mlp")
    assert kept_numbers(norm, lean_forward(norm)) == 16
    assert kept_numbers(mlp, lean_forward(mlp)) == 16 * 2 * 48
    assert kept_numbers(mlp, mlp.forward) >= 16 * 4 * 48


@pytest.mark.parametrize(
    ("family", "replaced"),
    [("llama", 2 * 3 + 1), ("qwen3", 2 * 5 + 1), ("gpt2", 0), ("gemma3_text", 0), ("glm4", 2 * 4 + 1)],
)
def test_only_modules_that_agree_are_replaced(family: str, replaced: int) -> None:
    assert make_lean(make_model(family)) == replaced


def test_adapted_projections_keep_their_own_code(tmp_path: Any) -> None:
    policy = load_policy(write_model(tmp_path), lora_rank=2)
    layer = policy.model.get_base_model().model.layers[0]
    assert "forward" in vars(layer.input_layernorm)
    assert "forward" not in vars(layer.mlp)
