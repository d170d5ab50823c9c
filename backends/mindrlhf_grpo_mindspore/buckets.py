"""Which static shapes a micro-batch is padded to.

Compiling costs as much as many steps, so a bucket that is already compiled is taken unless it wastes more than
computing on padding is worth. The choice depends on the batches alone, never on timings, and the known buckets are part
of the saved state: a resumed run pads, and so rounds, as the one that was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass

from .graph import padded

WASTE = 1.2  # a known bucket may cost this many times what the micro-batch needs
FREE = 1e9  # or this many floating point operations more: a fraction of a second, where compiling takes many


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

    def choose(self, need: Sizes) -> Sizes:
        """The cheapest known bucket that is good enough, else a new one."""
        limit = max(self.cost.of(need) * WASTE, self.cost.of(need) + FREE)
        fitting = sorted(
            (known for known in self.known if known.fits(need)), key=lambda sizes: (self.cost.of(sizes), astuple(sizes))
        )
        if fitting and self.cost.of(fitting[0]) <= limit:
            return fitting[0]
        rounded = self.rounded(need)
        joined = [known.joined(rounded) for known in self.known[-1:]]
        candidates = [self.filled(sizes.joined(self.limits)) for sizes in (*joined, rounded)] + joined
        new = next((sizes for sizes in candidates if self.cost.of(sizes) <= limit), rounded)
        self.known.append(new)
        return new

    def rounded(self, need: Sizes) -> Sizes:
        """Lengths in steps of a third or a half; tokens, of which the cost depends, in steps of an eighth at most."""
        sizes = Sizes(
            prompts=padded(need.prompts, least=1), group=need.group, prompt=padded(need.prompt, least=16),
            completion=padded(need.completion, least=8), tokens=in_eighths(need.tokens), predicted=in_eighths(need.predicted),
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

    def saved(self) -> list[dict[str, int]]:
        """For the saved state."""
        return [asdict(sizes) for sizes in self.known]

    def restore(self, saved: Sequence[dict[str, int]]) -> None:
        """Know the buckets of a saved state, and no others."""
        self.known = [Sizes(**sizes) for sizes in saved]


def in_eighths(size: int) -> int:
    """The next multiple of an eighth of the power of two below; at least 16."""
    step = max(8, 2 ** max(0, size.bit_length() - 4))
    return max(16, -(-size // step) * step)
