"""The call of an estimator: a function whose parameters name what it reads.

``values`` rewards ``[N, F, K]``, ``weights`` of the components ``[F]``, ``rewards`` their weighted total ``[N, K]``,
``groups`` ``[N]``, ``lengths`` and ``baselines`` ``[N]``, the settings ``eps``, ``ddof`` and ``whitening``. It returns
``[N, K]``. Legend: N completions, F reward components, K segments (1: the completion as one).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

from ..types import FloatArray, IntArray
from .group_statistics import Table
from .rewards import weighted_total

Estimator: TypeAlias = Callable[..., Table]
Whitening: TypeAlias = Literal["samples", "tokens", "scale"]
WHITENINGS: tuple[Whitening, ...] = ("samples", "tokens", "scale")

ABSENT = {"lengths": "the lengths [N]", "baselines": "the rewards of greedy completions [N]"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatorInputs:
    """Everything an estimator can read, by the name of its parameter.

    Attributes:
        values: rewards ``[N, F, K]``; NaN where a component does not apply.
        weights: factor of each component in the total ``[F]``.
        groups: group of each completion ``[N]``, any integers.
        lengths: tokens of each completion ``[N]``; None: not known.
        baselines: reward of a greedy completion of the same prompt ``[N]``; None: not known.
        eps: added to a standard deviation.
        ddof: 1 divides the squares by n - 1 (sample), 0 by n (population).
        whitening: the last step of GDPO.
    """

    values: FloatArray
    weights: FloatArray
    groups: IntArray
    lengths: IntArray | None = None
    baselines: FloatArray | None = None
    eps: float
    ddof: int
    whitening: Whitening = "samples"

    @property
    def rewards(self) -> Table:
        """Weighted total of the components ``[N, K]``; NaN where none applies."""
        return weighted_total(self.values, self.weights)


READABLE = ("rewards", "values", "weights", "groups", "lengths", "baselines", "eps", "ddof", "whitening")


@lru_cache(maxsize=256)
def reads(estimator: Estimator) -> tuple[str, ...]:
    """Return the names of the inputs that an estimator reads.

    Raises:
        ValueError: a parameter that is no input and has no default, or that cannot be passed by name.
    """
    names = []
    for name, parameter in inspect.signature(estimator).parameters.items():
        by_name = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if by_name and name in READABLE:
            names.append(name)
        elif parameter.default is parameter.empty:
            raise ValueError(f"parameter {name} is no input of an estimator; it can read {', '.join(READABLE)}")
    return tuple(names)


def estimate(estimator: Estimator, inputs: EstimatorInputs) -> Table:
    """Call an estimator with the inputs that it reads: advantages ``[N, K]``.

    Raises:
        ValueError: an input that it reads is not known.
    """
    parameters = inspect.signature(estimator).parameters
    arguments = {name: getattr(inputs, name) for name in reads(estimator)}
    for name, what in ABSENT.items():
        if name in arguments and arguments[name] is None and parameters[name].default is parameters[name].empty:
            raise ValueError(f"{estimator.__name__} needs {what} of {len(inputs.groups)} completions")
    return estimator(**arguments)
