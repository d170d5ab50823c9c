"""The sampler: from logits to tokens by the inverse CDF, with one number per token and each row on its own.

``mindrlhf_grpo.generation.sampling`` defines how the number selects a token: the choice of a row depends only on its own
logits and number. The transformations are applied in the order of Hugging Face generate: repetition penalty, minimum
length, temperature, top-k, top-p, min-p; the remaining probabilities are renormalised. The recorded log-prob is that of
softmax(logits / temperature) before all of them (temperature 1 when greedy). The sampling rule is a constant of the
compiled step: transformations that it does not use cost nothing.
Legend: n rows, S slots, V vocabulary, B blocks of ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn
from mindspore import ops as native

from mindrlhf_grpo.generation.sampling import FAN
from mindrlhf_grpo.types import Sampling

BLOCK = 256  # ids that are summed in float32; their sums in float64
CANDIDATES = 1024  # most likely ids tried for top-p before everything is sorted
BELOW = 1.0 - 2.0**-53  # times a float64: the next one towards 0
NEVER = float("-inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The settings of a ``Sampling`` that are compiled in; ``end_tokens`` wait for a minimum length."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    end_tokens: tuple[int, ...] = ()

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def truncated(self) -> bool:
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0


def rule_of(sampling: Sampling, end_tokens: Sequence[int], vocabulary: int) -> Rule:
    """The rule of a sampling; end tokens outside the vocabulary are left out."""
    waiting = sorted({token for token in end_tokens if token < vocabulary}) if sampling.min_tokens else []
    if sampling.greedy:
        return Rule(
            temperature=0.0, repetition_penalty=sampling.repetition_penalty, end_tokens=tuple(waiting)
        )  # truncation never drops the most likely id
    return Rule(
        temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p, min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty, end_tokens=tuple(waiting),
    )  # fmt: skip


class Sampler(nn.Cell):
    """Draws the next token of every row; records the tokens that each slot has seen if a penalty needs them.

    Attributes:
        seen: ``[S, V]`` parameter, 1 where a slot's prompt or completion holds the id; None without a penalty.
    """

    def __init__(self, rule: Rule, *, slots: int, vocabulary: int) -> None:
        super().__init__(auto_prefix=False)
        self.rule = rule
        self.penalised, self.waits = rule.repetition_penalty != 1.0, bool(rule.end_tokens)
        self.ids = Tensor(np.arange(vocabulary, dtype=np.int32)[None])
        self.ends = Tensor(np.array([rule.end_tokens], np.int32))
        self.seen = (
            Parameter(Tensor(np.zeros((slots, vocabulary), np.float32)), name="sampler.seen", requires_grad=False)
            if self.penalised
            else None
        )

    def construct(self, logits: Tensor, uniforms: Tensor, early: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens ``[n]`` int32 and their log-probs ``[n]`` float32.

        Args:
            logits: ``[n, V]`` float32.
            uniforms: ``[n, D]`` float64 in [0, 1): ``sampling.per_level``.
            early: ``[n]`` true where the row's completion is below the minimum length.
            slots: ``[n]`` int32, the slot of each row.
        """
        shaped = logits
        if self.penalised:
            seen = native.gather(self.seen, slots, 0)
            shaped = penalised(shaped, seen, self.rule.repetition_penalty)
        if self.waits:
            shaped = without(shaped, self.ends, early)
        if self.penalised or self.waits:
            tokens, logps = choose(logits, shaped, uniforms, self.rule)
        else:
            tokens, logps = choose(logits, None, uniforms, self.rule)
        if self.penalised:
            drawn = (self.ids == tokens.reshape(-1, 1)).astype(ms.float32)
            native.scatter_update(self.seen, slots, native.maximum(seen, drawn))
        return tokens, logps


