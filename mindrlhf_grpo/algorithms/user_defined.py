"""Checks of a user's algorithm or policy loss: signature, shapes, and a call on a few literal rows in NumPy.

They run wherever a configuration is resolved, so before weights are loaded, and every error names the file and line of
the user's code. Legend: N completions, K segments (1: the completion as one), T tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache, wraps
from typing import Any, ClassVar, cast

import numpy as np

from ..advantages import Estimator, EstimatorInputs, Table, estimate, reads, weighted_total
from ..backend import Loss
from ..errors import ConfigError, UserError
from ..losses import PolicyLoss
from ..losses.xp import NUMPY
from ..user_functions import describe, file_of, line_of
from .algorithm import Algorithm
from .presets import Preset

NAN = float("nan")
SURROGATE = ("xp", "ratio", "log_ratio", "advantages", "logps")

# Two groups: rewards that differ, one of them missing; and equal ones.
ROWS = EstimatorInputs(
    values=np.array([[1.0, 0.0], [0.0, 0.5], [NAN, NAN], [0.0, 0.0], [2.0, 1.0], [2.0, 1.0]])[:, :, None],
    weights=np.array([1.0, 0.5]),
    groups=np.array([0, 0, 0, 0, 1, 1]),
    lengths=np.array([3, 1, 2, 4, 2, 2]),
    baselines=np.array([0.5, 0.5, 0.5, 0.5, 1.0, 1.0]),
    eps=1e-4,
    ddof=1,
)
OLD = np.array([[-1.0, -0.5, -2.0], [-0.25, -3.0, -1.5]])
LOGPS = OLD + np.log([[1.5, 1.1, 0.5], [1.5, 0.5, 4.0]])
TENSORS = {
    "mask": np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]),
    "weights": np.full((2, 3), 0.2),
    "advantages": np.array([[2.0, 2.0, 2.0], [-1.0, -1.0, -1.0]]),
    "ref_logps": OLD,
    "rollout_logps": OLD,
    "entropies": np.ones((2, 3)),
    "segments": np.array([[0, 0, -1], [1, 0, 1]], np.int32),
}


def user_algorithm(thing: Any, reference: str) -> Algorithm:
    """The algorithm that a reference names, checked: a record, or an estimator with everything else as in GRPO.

    Raises:
        ConfigError: something else, a wrong signature or setting, or advantages that cannot be used.
    """
    label = f"algorithm.name {reference!r}"
    if isinstance(thing, Algorithm):
        algorithm = thing
    elif inspect.isfunction(thing):
        algorithm = Algorithm(name=reference, estimator=thing)
    else:
        raise ConfigError(f"{label} is a {type(thing).__name__}; it must be an Algorithm or an estimator function")
    estimator = algorithm.estimator
    place = line_of(estimator)
    if algorithm.returns not in ("same", "sum", "gae") or algorithm.group_size < 1:
        raise ConfigError(f"{label}: returns must be same, sum or gae and group_size at least 1, not {algorithm}")
    if not_settings := set(algorithm.prescribes) - {field.name for field in fields(Preset)}:
        raise ConfigError(f"{label} prescribes {', '.join(sorted(not_settings))}, which is no setting of an algorithm")
    try:
        reads(estimator)
    except ValueError as error:
        raise ConfigError(f"{label} ({place}): {error}") from error
    try:
        estimate(guarded(estimator), ROWS)
    except UserError as error:
        raise ConfigError(f"{label}, tried on six literal rows: {error}") from error
    return replace(algorithm, estimator=guarded(estimator), loss=loss_class(algorithm.loss, f"of {reference}"))


@lru_cache(maxsize=64)
def guarded(estimator: Estimator) -> Estimator:
    """The estimator with its exceptions as UserErrors, its result checked, and 0 for completions without a reward."""
    signature = inspect.signature(estimator)
    asked = list(signature.parameters)
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in ("values", "weights") if name not in asked
    ]

    @wraps(estimator)
    def call(**inputs: Any) -> Table:
        total = weighted_total(inputs["values"], inputs["weights"])
        try:
            copies = {
                name: value.copy() if isinstance(value, np.ndarray) else value
                for name, value in inputs.items()
                if name in asked
            }
            returned = np.asarray(estimator(**copies), dtype=np.float64)
        except Exception as error:
            raise UserError(f"{estimator.__name__} failed: {describe(error, file_of(estimator))}") from error
        if returned.shape != total.shape:
            raise UserError(
                f"{estimator.__name__} ({line_of(estimator)}) must return advantages [N, K] = {list(total.shape)}, not "
                f"{list(returned.shape)}"
            )
        advantages = np.where(np.isnan(total), 0.0, returned)
        if not np.isfinite(advantages).all():
            raise UserError(
                f"{estimator.__name__} ({line_of(estimator)}) returned {advantages[~np.isfinite(advantages)][0]} for a "
                "completion with a reward; the reward of a completion that has none is NaN, so take np.nanmean and the like"
            )
        return advantages

    call.__signature__ = signature.replace(parameters=_ordered([*signature.parameters.values(), *extra]))  # type: ignore[attr-defined]
    return call


def _ordered(parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    """Parameters in an order that a signature accepts: by their kind."""
    return sorted(parameters, key=lambda parameter: parameter.kind)


def loss_class(thing: Any, name: str) -> Callable[..., Loss]:
    """The class of a user's policy loss: itself, or one around a surrogate function.

    Raises:
        ConfigError: something else, or a wrong signature.
    """
    label = f"algorithm.loss {name!r}"
    if inspect.isclass(thing):
        if not is_dataclass(thing):
            raise ConfigError(
                f"{label} ({line_of(thing)}) must be a dataclass, whose fields are its settings; see PolicyLoss"
            )
        return cast("Callable[..., Loss]", thing)
    if not inspect.isfunction(thing):
        raise ConfigError(f"{label} is a {type(thing).__name__}; it must be a dataclass or a function")
    parameters = inspect.signature(thing).parameters
    if tuple(parameters) != SURROGATE:
        raise ConfigError(
            f"{label} ({line_of(thing)}) takes ({', '.join(parameters)}); a loss function takes ({', '.join(SURROGATE)})"
        )
    return surrogate_loss(thing)


@lru_cache(maxsize=64)
def surrogate_loss(function: Callable[..., Any]) -> type[PolicyLoss]:
    """The class of the policy loss whose surrogate is a plain function."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class FunctionPolicyLoss(PolicyLoss):
        """A policy loss whose surrogate is the user's function; KL, entropy and sums are those of ``PolicyLoss``."""

        unused: ClassVar[tuple[str, ...]] = ("clip_low", "clip_high", "dual_clip", "delta")

        def surrogate(self, xp: Any, ratio: Any, log_ratio: Any, advantages: Any, logps: Any) -> Any:
            """Loss of each token ``[N, T]``."""
            return function(xp, ratio, log_ratio, advantages, logps)

        def bounded(self, xp: Any, ratio: Any, log_ratio: Any, advantages: Any, ones: Any) -> tuple[Any, Any]:
            """No bound of the function is known."""
            return xp.zeros_like(ones), xp.zeros_like(ones)

    FunctionPolicyLoss.user_function = function  # type: ignore[attr-defined]  # for its file and line
    return FunctionPolicyLoss


