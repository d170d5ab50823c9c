"""The sampler: from logits to tokens by the inverse CDF, with one number per token and each row on its own.

``mindrlhf_grpo.generation.sampling`` defines how the number selects a token: the choice of a row depends only on its own
logits and number. The transformations are applied in the order of Hugging Face generate: repetition penalty, minimum
length, temperature, top-k, top-p, min-p; the remaining probabilities are renormalised. The recorded log-prob is that of
softmax(logits / temperature) before all of them (temperature 1 when greedy).
Legend: n rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from mindrlhf_grpo.generation.sampling import FAN
from mindrlhf_grpo.types import IntArray, Sampling

CANDIDATES = 1024  # most likely ids tried for top-p before everything is sorted


class Sampler:
    """Draws the next token of every slot; records the tokens that each slot has seen if a penalty needs them.

    Args:
        end_tokens: ids that may not be drawn before ``sampling.min_tokens``.
    """

    def __init__(
        self, sampling: Sampling, *, end_tokens: Sequence[int], slots: int, vocab_size: int, device: torch.device
    ) -> None:
        self.sampling, self.device = sampling, device
        known = [token for token in end_tokens if token < vocab_size]
        self.end_tokens = torch.tensor(known, dtype=torch.long, device=device)
        penalised = sampling.repetition_penalty != 1.0
        self.seen = torch.zeros((slots, vocab_size), dtype=torch.bool, device=device) if penalised else None

    def start(self, slot: int, prompt: IntArray) -> None:
        """Start a sample of this prompt in the slot."""
        if self.seen is not None:
            self.seen[slot] = False
            self.seen[slot, torch.as_tensor(prompt, dtype=torch.long, device=self.device)] = True

    def move(self, source: int, target: int) -> None:
        if self.seen is not None:
            self.seen[target] = self.seen[source]

    def draw(
        self, logits: Tensor, uniforms: Tensor, slots: Sequence[int], positions: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Tokens ``[n]`` int64 and their log-probs ``[n]`` float32.

        Args:
            logits: ``[n, V]`` float32, overwritten.
            uniforms: ``[n, D]`` float64 in [0, 1): ``sampling.per_level``.
            slots: the slot of each row.
            positions: index in its completion of the token that each row draws.
        """
        early = [row for row, position in enumerate(positions) if position < self.sampling.min_tokens]
        shaped = self._shaped(logits, slots, early)
        tokens, logps = choose(logits, shaped, uniforms, self.sampling)
        if self.seen is not None:
            self.seen[torch.as_tensor(slots, device=self.device), tokens] = True
        return tokens, logps

    def _shaped(self, logits: Tensor, slots: Sequence[int], early: Sequence[int]) -> Tensor:
        """Logits after repetition penalty and minimum length; the same tensor if neither applies."""
        if self.seen is None and not early:
            return logits
        shaped = logits.clone()
        if self.seen is not None:
            shaped = penalised(shaped, self.seen[torch.as_tensor(slots, device=self.device)], self.sampling)
        if early:
            rows = torch.as_tensor(early, device=self.device)
            shaped[rows[:, None], self.end_tokens] = -torch.inf
        return shaped


