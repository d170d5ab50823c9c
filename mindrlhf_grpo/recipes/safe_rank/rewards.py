"""Rewards by rank: relevance, safety, their sum, and the length of the list.

``make_*`` build reward functions over objects in memory. ``total``, ``relevance``, ``safety`` and ``count`` are the same for
a configuration: they take files, which are read once. All return one row of ``rec_num`` numbers per completion.
Legend: N completions, rank k from 1, d_k = 1 / log2(k + 1).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache, lru_cache, partial
from typing import Any, Literal, TypeAlias

from .film_files import load_catalog
from .oracle import THRESHOLD, SafetyOracle, create_oracle
from .parsing import Item, parse, text_of
from .ranking import discount
from .titles import fold, year_of

Form: TypeAlias = Literal["log_decay", "gain", "exp_inf"]
Discount: TypeAlias = Literal["none", "log"]
Catalog: TypeAlias = Collection[tuple[str, int]]
Rows: TypeAlias = list[list[float]]
RewardFunction: TypeAlias = Callable[..., Rows]
YEARS_OFF = (0, 1, -1, 2, -2)


def hits_of(
    items: Sequence[Item], truth: Iterable[Any] | None, seen: Iterable[str] | None, catalog: Catalog
) -> list[int]:
    """Return 1 for each item that is in the catalog, unseen, and a ground truth up to two years off; each truth counts once."""
    left = [(fold(title), year_of(year)) for title, year, *_ in truth or ()]
    avoided, known = {fold(title) for title in seen or ()}, folded(frozenset(catalog))
    hits = []
    for item in items:
        title = fold(item.title)
        near = [(title, item.year + off) for off in YEARS_OFF if (title, item.year + off) in left]
        hits.append(int(bool(near) and title not in avoided and (title, item.year) in known))
        if hits[-1]:
            left.remove(near[0])
    return hits


def relevance_row(hits: Sequence[int], rec_num: int, form: Form) -> list[float]:
    """Return rewards by rank: ``exp_inf`` the hit, ``gain`` hit d_k, ``log_decay`` the sum of the gains from this rank on."""
    placed = [*hits, *[0] * rec_num][:rec_num]
    if form == "exp_inf":
        return [float(hit) for hit in placed]
    gains = [hit * discount(rank) for rank, hit in enumerate(placed, 1)]
    return gains if form == "gain" else [sum(gains[place:]) for place in range(rec_num)]


def safety_row(
    items: Sequence[Item], constraints: Any, oracle: SafetyOracle, rec_num: int, weight: float, form: Discount
) -> list[float]:
    """Return -weight at each rank whose item violates a constraint, hit or not; times d_k with the discount ``log``."""
    row = [0.0] * rec_num
    for place, item in enumerate(items[:rec_num]):
        if not oracle.check_safety(item.title, item.year, constraints).is_safe:
            row[place] = -weight * (discount(place + 1) if form == "log" else 1.0)
    return row


def safe_reward_func_log_decay(
    completions: Sequence[Any], groundtruth_with_release_year: Sequence[Any] | None, seen_titles: Sequence[Any] | None,
    constraints: Sequence[Any] | None, rec_num: int, gt_catalog: Catalog | None, safety_oracle: SafetyOracle | None,
    lambda_safe: float, penalty_safe: float, **kwargs: Any,
) -> Rows:  # fmt: skip
    """Return relevance plus safety of every rank ``[N, rec_num]``; without constraints it is Rank-GRPO's relevance.

    Args:
        completions: texts, or messages.
        gt_catalog: None leaves relevance out.
        safety_oracle: None leaves safety out.
        kwargs: ``form``, ``safety_discount``, ``parse_fail_penalty``; other data columns are accepted and not read.
    """
    form, safety_discount = kwargs.get("form", "log_decay"), kwargs.get("safety_discount", "none")
    rows: Rows = []
    for index, completion in enumerate(completions):
        truth, seen, asked = (
            None if column is None or not len(column) else column[index]
            for column in (groundtruth_with_release_year, seen_titles, constraints)
        )
        items = parse(text_of(completion))
        hits = [] if gt_catalog is None else hits_of(items, truth, seen, gt_catalog)
        row = relevance_row(hits, rec_num, form)
        if safety_oracle is not None:
            penalties = safety_row(items, asked, safety_oracle, rec_num, lambda_safe * penalty_safe, safety_discount)
            row = [one + other for one, other in zip(row, penalties, strict=True)]
        rows.append(row if items else [0.0 - kwargs.get("parse_fail_penalty", 0.0)] * rec_num)
    return rows


def make_safe_reward_func(
    rec_num: int, gt_catalog: Catalog | None, safety_oracle: SafetyOracle | None, lambda_safe: float = 1.0,
    penalty_safe: float = 1.0, form: Form = "log_decay", safety_discount: Discount = "none", parse_fail_penalty: float = 0.0,
) -> RewardFunction:  # fmt: skip
    """Build :func:`safe_reward_func_log_decay` with its settings; a completion without items gets -parse_fail_penalty."""

    def safe_reward(
        completions: Sequence[Any],
        groundtruth_with_release_year: Sequence[Any] | None = None,
        seen_titles: Sequence[Any] | None = None,
        constraints: Sequence[Any] | None = None,
        **_: Any,
    ) -> Rows:
        return safe_reward_func_log_decay(
            completions, groundtruth_with_release_year, seen_titles, constraints, rec_num, gt_catalog, safety_oracle,
            lambda_safe, penalty_safe, form=form, safety_discount=safety_discount, parse_fail_penalty=parse_fail_penalty,
        )  # fmt: skip

    return safe_reward


def make_relevance_func(
    rec_num: int, gt_catalog: Catalog, form: Form = "log_decay", parse_fail_penalty: float = 0.0
) -> RewardFunction:
    """Build the function for relevance alone: the reward of Rank-GRPO."""
    return make_safe_reward_func(rec_num, gt_catalog, None, form=form, parse_fail_penalty=parse_fail_penalty)


def make_safety_func(
    rec_num: int,
    safety_oracle: SafetyOracle,
    lambda_safe: float = 1.0,
    penalty_safe: float = 1.0,
    safety_discount: Discount = "none",
) -> RewardFunction:
    """Build the function for safety alone: 0 or minus lambda times penalty at every rank."""
    return make_safe_reward_func(
        rec_num, None, safety_oracle, lambda_safe, penalty_safe, safety_discount=safety_discount
    )


# a hit's reward at its own rank alone; the safety reward knows no other
make_safe_reward_func_individual = partial(make_safe_reward_func, form="exp_inf")
make_relevance_func_individual = partial(make_relevance_func, form="exp_inf")
make_safety_func_individual = make_safety_func


def make_count_func(rec_num: int, target_count: int = 10, lambda_count: float = 1.0) -> RewardFunction:
    """Build a function: +lambda at every rank of a list of the target length, else -lambda |length - target| / target."""

    def count_reward(completions: Sequence[Any], **_: Any) -> Rows:
        lengths = [len(parse(text_of(completion))) for completion in completions]
        off = [abs(length - target_count) / target_count if length else 1.0 for length in lengths]
        return [[lambda_count * (1.0 if amount == 0 else -amount)] * rec_num for amount in off]

    return count_reward


@lru_cache(maxsize=4)
def folded(catalog: frozenset[tuple[str, int]]) -> frozenset[tuple[str, int]]:
    """Return a catalog with folded titles."""
    return frozenset((fold(title), int(year)) for title, year in catalog)


read_catalog = cache(load_catalog)


@cache
def read_oracle(path: str, risk_threshold: float = THRESHOLD) -> SafetyOracle:
    """Return the oracle of a folder, read once."""
    return create_oracle(path, risk_threshold)


def total(
    completions: list[str], groundtruth_with_release_year: list[Any], seen_titles: list[Any] | None = None,
    constraints: list[Any] | None = None, catalog_path: str = "gt_catalog.pkl", oracle_path: str = ".",
    risk_threshold: float = THRESHOLD, rec_num: int = 20, lambda_safe: float = 1.0, penalty_safe: float = 1.0,
    form: Form = "log_decay", safety_discount: Discount = "none", parse_fail_penalty: float = 0.0,
) -> Rows:  # fmt: skip
    """Score relevance plus safety."""
    return safe_reward_func_log_decay(
        completions, groundtruth_with_release_year, seen_titles, constraints, rec_num, read_catalog(catalog_path),
        read_oracle(oracle_path, risk_threshold), lambda_safe, penalty_safe, form=form, safety_discount=safety_discount,
        parse_fail_penalty=parse_fail_penalty,
    )  # fmt: skip


def relevance(
    completions: list[str],
    groundtruth_with_release_year: list[Any],
    seen_titles: list[Any] | None = None,
    catalog_path: str = "gt_catalog.pkl",
    rec_num: int = 20,
    form: Form = "log_decay",
    parse_fail_penalty: float = 0.0,
) -> Rows:
    """Score relevance alone."""
    function = make_relevance_func(rec_num, read_catalog(catalog_path), form, parse_fail_penalty)
    return function(completions, groundtruth_with_release_year, seen_titles)


def safety(
    completions: list[str],
    constraints: list[Any] | None = None,
    oracle_path: str = ".",
    risk_threshold: float = THRESHOLD,
    rec_num: int = 20,
    lambda_safe: float = 1.0,
    penalty_safe: float = 1.0,
    safety_discount: Discount = "none",
) -> Rows:
    """Score safety alone."""
    oracle = read_oracle(oracle_path, risk_threshold)
    function = make_safety_func(rec_num, oracle, lambda_safe, penalty_safe, safety_discount)
    return function(completions, constraints=constraints)


def count(completions: list[str], rec_num: int = 20, target_count: int = 10, lambda_count: float = 1.0) -> Rows:
    """Score the length of the list."""
    return make_count_func(rec_num, target_count, lambda_count)(completions)
