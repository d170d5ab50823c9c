"""Estimates of the KL divergence of the policy from its reference, token by token, over an array namespace ``xp``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

KL_LOG_RATIO_LIMIT = 20.0  # where a KL is clamped, its log-ratio is bounded first: exp stays finite


@dataclass(frozen=True, slots=True)
class KlEstimator:
    """An estimator's row in the tables of the documentation; :func:`kl` computes it."""

    formula: str
    source: str
    peers: str


SCHULMAN = "[Schulman](http://joschu.net/blog/kl-approx.html)"
KL_ESTIMATORS: dict[str, KlEstimator] = {
    "k1": KlEstimator("x = ℓ − ℓr", SCHULMAN, "openrlhf, lightrft: in the reward"),
    "k2": KlEstimator("x² / 2", SCHULMAN, "openrlhf `k2`; verl `mse`"),
    "k3": KlEstimator("exp(−x) − 1 + x", SCHULMAN, "trl, mindrlhf; verl `low_var_kl`"),
    "abs": KlEstimator("|x|", "verl", "verl `abs`"),
    "k3+": KlEstimator("value of k3, gradient of k2", "verl", "verl `k3+`"),
    "r*k3": KlEstimator(
        "r (exp(−x) − 1 + x), r = exp(ℓ − ℓo)",
        "[DeepSeek-V3.2](https://arxiv.org/abs/2512.02556)",
        "slime `--use-unbiased-kl`; trl `use_bias_correction_kl`",
    ),
}


def kl(xp: Any, logps: Any, ref_logps: Any, estimator: str, clamp: float = 0.0, *, ratio: Any = None) -> Any:
    """Per-token estimate of KL(policy || reference) from log-probs of sampled tokens, same shape.

    With x = logps - ref_logps: k1 = x, k2 = x² / 2, k3 = exp(-x) - 1 + x, abs = |x|.
    Schulman, http://joschu.net/blog/kl-approx.html. ``k3+`` has the value of k3 and the gradient of k2, which is that
    of the KL in expectation (verl). ``r*k3`` weighs k3 by ``ratio``: unbiased, value and gradient, for tokens that
    an older policy sampled (slime, TRL's use_bias_correction_kl). Which suits where: ``docs/algorithms.md``.

    Args:
        clamp: bounds the estimate to ±clamp (and x to ±20 before, which changes no value of clamp <= 19); 0: off.
        ratio: policy / sampling policy of each token, with its gradient; only ``r*k3`` reads it.

    Raises:
        ValueError: unknown estimator, or no ratio for ``r*k3``.
    """
    x = logps - ref_logps
    if clamp > 0:
        x = xp.clip(x, -KL_LOG_RATIO_LIMIT, KL_LOG_RATIO_LIMIT)
    if estimator == "k1":
        estimate = x
    elif estimator == "k2":
        estimate = 0.5 * xp.square(x)
    elif estimator == "k3" or estimator == "k3+" or estimator == "r*k3":
        estimate = xp.exp(-x) - 1.0 + x
    elif estimator == "abs":
        estimate = xp.abs(x)
    else:
        raise ValueError(f"KL estimator {estimator!r} is unknown; there are {', '.join(KL_ESTIMATORS)}")
    if clamp > 0:
        estimate = xp.clip(estimate, -clamp, clamp)
    if estimator == "k3+":
        slope = 0.5 * xp.square(logps - ref_logps)
        return xp.stop_gradient(estimate) + slope - xp.stop_gradient(slope)
    if estimator == "r*k3":
        if ratio is None:
            raise ValueError("KL estimator 'r*k3' needs the ratio of the policies")
        return ratio * estimate
    return estimate