def check_loss(loss: Loss, name: str, *, old_logps: bool) -> None:
    """Compute a user's policy loss on two literal rows in NumPy.

    Raises:
        ConfigError: it fails, cannot be hashed, returns no scalar with scalar sums, or reads tokens outside the mask.
    """
    source = getattr(type(loss), "user_function", type(loss))
    label = f"algorithm.loss {name!r} ({line_of(source)})"
    tensors = TENSORS | ({"old_logps": OLD} if old_logps else {})
    check_members(loss, label)
    value = tried(loss, LOGPS, tensors, label, file_of(source))
    elsewhere = np.where(tensors["mask"] > 0, LOGPS, -7.0)
    if tried(loss, elsewhere, tensors, label, file_of(source)) != value:
        raise ConfigError(f"{label} depends on tokens outside tensors['mask']: replace them with xp.where first")


def check_members(loss: Any, label: str) -> None:
    """Raise ConfigError for a loss that lacks a member of the Loss protocol, or that cannot be a key of compiled steps."""
    for name in ("reads_entropy", "reads_values"):
        if not hasattr(loss, name):
            raise ConfigError(f"{label} lacks {name}: set {name}: ClassVar[bool] = False, or subclass PolicyLoss")
    try:
        hash(loss)
    except TypeError:
        raise ConfigError(f"{label} must be a dataclass with frozen=True, so that compiled steps can be kept") from None


def tried(loss: Any, outputs: Any, tensors: Mapping[str, Any], label: str, file: str) -> float:
    """The value of a loss on literal rows, after a check of what it returns."""
    try:
        returned = loss(NUMPY, outputs, tensors)
    except Exception as error:
        raise ConfigError(f"{label} failed on literal rows: {describe(error, file)}") from error
    if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], dict)):
        raise ConfigError(f"{label} must return the loss and a dict of sums, not {type(returned).__name__}")
    value, sums = returned
    for what, number in [("the loss", value), *((f"the sum {name!r}", total) for name, total in sums.items())]:
        if np.shape(number) != () or not np.isfinite(number):
            raise ConfigError(f"{label}: {what} must be one finite number, not {number!r}")
    return float(value)