def choose(logits: Tensor, shaped: Tensor | None, uniforms: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """Tokens drawn under the rule, with their log-probs under ``logits``.

    Args:
        logits: ``[n, V]`` as the model gave them.
        shaped: logits after penalties, None without any.
        uniforms: ``[n, D]`` float64.
    """
    if rule.greedy:
        tokens = native.argmax(logits if shaped is None else shaped, -1).astype(ms.int32)
        return tokens, log_probs(logits, tokens)
    if rule.temperature != 1.0:
        logits = logits / rule.temperature
        if shaped is not None:
            shaped = shaped / rule.temperature
    if shaped is None and not rule.truncated:
        below_top = logits - logits.max(-1, keepdims=True)
        tokens, total = invert_cdf(native.exp(below_top), uniforms)
        return tokens, log_share(below_top, tokens, total)
    tokens, _ = invert_cdf(truncated_weights(logits if shaped is None else shaped, rule), uniforms)
    return tokens, log_probs(logits, tokens)


def log_probs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probs of the tokens ``[n]`` under softmax of the logits ``[n, V]``."""
    below_top = logits - logits.max(-1, keepdims=True)
    return log_share(below_top, tokens, block_sums(native.exp(below_top)).sum(-1))


def log_share(logits: Tensor, tokens: Tensor, total: Tensor) -> Tensor:
    """Log-probs ``[n]`` of the tokens, given the sum ``[n]`` float64 of exp(logits)."""
    return (pick_tokens(logits, tokens).astype(ms.float64) - native.log(total)).astype(ms.float32)


def invert_cdf(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draw as ``mindrlhf_grpo.generation.sampling.choose`` does: never an id of weight zero.

    Args:
        weights: ``[n, V]``; they need not be normalised.
        uniforms: ``[n, D]``, one for each level.

    Returns:
        Ids ``[n]`` int32 and totals ``[n]`` float64.
    """
    rows = weights.shape[0]
    levels: tuple[Tensor, ...] = (weights,)
    for _ in range(uniforms.shape[1] - 1):
        level = padded(levels[-1])
        levels = (*levels[:-1], level, folded(level))
    top = levels[-1].astype(ms.float64)
    node = pick(top, uniforms[:, :1])
    fan = native.arange(FAN).astype(ms.int32).reshape(1, FAN)
    for level in range(1, uniforms.shape[1]):
        below = levels[uniforms.shape[1] - 1 - level]
        stride = below.shape[1] // FAN
        children = native.gather_elements(below, 1, node + fan * stride)
        node = node + pick(children.astype(ms.float64), uniforms[:, level : level + 1]) * stride
    return node.reshape(rows), top.sum(-1)


def padded(weights: Tensor) -> Tensor:
    """Append zeros up to a multiple of the fan."""
    rows, width = weights.shape
    missing = -width % FAN
    return weights if missing == 0 else native.cat((weights, native.zeros((rows, missing), weights.dtype)), 1)


def folded(weights: Tensor) -> Tensor:
    """Sums of the 16 equal runs ``[n, W]`` -> ``[n, W / 16]`` float64; the first fold, of float32, is a product."""
    rows, width = weights.shape
    runs = weights.reshape(rows, FAN, width // FAN)
    if weights.dtype == ms.float64:
        return runs.sum(1)
    return native.matmul(native.ones((1, FAN), ms.float32), runs).reshape(rows, width // FAN).astype(ms.float64)


def pick(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The first column whose cumulative weight exceeds uniform * total ``[n, 1]``; int32."""
    ends = native.cumsum(weights, 1)
    total = ends[:, -1:]
    return passed(ends, native.minimum(uniforms * total, total * BELOW), weights.shape[1])


def passed(ends: Tensor, target: Tensor, count: int) -> Tensor:
    """The number of ascending ``ends`` ``[n, count]`` that are at most the target ``[n, 1]``, below ``count``; int32."""
    return native.clamp((ends <= target).astype(ms.int32).sum(-1, keepdims=True), 0, count - 1).astype(ms.int32)


def block_sums(weights: Tensor) -> Tensor:
    """Sums of consecutive blocks of ids ``[n, B]``, float32 within a block, given as float64.

    It is a product with ones: several times faster here than a sum.
    """
    rows, vocabulary = weights.shape
    blocks = vocabulary // BLOCK
    parts: tuple[Tensor, ...] = ()
    if blocks:
        full = weights if blocks * BLOCK == vocabulary else weights[:, : blocks * BLOCK]
        ones = native.ones((BLOCK, 1), ms.float32)
        parts = (native.matmul(full.reshape(rows * blocks, BLOCK), ones).reshape(rows, blocks),)
    if blocks * BLOCK < vocabulary:
        parts = (*parts, weights[:, blocks * BLOCK :].sum(-1, keepdims=True))
    return (parts[0] if len(parts) == 1 else native.cat(parts, 1)).astype(ms.float64)


def truncated_weights(logits: Tensor, rule: Rule) -> Tensor:
    """Unnormalised probabilities ``[n, V]``, zero where top-k, top-p or min-p drop an id.

    Ids tied with the last remaining one remain too, so the result does not depend on how a sort breaks ties.
    """
    top_k = rule.top_k
    if 0 < top_k < logits.shape[1]:
        least = native.topk(logits, top_k)[0][:, top_k - 1 :]
        logits = native.masked_fill(logits, logits < least, NEVER)
    weights = native.exp(logits - logits.max(-1, keepdims=True))
    remaining = weights
    if rule.top_p < 1.0:
        remaining = native.masked_fill(remaining, weights < nucleus_threshold(weights, rule.top_p), 0.0)
    if rule.min_p > 0.0:
        remaining = native.masked_fill(remaining, weights < rule.min_p, 0.0)
    return remaining


def nucleus_threshold(weights: Tensor, top_p: float) -> Tensor:
    """Weight ``[n, 1]`` of the last id in the smallest set of most likely ids that holds ``top_p`` of the mass."""
    vocabulary = weights.shape[1]
    mass = block_sums(weights).sum(-1, keepdims=True) * top_p
    if vocabulary <= CANDIDATES:
        return last_needed(native.topk(weights, vocabulary)[0], mass)
    ranked = native.topk(weights, CANDIDATES)[0]
    if (ranked.astype(ms.float64).sum(-1, keepdims=True) < mass).any():
        return last_needed(native.sort(weights, -1, True)[0], mass)
    return last_needed(ranked, mass)


def last_needed(ranked: Tensor, mass: Tensor) -> Tensor:
    """The first of the descending weights ``[n, C]`` with which their sum reaches the mass ``[n, 1]``."""
    held = ranked.astype(ms.float64)
    before = native.cumsum(held, 1) - held
    last = (before < mass).astype(ms.int32).sum(-1, keepdims=True) - 1
    return native.gather_elements(ranked, 1, last.astype(ms.int32))


def penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Positive logits of seen ids divided by the penalty, negative ones multiplied (Keskar et al. 2019)."""
    return native.where(seen > 0, native.where(logits > 0, logits / penalty, logits * penalty), logits)


def without(logits: Tensor, ends: Tensor, early: Tensor) -> Tensor:
    """Logits ``[n, V]`` with the ids ``[1, E]`` ruled out in early rows; only these columns are written."""
    columns = native.broadcast_to(ends, (logits.shape[0], ends.shape[1]))
    present = native.gather_elements(logits, 1, columns)
    never = native.full_like(present, NEVER)
    return native.tensor_scatter_elements(logits, columns, native.where(early.reshape(-1, 1), never, present), 1)


def pick_tokens(values: Tensor, tokens: Tensor) -> Tensor:
    """``[n, V]``, ``[n]`` -> ``[n]``."""
    return native.gather_elements(values, 1, tokens.reshape(-1, 1)).reshape(-1)
