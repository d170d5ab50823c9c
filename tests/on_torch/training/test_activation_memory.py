"""The bytes that autograd saves equal the prediction of ``capacity.memory``."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mindrlhf_grpo_torch.models.lean_layers import make_lean  # noqa: E402

from mindrlhf_grpo.capacity.memory import KEPT, KEPT_ANYWAY  # noqa: E402

TOKENS = 64
WIDTHS = [(64, 192, 2, 1), (128, 192, 2, 1), (64, 384, 2, 1), (64, 192, 4, 1), (64, 192, 4, 2)]
HEAD = 32


def kept(hidden: int, intermediate: int, heads: int, keys: int, layers: int, dtype: str) -> int:
    """Bytes kept by a Llama's forward pass, each storage once, weights left out."""
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=intermediate, num_attention_heads=heads, num_key_value_heads=keys,
        head_dim=HEAD, num_hidden_layers=layers, vocab_size=32, max_position_embeddings=TOKENS,
    )  # fmt: skip
    model = LlamaModel(config).to(getattr(torch, dtype))
    make_lean(model)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    stored: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            stored[storage.data_ptr()] = (storage.nbytes(), tensor)  # kept alive: an address is not used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=torch.zeros((1, TOKENS), dtype=torch.long), use_cache=False)
    return sum(size for size, _ in stored.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_of_a_block_are_as_predicted(dtype: str) -> None:
    for hidden, intermediate, heads, keys in WIDTHS:
        counted = kept(hidden, intermediate, heads, keys, 2, dtype) - kept(hidden, intermediate, heads, keys, 1, dtype)
        widths = np.array([hidden, intermediate, heads * HEAD, keys * HEAD])
        predicted = TOKENS * (int(np.dot(KEPT[dtype, False], widths)) + KEPT_ANYWAY)
        # attention adds a log-sum-exp for each head, which is left out
        assert 0 <= counted - predicted <= TOKENS * 4 * heads
