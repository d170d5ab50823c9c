"""The metrics of a step under verl's names, and the groups of a step as a file. Legend: N completions of all ranks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...json_lines import finite, replace_file

Numbers = NDArray[Any]
OF_UPDATE = {"actor/entropy": "entropy", "actor/grad_norm": "grad_norm", "actor/lr": "lr", "actor/kl_loss": "kl/mean"}


def verl_names(
    total: Numbers,
    advantages: Numbers | None,
    kl: Numbers | None,
    lengths: Numbers,
    prompt_lengths: Numbers,
    truncated: Numbers,
    figures: Mapping[str, float],
    split: str,
    data_source: Sequence[Any] | None = None,
    kl_loss_coef: float = 0.0,
    entropy_coeff: float = 0.0,
) -> dict[str, float]:
    """Return ``critic/...``, ``actor/...``, ``response_length/...`` of a step, or ``val/...`` of an evaluation.

    ``critic/score`` is the reward model's score; ``critic/rewards`` is the score minus the KL where the KL is part of the
    reward, and ``reward/mean`` its alias. A completion without a score (no token) counts in neither.
    """
    scores = np.asarray(total, np.float64)
    if split == "eval":
        return {**bounds("val/score", scores), **by_source(scores, data_source)}
    rewards = scores if kl is None else scores - figures["kl/coef"] * kl
    used = lengths > 0
    result = {
        **bounds("critic/score", scores),
        **bounds("critic/rewards", rewards),
        **bounds("response_length", lengths),
        **bounds("prompt_length", prompt_lengths),
        "response_length/clip_ratio": float(np.mean(truncated)),
        "response/aborted_ratio": float(np.mean(~used)),
    }
    if advantages is not None and used.any():
        of_tokens = {
            **bounds("", advantages[used]),
            "/mean": float(np.average(advantages[used], weights=lengths[used])),
        }
        names = ["critic/advantages"] if "critic/loss" in figures else ["critic/advantages", "critic/returns"]
        result |= {f"{name}{end}": value for name in names for end, value in of_tokens.items()}
    if kl is not None:
        result |= {
            "reward/mean": result.get("critic/rewards/mean", 0.0),
            "actor/reward_kl_penalty": float(np.mean(kl[used] / lengths[used])) if used.any() else 0.0,
            "actor/reward_kl_penalty_coeff": figures["kl/coef"],
        }
    return {**result, **actor_metrics(figures, kl_loss_coef, entropy_coeff)}


def actor_metrics(figures: Mapping[str, float], kl_loss_coef: float, entropy_coeff: float) -> dict[str, float]:
    """Return the metrics of the update; ``actor/pg_loss`` is the loss without KL and entropy (exact for token-mean losses)."""
    result = {name: figures[ours] for name, ours in OF_UPDATE.items() if ours in figures}
    if "loss" in figures:
        result["actor/loss"] = figures["loss"]
        terms = kl_loss_coef * figures.get("kl/mean", 0.0) - entropy_coeff * figures.get("entropy", 0.0)
        result["actor/pg_loss"] = figures["loss"] - terms
    return result


def bounds(name: str, values: Numbers) -> dict[str, float]:
    """Return mean, maximum and minimum of the finite values; nothing without any."""
    finite_values = values[np.isfinite(values)]
    if not len(finite_values):
        return {}
    return {
        f"{name}/mean": float(finite_values.mean()),
        f"{name}/max": float(finite_values.max()),
        f"{name}/min": float(finite_values.min()),
    }


def by_source(scores: Numbers, sources: Sequence[Any] | None) -> dict[str, float]:
    """Return ``val/test_score/SOURCE``: the mean score of each data source."""
    names = np.asarray([str(source) for source in sources or []])
    means = {name: scores[(names == name) & np.isfinite(scores)] for name in sorted(set(names.tolist()))}
    return {f"val/test_score/{name}": float(result.mean()) for name, result in means.items() if len(result)}


def group_log(
    prompts: Sequence[str],
    completions: Sequence[str],
    total: Numbers,
    group: Numbers,
    split: str,
    step: int,
    main: bool,
    folder: str,
    every: int = 10,
    max_groups: int = 50,
    max_samples_per_group: int = 0,
) -> dict[str, float]:
    """Write ``FOLDER/step_N.json`` every n steps: prompts, responses and rewards of the first groups (0 samples: all)."""
    if not main or split != "train" or every < 1 or step % every:
        return {}
    listed = []
    for number in np.unique(group)[:max_groups]:
        rows = np.flatnonzero(group == number)[: max_samples_per_group or None]
        responses = [{"response": completions[row], "reward": float(total[row])} for row in rows]
        listed.append(
            {
                "step": step,
                "group_id": int(number),
                "prompt": prompts[rows[0]],
                "responses": finite(responses),
            }
        )
    place = Path(folder).expanduser()
    place.mkdir(parents=True, exist_ok=True)
    replace_file(place / f"step_{step}.json", json.dumps(listed, ensure_ascii=False, indent=1).encode())
    return {}
