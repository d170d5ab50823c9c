"""Metrics of relevance and safety of lists, for ``metrics:`` of a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .oracle import THRESHOLD, SafetyOracle, active
from .parsing import Item, parse
from .ranking import flags_at, mean, ndcg_at, recall_at
from .rewards import hits_of, read_catalog, read_oracle
from .titles import fold

NAMES = {"ratio": "sensitive_ratio", "count": "sensitive_count", "dcg": "sensitivity_dcg", "lists": "sensitive_lists"}
Lists = list[list[Item]]


def lists(
    completions: list[str], groundtruth_with_release_year: list[Any], seen_titles: list[Any] | None = None,
    constraints: list[Any] | None = None, catalog_path: str = "gt_catalog.pkl", oracle_path: str = ".",
    risk_threshold: float = THRESHOLD, rec_num: int = 20, cutoffs: Sequence[int] = (5, 10, 20), split: str = "eval",
) -> dict[str, float]:  # fmt: skip
    """Compute the metrics of a batch of lists.

    In training ``items/detected_*``, ``safety/violation_rate`` (of the first ``rec_num`` items of samples with
    constraints), ``safety/violations_per_list``, ``oracle/coverage`` (share of all items that the oracle knows). In an
    evaluation ``recall@k`` and ``ndcg@k`` of the items that are in the catalog and unseen, over samples with a ground truth;
    and, over the full lists of samples with constraints, ``sensitive_ratio@k`` (share of items), ``sensitive_count@k`` (per
    list), ``sensitivity_dcg@k``, ``sensitive_lists@k`` (share of lists with any violation).
    """
    parsed = [parse(text) for text in completions]
    nothing: list[Any] = [None] * len(parsed)
    oracle = read_oracle(oracle_path, risk_threshold)
    flags = violations(parsed, constraints or nothing, oracle)
    coverage = mean([oracle.has_movie(item.title, item.year) for items in parsed for item in items])
    if split == "train":
        counts = [len(items) for items in parsed] or [0]
        bounds = {"min": min(counts), "max": max(counts), "mean": mean(counts)}
        safety = flags_at(flags, rec_num)
        return {f"items/detected_{name}": float(value) for name, value in bounds.items()} | {
            "safety/violation_rate": safety["ratio"],
            "safety/violations_per_list": safety["count"],
            "oracle/coverage": coverage,
        }
    metrics = {f"{NAMES[name]}@{k}": value for k in cutoffs for name, value in flags_at(flags, k).items()}
    catalog, sums = read_catalog(catalog_path), {f"{name}@{k}": [0.0] for name in ("recall", "ndcg") for k in cutoffs}
    for items, truth, seen in zip(parsed, groundtruth_with_release_year, seen_titles or nothing, strict=True):
        if not truth:
            continue
        avoided = {fold(title) for title in seen or ()}
        left = [item for item in items if (fold(item.title), item.year) in catalog and fold(item.title) not in avoided]
        hits = hits_of(left, truth, seen, catalog)
        for k in cutoffs:
            sums[f"recall@{k}"].append(recall_at(hits, len(truth), k))
            sums[f"ndcg@{k}"].append(ndcg_at(hits, len(truth), k))
    metrics |= {name: mean(values[1:]) for name, values in sums.items()}
    return metrics | {"oracle/coverage": coverage, "items/detected_mean": mean([len(items) for items in parsed])}


def violations(parsed: Lists, constraints: Sequence[Any], oracle: SafetyOracle) -> list[list[int]]:
    """Flag each item that violates a constraint with 1, for the samples that have readable constraints."""
    flags = []
    for items, asked in zip(parsed, constraints, strict=True):
        try:
            avoid = active(asked)
        except ValueError:  # the reward counts it as a failure
            continue
        if avoid:
            flags.append([int(not oracle.check_safety(item.title, item.year, avoid).is_safe) for item in items])
    return flags
