"""Attention in training: the shared layout, which holds a group's prompt once, and the plain one.

Both gather the flat list of tokens into rows of one static shape and pass these to ``ops.softmax_attention``. Padding
has an exact probability of 0 as a key, and an exact gradient of 0 as a query, so it changes no number.
Legend: S flat tokens, M prompts of up to P tokens, G completions each of up to T tokens, N rows of up to W tokens.
"""

from __future__ import annotations

from mindspore import Tensor, nn
from mindspore import ops as native

from .. import ops

UNSEEN = -1e9  # added to a score, whose exponential is then 0 in every float type


class Regroup(nn.Cell):
    """Flat tokens to prompt rows and completion rows; the gradient is gathered the other way.

    Only padding reads a token twice, so no gradient has to be summed. Padding reads padding (a layout has at
    least one such place among its flat tokens and one in its rows), and the gradient of padding is 0.
    """

    def construct(self, flat: Tensor, prompts: Tensor, completions: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """``[S, ...]`` -> ``[M P, ...]``, ``[M G T, ...]``."""
        return native.gather(flat, prompts, 0), native.gather(flat, completions, 0)

    def bprop(
        self,
        flat: Tensor,
        prompts: Tensor,
        completions: Tensor,
        places: Tensor,
        out: tuple[Tensor, Tensor],
        dout: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, ...]:
        gradient = native.gather(native.cat(dout, 0), places, 0)
        return gradient, native.zeros_like(prompts), native.zeros_like(completions), native.zeros_like(places)


class Flatten(nn.Cell):
    """The inverse of ``Regroup``."""

    def construct(
        self, prompt_rows: Tensor, completion_rows: Tensor, prompts: Tensor, completions: Tensor, places: Tensor
    ) -> Tensor:
        """``[M P, ...]``, ``[M G T, ...]`` -> ``[S, ...]``."""
        return native.gather(native.cat((prompt_rows, completion_rows), 0), places, 0)

    def bprop(
        self,
        prompt_rows: Tensor,
        completion_rows: Tensor,
        prompts: Tensor,
        completions: Tensor,
        places: Tensor,
        out: Tensor,
        dout: Tensor,
    ) -> tuple[Tensor, ...]:
        gradients = (native.gather(dout, prompts, 0), native.gather(dout, completions, 0))
        return (*gradients, native.zeros_like(prompts), native.zeros_like(completions), native.zeros_like(places))


class PlainRegroup(nn.Cell):
    """``Regroup`` with MindSpore's own gradient, for layers that are recomputed.

    MindSpore 2.10 finds cycles where such a layer holds a gradient written by hand, or recomputes what branches here.
    """

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.gather = native.Gather().recompute(False)

    def construct(self, flat: Tensor, prompts: Tensor, completions: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        return self.gather(flat, prompts, 0), self.gather(flat, completions, 0)


class PlainFlatten(nn.Cell):
    """``Flatten`` with MindSpore's own gradient."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.gather = native.Gather().recompute(False)

    def construct(
        self, prompt_rows: Tensor, completion_rows: Tensor, prompts: Tensor, completions: Tensor, places: Tensor
    ) -> Tensor:
        return self.gather(native.cat((prompt_rows, completion_rows), 0), places, 0)


class SharedAttention(nn.Cell):
    """Prompts are causal in themselves; a completion sees all of its prompt and is causal in itself.

    The plan, made by ``layouts.regroup_plan``:
        prompts ``[M P]``, completions ``[M G T]``: the flat place that each place in the rows reads.
        places ``[S]``: the inverse, into prompt rows followed by completion rows.
        prompt_bias ``[1, 1, P, P]``, completion_bias ``[M G, 1, T, P + T]``: 0 or ``UNSEEN``.
    """

    def __init__(self, scale: float, *, recomputed: bool = False) -> None:
        super().__init__(auto_prefix=False)
        self.scale = scale
        self.regroup: nn.Cell = PlainRegroup() if recomputed else Regroup()
        self.flatten: nn.Cell = PlainFlatten() if recomputed else Flatten()

    def construct(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, plan: tuple[Tensor, ...]) -> Tensor:
        """``[S, H, D]``, ``[S, K, D]``, ``[S, K, Dv]`` -> ``[S, H, Dv]``."""
        prompts, completions, places, prompt_bias, completion_bias = plan
        length, rows, tokens = prompt_bias.shape[2], completion_bias.shape[0], completion_bias.shape[2]
        count = prompts.shape[0] // length
        query, member_query = self.regroup(queries, prompts, completions, places)
        key, member_key = self.regroup(keys, prompts, completions, places)
        value, member_value = self.regroup(values, prompts, completions, places)
        query, key, value = in_rows(query, count), in_rows(key, count), in_rows(value, count)
        mixed = ops.softmax_attention(query, key, value, prompt_bias, self.scale)
        member_mixed = ops.softmax_attention(
            in_rows(member_query, rows),
            after_prompts(key, in_rows(member_key, rows)),
            after_prompts(value, in_rows(member_value, rows)),
            completion_bias,
            self.scale,
        )
        mixed = mixed.reshape(count * length, *mixed.shape[2:])
        member_mixed = member_mixed.reshape(rows * tokens, *member_mixed.shape[2:])
        return self.flatten(mixed, member_mixed, prompts, completions, places)


class PlainAttention(nn.Cell):
    """Causal attention in every row; the plan is its bias ``[1, 1, W, W]``."""

    def __init__(self, scale: float, *, recomputed: bool = False) -> None:
        super().__init__(auto_prefix=False)
        self.scale = scale

    def construct(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, plan: tuple[Tensor, ...]) -> Tensor:
        """``[N W, H, D]``, ``[N W, K, D]``, ``[N W, K, Dv]`` -> ``[N W, H, Dv]``."""
        (bias,) = plan
        rows = queries.shape[0] // bias.shape[2]
        mixed = ops.softmax_attention(
            in_rows(queries, rows), in_rows(keys, rows), in_rows(values, rows), bias, self.scale
        )
        return mixed.reshape(queries.shape[0], *mixed.shape[2:])


def in_rows(flat: Tensor, rows: int) -> Tensor:
    """``[N W, H, D]`` -> ``[N, W, H, D]``."""
    return flat.reshape(rows, flat.shape[0] // rows, flat.shape[1], flat.shape[2])


def after_prompts(prompts: Tensor, completions: Tensor) -> Tensor:
    """``[M, P, K, D]``, ``[M G, T, K, D]`` -> ``[M G, P + T, K, D]``: each completion's keys follow those of its prompt."""
    count, length, heads, size = prompts.shape
    rows = completions.shape[0]
    repeated = native.broadcast_to(prompts.expand_dims(1), (count, rows // count, length, heads, size))
    return native.cat((repeated.reshape(rows, length, heads, size), completions), 1)