def choose(logits: Tensor, shaped: Tensor, uniforms: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Tokens drawn from ``shaped`` under the sampling, with their log-probs under ``logits``; overwrites both.

    Args:
        logits: ``[n, V]`` as the model gave them.
        shaped: the same tensor, or logits after penalties.
        uniforms: ``[n, D]`` float64.
    """
    if sampling.greedy:
        tokens = shaped.argmax(-1)
        return tokens, (pick_tokens(logits, tokens) - torch.logsumexp(logits, -1)).float()
    if sampling.temperature != 1.0:
        logits.div_(sampling.temperature)
        if shaped is not logits:
            shaped.div_(sampling.temperature)
    truncated = sampling.top_k > 0 or sampling.top_p < 1.0 or sampling.min_p > 0.0
    if shaped is logits and not truncated:
        return from_untouched(logits, uniforms)
    tokens = invert_cdf(truncated_weights(shaped, sampling), uniforms)[0]
    return tokens, pick_tokens(logits, tokens) - torch.logsumexp(logits, -1)


def from_untouched(logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draw from softmax(logits), the common case: one exponential and no sort; overwrites the logits."""
    top = logits.amax(-1, keepdim=True)
    weights = logits.sub_(top).exp_()
    tokens, total = invert_cdf(weights, uniforms)
    return tokens, (pick_tokens(weights, tokens).double().log() - total.log()).float()


def invert_cdf(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draw as ``mindrlhf_grpo.generation.sampling.choose`` does: never an id of weight zero.

    Args:
        weights: ``[n, V]``; they need not be normalised.
        uniforms: ``[n, D]``, one for each level.

    Returns:
        Ids ``[n]`` and totals ``[n]`` float64.
    """
    levels = [weights]
    while levels[-1].shape[1] > FAN:
        levels[-1] = pad(levels[-1], (0, -levels[-1].shape[1] % FAN))
        levels.append(levels[-1].view(len(weights), FAN, -1).sum(1).double())
    top = levels.pop()
    node = pick(top, uniforms[:, :1])
    fan = torch.arange(FAN, device=weights.device)
    for number, level in zip(uniforms.t()[1:, :, None], reversed(levels), strict=True):
        stride = level.shape[1] // FAN
        node = node + pick(level.gather(1, node + fan * stride), number) * stride
    return node[:, 0], top.sum(-1, dtype=torch.float64)


def pick(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The first column whose cumulative weight exceeds uniform * total ``[n, 1]``."""
    ends = weights.double().cumsum(-1)
    total = ends[:, -1:]
    target = torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))
    return (
        (ends <= target).sum(-1, keepdim=True).clamp_max(weights.shape[1] - 1)
    )  # all columns are passed only if a weight is NaN


def truncated_weights(logits: Tensor, sampling: Sampling) -> Tensor:
    """Unnormalised probabilities ``[n, V]``, zero where top-k, top-p or min-p drop an id.

    Ids tied with the last remaining one remain too, so the result does not depend on how a sort breaks ties.
    """
    vocabulary = logits.shape[-1]
    if 0 < sampling.top_k < vocabulary:
        least = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    weights = (logits - logits.amax(-1, keepdim=True)).exp_()
    dropped = torch.zeros_like(weights, dtype=torch.bool)
    if sampling.top_p < 1.0:
        dropped |= weights < nucleus_threshold(weights, sampling.top_p)
    if sampling.min_p > 0.0:
        dropped |= weights < sampling.min_p
    return weights.masked_fill_(dropped, 0.0)


def nucleus_threshold(weights: Tensor, top_p: float) -> Tensor:
    """Weight ``[n, 1]`` of the last id in the smallest set of most likely ids that holds ``top_p`` of the mass."""
    mass = top_p * weights.sum(-1, dtype=torch.float64, keepdim=True)
    vocabulary = weights.shape[-1]
    ranked = weights.topk(min(CANDIDATES, vocabulary), dim=-1).values
    if ranked.shape[-1] < vocabulary and bool((ranked.sum(-1, dtype=torch.float64, keepdim=True) < mass).any()):
        ranked = weights.sort(dim=-1, descending=True).values
    held = ranked.double()
    before = held.cumsum(-1) - held
    last = (before < mass).sum(-1, keepdim=True) - 1
    return ranked.gather(1, last)


def penalised(logits: Tensor, seen: Tensor, sampling: Sampling) -> Tensor:
    """Positive logits of seen ids divided by the penalty, negative ones multiplied (Keskar et al. 2019)."""
    penalty = sampling.repetition_penalty
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def pick_tokens(values: Tensor, tokens: Tensor) -> Tensor:
    """``[n, V]``, ``[n]`` -> ``[n]``."""
    return values.gather(1, tokens[:, None])[:, 0]
