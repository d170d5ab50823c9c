"""Which static shapes a micro-batch is padded to.

Compiling costs as much as many steps, so a bucket that is already compiled is taken until the padding computed since the
last compilation has cost as much as one: in all, at most twice what the best choice in hindsight costs. A bucket that
nothing known can stand in for is made with room to spare. The choice depends on the batches alone, never on timings, and the known buckets are part
of the saved state: a resumed run pads, and so rounds, as the one that was interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any

COMPILING = 2e12  # floating point operations of a forward pass in the time of a compilation: a minute of few cores
WORTH = 1.2  # times that a smaller bucket must be cheaper to be compiled at all
ROOM = 2.0  # times the need that a new bucket may cost
FREE = 1e9  # operations that are always free: a fraction of a second


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a micro-batch needs, or a bucket offers.

    Attributes:
        prompts, group: prompts M, and completions G of one prompt; plain layout: rows, and 1.
        prompt, completion: longest prompt P and completion T.
        tokens: S of the flat list.
        predicted: R tokens with a log-prob.
    """

    prompts: int
    group: int
    prompt: int
    completion: int
    tokens: int
    predicted: int

    def fits(self, other: Sizes) -> bool:
        """Whether ``other`` can be padded to this."""
        return all(offered >= needed for offered, needed in zip(astuple(self), astuple(other), strict=True))

    def joined(self, other: Sizes) -> Sizes:
        """The smallest bucket that both fit in."""
        return Sizes(**{name: max(size, getattr(other, name)) for name, size in asdict(self).items()})

    @property
    def rows(self) -> int:
        """Completions, with those that pad."""
        return self.prompts * self.group


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Floating point operations of a forward pass: per token, per predicted token, per score of attention."""

    token: float
    prediction: float
    score: float

    def of(self, sizes: Sizes) -> float:
        own = sizes.rows * sizes.completion * (sizes.prompt + sizes.completion)
        scores = sizes.prompts * sizes.prompt**2 + own
        return self.token * sizes.tokens + self.prediction * sizes.predicted + self.score * scores


class Buckets:
    """The buckets of one policy.

    Args:
        shared: whether flat tokens are packed; else they are ``rows * (prompt + completion)``.
        limits: sizes that no micro-batch of the run is expected to exceed in prompts, group and completion; a model so
            small that padding costs nothing gets them at once, and compiles once.
    """

    def __init__(self, cost: Cost, *, shared: bool, limits: Sizes) -> None:
        self.cost, self.shared, self.limits = cost, shared, limits
        self.known: list[Sizes] = []
        self.wasted = 0.0  # operations on padding since the last compilation

    def choose(self, need: Sizes) -> Sizes:
        """The cheapest known bucket that holds a micro-batch, else, or when padding has cost enough, a new one."""
        fitting = [known for known in self.known if known.fits(need)]
        if not fitting:
            return self._add(self.roomy(need))
        best = min(fitting, key=lambda sizes: (self.cost.of(sizes), astuple(sizes)))
        self.wasted += self.cost.of(best) - self.cost.of(need)
        exact = self.rounded(need)
        if self.wasted <= COMPILING or self.cost.of(exact) * WORTH >= self.cost.of(best):
            return best
        return self._add(exact)

    def roomy(self, need: Sizes) -> Sizes:
        """All that the run can need if that is nearly free; else up to twice the need, and what is known with it."""
        rounded = self.rounded(need)
        whole = self.filled(rounded.joined(self.limits))
        if self.cost.of(whole) <= max(self.cost.of(need) * WORTH, FREE):
            return whole
        new = self.grown(need, whole) if self.shared else rounded
        for known in self.known:
            if self.cost.of(new.joined(known)) <= ROOM * self.cost.of(need):
                new = new.joined(known)
        return new

    def grown(self, need: Sizes, whole: Sizes) -> Sizes:
        """Tokens up to the next power of two, and room for as many more prompts and predictions, within the whole.

        A completion gets room up to the next power of two: attention over all that a run allows would cost its square.
        """
        tokens = min(power_of_two(need.tokens), whole.tokens)
        room = tokens / need.tokens
        return replace(
            whole, tokens=tokens, prompts=min(bucket_size(math.ceil(need.prompts * room), least=1), whole.prompts),
            completion=min(power_of_two(need.completion), whole.completion),
            predicted=min(in_eighths(math.ceil(need.predicted * room)), whole.predicted),
        )  # fmt: skip

    def _add(self, sizes: Sizes) -> Sizes:
        self.known.append(sizes)
        self.wasted = 0.0
        return sizes

    def rounded(self, need: Sizes) -> Sizes:
        """Lengths in steps of a third or a half; tokens, of which the cost depends, in steps of an eighth at most."""
        sizes = Sizes(
            prompts=bucket_size(need.prompts, least=1), group=need.group, prompt=bucket_size(need.prompt, least=16),
            completion=bucket_size(need.completion, least=8), tokens=in_eighths(need.tokens), predicted=in_eighths(need.predicted),
        )  # fmt: skip
        if not self.shared:
            sizes = self.filled(sizes, predicted=sizes.predicted)
        return sizes

    def filled(self, sizes: Sizes, *, predicted: int = 0) -> Sizes:
        """With room for as many tokens as the other sizes allow."""
        longest = sizes.prompt + sizes.completion
        tokens = sizes.prompts * sizes.prompt + sizes.rows * sizes.completion if self.shared else sizes.rows * longest
        return Sizes(
            prompts=sizes.prompts, group=sizes.group, prompt=sizes.prompt, completion=sizes.completion,
            tokens=tokens, predicted=predicted or sizes.rows * sizes.completion,
        )  # fmt: skip

    def saved(self) -> dict[str, Any]:
        """For the saved state."""
        return {"known": [asdict(sizes) for sizes in self.known], "wasted": self.wasted}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Know the buckets of a saved state, and no others."""
        self.known = [Sizes(**sizes) for sizes in saved["known"]]
        self.wasted = float(saved["wasted"])


def bucket_size(size: int, *, least: int) -> int:
    """The bucket of one dimension: ``least`` times a power of two, or one and a half times that.

    So at most a third of a bucket is padding (beyond ``least``), and sizes up to S need 2 log2(S / least) compilations.
    """
    bucket = least
    while bucket < size:
        if bucket * 3 // 2 >= size and bucket % 2 == 0:
            return bucket * 3 // 2
        bucket *= 2
    return bucket


def power_of_two(size: int) -> int:
    """The next one, at least 16."""
    return max(16, 1 << (size - 1).bit_length())


def in_eighths(size: int) -> int:
    """The next multiple of an eighth of the power of two below; at least 16."""
    step = max(8, 2 ** max(0, size.bit_length() - 4))
    return max(16, -(-size // step) * step)
