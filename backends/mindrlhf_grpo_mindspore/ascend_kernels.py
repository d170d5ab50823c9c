"""Ascend's own kernels for the operations of ``ops``, written from MindSpore's documentation and not yet run.

``ops.choose_kernels`` uses one only after it has agreed with its reference on the device.
Legend as in ``ops``.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor
from mindspore import ops as native
from mindspore.ops.auto_generate import grouped_matmul_v4

from .portable_ops import Operation, reference_rotate, reference_softmax_attention


def ascend_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return native.rms_norm(x, weight, eps)[0]


def ascend_rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Rotary embedding; the kernel takes ``[1, S, H, D]`` with cosine and sine for both halves."""
    if interleaved:
        return reference_rotate(x, cos, sin, True)
    both = [native.cat((part, part), -1).expand_dims(0) for part in (cos, sin)]
    return native.rotary_position_embedding(x.expand_dims(0), both[0], both[1], 0).squeeze(0)


def ascend_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return native.swiglu(native.cat((gate, up), -1), -1)


def ascend_flash_attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scale: float) -> Tensor:
    """FlashAttention, https://arxiv.org/abs/2205.14135; the kernel takes values as large as keys, in multiples of 16."""
    if keys.shape[3] != values.shape[3] or queries.shape[3] % 16 != 0:
        return reference_softmax_attention(queries, keys, values, bias, scale)
    hidden = native.broadcast_to(bias < 0, (queries.shape[0], 1, queries.shape[1], keys.shape[1])).astype(ms.uint8)
    return native.flash_attention_score(
        queries, keys, values, queries.shape[2], attn_mask=hidden, scalar_value=scale, input_layout="BSND"
    )


def ascend_grouped_experts(x: Tensor, gate_up: Tensor, down: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
    """Mixture of experts: tokens sorted by expert, one grouped product each way."""
    sorted_tokens, origin = native.moe_token_permute(x, chosen)
    ends = native.cumsum(native.one_hot(chosen.reshape(-1), gate_up.shape[0], 1, 0).sum(0), 0).astype(ms.int64)
    both = grouped_matmul_v4(
        [sorted_tokens], [gate_up.transpose(0, 2, 1)], group_list=ends, split_item=3, group_type=0, group_list_type=0
    )[0]
    active = native.swiglu(both, -1)
    changed = grouped_matmul_v4(
        [active], [down.transpose(0, 2, 1)], group_list=ends, split_item=3, group_type=0, group_list_type=0
    )[0]
    return native.moe_token_unpermute(changed, origin, probs=shares)


def without_float32(name: str) -> bool:
    """True if the kernel takes float16 and bfloat16 only."""
    return name == "softmax_attention"


KERNELS: dict[str, Operation] = {
    "rms_norm": ascend_rms_norm,
    "rotate": ascend_rotate,
    "swiglu": ascend_swiglu,
    "softmax_attention": ascend_flash_attention,
    "experts": ascend_grouped_experts,
}
