"""The choice of the static shapes, called buckets, that micro-batches are padded to.

Compiling costs as much as many steps, so a compiled bucket is used until the padding computed since the last
compilation has cost as much as one: in all, at most twice the cost of the best choice in hindsight. A bucket for a
micro-batch that fits no known one is made with room to spare. The choice depends on the batches alone, never on
timings, and the known buckets are part of the saved state: a resumed run pads, and so rounds, as the one that was
interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any

COMPILING = 2e12  # floating point operations of a forward pass in the time of a compilation: a minute of few cores
WORTH = 1.2  # a smaller bucket is compiled only if it is cheaper by this factor
ROOM = 2.0  # a new bucket costs at most this multiple of the need
FREE = 1e9  # operations that are always free: a fraction of a second


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The sizes that a micro-batch needs, or that a bucket offers.

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
        """True if ``other`` can be padded to this."""
        return all(offered >= needed for offered, needed in zip(astuple(self), astuple(other), strict=True))

    def joined(self, other: Sizes) -> Sizes:
        """The smallest bucket that holds both."""
        return Sizes(**{name: max(size, getattr(other, name)) for name, size in asdict(self).items()})

    @property
    def rows(self) -> int:
        """Completions, padding included."""
        return self.prompts * self.group


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Floating point operations of a forward pass: per token, per predicted token, per score of attention."""

    token: float
    prediction: float
    score: float

    def of(self, sizes: Sizes) -> float:
        """The cost of a forward pass of these sizes."""
        of_completions = sizes.rows * sizes.completion * (sizes.prompt + sizes.completion)
        scores = sizes.prompts * sizes.prompt**2 + of_completions
        return self.token * sizes.tokens + self.prediction * sizes.predicted + self.score * scores


class Buckets:
    """The buckets of one policy.

    Args:
        shared: flat tokens are packed; else they are ``rows * (prompt + completion)``.
        limits: prompts, group and completion that no micro-batch of the run is expected to exceed; a model so small
            that padding costs nothing gets them at once, and compiles once.
    """

    def __init__(self, cost: Cost, *, shared: bool, limits: Sizes) -> None:
        self.cost, self.shared, self.limits = cost, shared, limits
        self.known: list[Sizes] = []
        self.wasted = 0.0  # operations on padding since the last compilation

    def choose(self, need: Sizes) -> Sizes:
        """The cheapest known bucket that holds a micro-batch; a new one if none does, or if padding has cost enough."""
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
        """The largest bucket of the run if it is nearly free; else up to twice the need, joined with known ones."""
        rounded = self.rounded(need)
        largest = self.filled(rounded.joined(self.limits))
        if self.cost.of(largest) <= max(self.cost.of(need) * WORTH, FREE):
            return largest
        new = self.grown(need, largest) if self.shared else rounded
        for known in self.known:
            if self.cost.of(new.joined(known)) <= ROOM * self.cost.of(need):
                new = new.joined(known)
        return new

    def grown(self, need: Sizes, largest: Sizes) -> Sizes:
        """Tokens up to the next power of two, and room for as many more prompts and predictions, within the largest.

        A completion gets room up to the next power of two: attention over the longest possible one costs its square.
        """
        tokens = min(power_of_two(need.tokens), largest.tokens)
        room = tokens / need.tokens
        return replace(
            largest, tokens=tokens, prompts=min(bucket_size(math.ceil(need.prompts * room), least=1), largest.prompts),
            completion=min(power_of_two(need.completion), largest.completion),
            predicted=min(in_eighths(math.ceil(need.predicted * room)), largest.predicted),
        )  # fmt: skip

    def _add(self, sizes: Sizes) -> Sizes:
        self.known.append(sizes)
        self.wasted = 0.0
        return sizes

    def rounded(self, need: Sizes) -> Sizes:
        """Round up: lengths in steps of a third or a half, tokens, which determine the cost, in steps of at most an eighth."""
        sizes = Sizes(
            prompts=bucket_size(need.prompts, least=1), group=need.group, prompt=bucket_size(need.prompt, least=16),
            completion=bucket_size(need.completion, least=8), tokens=in_eighths(need.tokens), predicted=in_eighths(need.predicted),
        )  # fmt: skip
        if not self.shared:
            sizes = self.filled(sizes, predicted=sizes.predicted)
        return sizes

    def filled(self, sizes: Sizes, *, predicted: int = 0) -> Sizes:
        """The sizes with room for as many tokens as the other sizes allow."""
        longest = sizes.prompt + sizes.completion
        tokens = sizes.prompts * sizes.prompt + sizes.rows * sizes.completion if self.shared else sizes.rows * longest
        return Sizes(
            prompts=sizes.prompts, group=sizes.group, prompt=sizes.prompt, completion=sizes.completion,
            tokens=tokens, predicted=predicted or sizes.rows * sizes.completion,
        )  # fmt: skip

    def saved(self) -> dict[str, Any]:
        """The part of the saved state that ``restore`` reads."""
        return {"known": [asdict(sizes) for sizes in self.known], "wasted": self.wasted}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Replace the known buckets by those of a saved state."""
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
