"""Estimates of the KL divergence of the policy from its reference, token by token, over an array namespace ``xp``."""

from __future__ import annotations

from typing import Any

KL_LOG_RATIO_LIMIT = 20.0  # where a KL is clamped, its log-ratio is bounded first: exp stays finite


def kl(xp: Any, logps: Any, ref_logps: Any, estimator: str, clamp: float = 0.0) -> Any:
    """Per-token estimate of KL(policy || reference) from log-probs of sampled tokens, same shape.

    With x = logps - ref_logps: k1 = x, k2 = x² / 2, k3 = exp(-x) - 1 + x.
    Schulman, http://joschu.net/blog/kl-approx.html. Which estimator suits where: ``docs/algorithms.md``.

    Args:
        clamp: bounds the estimate to ±clamp (and x to ±20 before, which changes no value of clamp <= 19); 0: off.

    Raises:
        ValueError: unknown estimator.
    """
    x = logps - ref_logps
    if clamp > 0:
        x = xp.clip(x, -KL_LOG_RATIO_LIMIT, KL_LOG_RATIO_LIMIT)
    if estimator == "k1":
        estimate = x
    elif estimator == "k2":
        estimate = 0.5 * xp.square(x)
    elif estimator == "k3":
        estimate = xp.exp(-x) - 1.0 + x
    else:
        raise ValueError(f"KL estimator {estimator!r} is unknown; there are k1, k2, k3")
    return xp.clip(estimate, -clamp, clamp) if clamp > 0 else estimate
