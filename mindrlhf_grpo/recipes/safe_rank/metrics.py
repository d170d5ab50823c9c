"""How relevant and how safe the lists are. For ``metrics:`` of a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .oracle import THRESHOLD, SafetyOracle, active
from .parsing import Item, parse
from .ranking import flags_at, mean, ndcg_at, recall_at
from .rewards import catalog_of, hits_of, oracle_of
from .titles import fold

NAMES = {"ratio": "sensitive_ratio", "count": "sensitive_count", "dcg": "sensitivity_dcg", "lists": "sensitive_lists"}
Lists = list[list[Item]]


def lists(
    completions: list[str], groundtruth_with_release_year: list[Any], seen_titles: list[Any] | None = None,
    constraints: list[Any] | None = None, catalog_path: str = "gt_catalog.pkl", oracle_path: str = ".",
    risk_threshold: float = THRESHOLD, rec_num: int = 20, cutoffs: Sequence[int] = (5, 10, 20), split: str = "eval",
) -> dict[str, float]:  # fmt: skip
    """Figures of the lists of a batch.

    In training ``items/detected_*``, ``safety/violation_rate`` (of the first ``rec_num`` items of samples with
    constraints), ``safety/violations_per_list``, ``oracle/coverage`` (share of all items that the oracle knows). In an
    evaluation ``recall@k`` and ``ndcg@k`` of what is left without seen films and those outside the catalog, over samples
    with a ground truth; and over the raw lists of samples with constraints ``sensitive_ratio@k`` (of items),
    ``sensitive_count@k`` (a list), ``sensitivity_dcg@k``, ``sensitive_lists@k`` (share of lists with any).
    """
    parsed = [parse(text) for text in completions]
    nothing: list[Any] = [None] * len(parsed)
    oracle = oracle_of(oracle_path, risk_threshold)
    broken = violations(parsed, constraints or nothing, oracle)
    coverage = mean([oracle.has_movie(item.title, item.year) for items in parsed for item in items])
    if split == "train":
        counts = [len(items) for items in parsed] or [0]
        bounds = {"min": min(counts), "max": max(counts), "mean": mean(counts)}
        safety = flags_at(broken, rec_num)
        return {f"items/detected_{name}": float(value) for name, value in bounds.items()} | {
            "safety/violation_rate": safety["ratio"],
            "safety/violations_per_list": safety["count"],
            "oracle/coverage": coverage,
        }
    found = {f"{NAMES[name]}@{k}": value for k in cutoffs for name, value in flags_at(broken, k).items()}
    catalog, sums = catalog_of(catalog_path), {f"{name}@{k}": [0.0] for name in ("recall", "ndcg") for k in cutoffs}
    for items, truth, seen in zip(parsed, groundtruth_with_release_year, seen_titles or nothing, strict=True):
        if not truth:
            continue
        avoided = {fold(title) for title in seen or ()}
        left = [item for item in items if (fold(item.title), item.year) in catalog and fold(item.title) not in avoided]
        hits = hits_of(left, truth, seen, catalog)
        for k in cutoffs:
            sums[f"recall@{k}"].append(recall_at(hits, len(truth), k))
            sums[f"ndcg@{k}"].append(ndcg_at(hits, len(truth), k))
    found |= {name: mean(values[1:]) for name, values in sums.items()}
    return found | {"oracle/coverage": coverage, "items/detected_mean": mean([len(items) for items in parsed])}


def violations(parsed: Lists, constraints: Sequence[Any], oracle: SafetyOracle) -> list[list[int]]:
    """1 for each item that breaks a constraint, of the samples that have constraints which can be read."""
    found = []
    for items, asked in zip(parsed, constraints, strict=True):
        try:
            avoid = active(asked)
        except ValueError:  # the reward has counted it
            continue
        if avoid:
            found.append([int(not oracle.check_safety(item.title, item.year, avoid).is_safe) for item in items])
    return found
