"""Objectives by name, peers' presets, and batches whose loss does not depend on how they are cut."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mindrlhf_grpo.algorithms.batch_constants import BatchContext
from mindrlhf_grpo.algorithms.objective import OPTIONS
from mindrlhf_grpo.algorithms.offline import dpo, reference_free, reward_models
from mindrlhf_grpo.algorithms.registry import OBJECTIVES
from mindrlhf_grpo.algorithms.task import Task, resolve_objective
from mindrlhf_grpo.batches.offline import Denominators, build_offline_batch, with_numbers
from mindrlhf_grpo.batches.online import micro_batches
from mindrlhf_grpo.config.offline import OfflineConfig
from mindrlhf_grpo.data.examples import Example
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.losses import preference
from mindrlhf_grpo.losses.xp import NUMPY
from mindrlhf_grpo.tokenizers.masks import make_completion
from mindrlhf_grpo.types import Batch, FloatArray


def config(
    name: str, *, data: dict[str, Any] | None = None, train: dict[str, Any] | None = None, **objective: Any
) -> OfflineConfig:
    return OfflineConfig.model_validate(
        {
            "train": train or {}, "model": {"path": "model"}, "data": {"source": "rows.jsonl", **(data or {})},
            "objective": {"name": name, **objective},
        }
    )  # fmt: skip


def task(name: str, **objective: Any) -> Task:
    return resolve_objective(config(name, **objective))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_resolves_and_says_where_it_is_from(name: str) -> None:
    found = task(name)
    assert found.objective.source
    assert found.objective.peers
    assert type(found.loss) is found.objective.loss
    assert found.headline == ("nll" if name == "sft" else "accuracy")


def test_which_need_a_reference() -> None:
    without = {name for name in OBJECTIVES if not task(name).needs_reference}
    assert without == {"sft", "simpo", "orpo", "bradley_terry", "logexp", "bce"}
    assert not task("dpo", reference_free=True).needs_reference


def test_presets_are_what_peers_compute() -> None:
    assert task("dpo").loss == preference.Sigmoid(beta=0.1)
    assert task("dpo", preset="mindrlhf").loss == dpo.SigmoidNorm(beta=0.1)
    assert task("dpo", preset="mindrlhf", beta=0.3).loss == dpo.SigmoidNorm(beta=0.3)
    assert task("dpo", preset="mindrlhf_v1").loss == dpo.CDPO(beta=0.1, label_smoothing=0.0)
    assert task("dpo", preset="openrlhf", label_smoothing=0.2).loss == dpo.CDPO(label_smoothing=0.2)
    assert task("ipo").loss == task("ipo", preset="trl").loss == dpo.IPO()
    assert task("ipo", preset="openrlhf").loss == dpo.IPOSum()
    assert task("simpo").loss == reference_free.SimPO(beta=2.0, gamma=0.5)
    assert task("simpo", preset="trl").loss == reference_free.SimPO(beta=0.1, gamma=0.5, sft_coef=1.0)
    assert task("reward_model", centering=0.01).loss == reward_models.BradleyTerry(centering=0.01)


def test_every_option_of_a_loss_is_a_key() -> None:
    for name, objective in OBJECTIVES.items():
        assert {field.name for field in fields(objective.loss)} - set(OPTIONS) <= {"coef"}, name
    named = {instead.objective for entry in OBJECTIVES.values() for instead in entry.presets.values()}
    assert named <= set(OBJECTIVES)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"name": "dpoo"}, r"objective.name 'dpoo' is unknown \(did you mean 'dpo'\?\)"),
        ({"name": "dpo", "preset": "trll"}, "objective.preset 'trll' is unknown"),
        ({"name": "dpo", "label_smoothing": 0.1}, r"not read by sigmoid; accepted with: .*cdpo.* \(TRL accepts it"),
        ({"name": "sft", "beta": 0.1}, "objective.beta is not read by sft"),
        ({"name": "sft", "reference_logps": "stored"}, "sft, which has no reference"),
        ({"name": "kto", "reference_logps": "stored"}, "set on_the_fly"),
        ({"name": "kto", "train": {"prompts_per_step": 1}}, "needs at least 2"),
        ({"name": "dpo", "data": {"columns": {"margin": "gap"}}}, "a margin, which sigmoid does not read"),
    ],
)
def test_what_would_not_do_what_it_says_is_refused(wanted: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        resolve_objective(config(**wanted))


def test_a_part_of_the_row_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"data.columns names the part 'good'; there are prompt, completion"):
        config("dpo", data={"columns": {"good": "chosen"}})


# ---- batches

VOCABULARY = 20


def examples_of(rows: str, count: int, seed: int) -> list[Example]:
    random = np.random.default_rng(seed)

    def completion() -> Any:
        length = int(random.integers(1, 6))
        mask = [1, *random.integers(0, 2, length - 1).tolist()]
        return make_completion(random.integers(0, VOCABULARY, length).tolist(), mask)

    return [
        Example(
            uid=number, row=number, prompt=random.integers(0, VOCABULARY, int(random.integers(1, 5))).astype(np.int32),
            completions=tuple(completion() for _ in range(2 if rows == "pairs" else 1)),
            numbers={"label": float(random.integers(0, 2))} if rows == "labelled" else {},
        )
        for number in range(count)
    ]  # fmt: skip


def made_up(batch: Batch, seed: int) -> FloatArray:
    """Log-probs that depend on prompt and tokens only, as a model's do."""
    table = np.random.default_rng(seed).normal(-1.0, 0.5, (VOCABULARY, VOCABULARY)).astype(np.float32)
    first = np.asarray([int(batch.prompts[m][-1]) for m in batch.prompt_of], np.int64)
    return np.where(np.arange(batch.ids.shape[1]) < batch.lengths[:, None], table[first[:, None], batch.ids], 0.0)


class Ranks:
    """Several ranks as threads that exchange items."""

    def __init__(self, world: int) -> None:
        self.items: list[Any] = [None] * world
        self.barrier = threading.Barrier(world)

    def gather(self, rank: int, item: Any) -> list[Any]:
        self.items[rank] = item
        self.barrier.wait(10)
        found = list(self.items)
        self.barrier.wait(10)
        return found


def rank_batch(found: Task, examples: list[Example], share: range, gather: Any) -> Batch:
    """Return the batch of one rank."""
    batch = build_offline_batch(examples[share.start : share.stop], Denominators.of(examples))
    batch = replace(batch, ref_logps=made_up(batch, 1))
    if found.objective.prepare is None:
        return batch
    before = BatchContext(
        examples=examples, share=share, batch=batch, logps=lambda batch: made_up(batch, 0),
        ref_logps=lambda batch: made_up(batch, 1), gather=gather,
    )  # fmt: skip
    return with_numbers(batch, found.objective.prepare(before))


def rank_batches(found: Task, examples: list[Example], world: int) -> list[Batch]:
    """The batch of every rank."""
    ranks = Ranks(world)
    shares = [range(r * len(examples) // world, (r + 1) * len(examples) // world) for r in range(world)]
    with ThreadPoolExecutor(world) as pool:
        made = [
            pool.submit(rank_batch, found, examples, shares[rank], partial(ranks.gather, rank)) for rank in range(world)
        ]
        return [future.result() for future in made]


def loss_and_slope(found: Task, batch: Batch, budget: int) -> dict[str, float]:
    """Loss, sums, and the derivative along some direction of the log-probs, added up over micro-batches."""
    totals: dict[str, float] = {"loss": 0.0, "slope": 0.0}
    for rows in micro_batches(batch, budget, shared=True):
        micro = batch.take(rows)
        outputs = made_up(micro, 0).astype(np.float64)
        tensors = {name: array.astype(np.float64) for name, array in micro.loss_tensors().items()}
        value, sums = found.loss(NUMPY, outputs, tensors)
        step = 1e-5 * made_up(micro, 2).astype(np.float64)
        up, down = (found.loss(NUMPY, outputs + sign * step, tensors)[0] for sign in (1, -1))
        for name, number in {"loss": value, "slope": (up - down) / 2e-5, **sums}.items():
            totals[name] = totals.get(name, 0.0) + float(number)
    return totals


@settings(max_examples=15)
@given(
    st.sampled_from(sorted(OBJECTIVES)), st.integers(2, 9), st.integers(1, 3), st.integers(1, 60), st.integers(0, 99)
)
def test_any_cut_into_ranks_and_micro_batches_gives_the_same_loss_and_slope(
    name: str, count: int, world: int, budget: int, seed: int
) -> None:
    found = task(name)
    examples = examples_of(found.objective.rows, count, seed)
    whole = loss_and_slope(found, rank_batches(found, examples, 1)[0], 10_000)
    parts = [loss_and_slope(found, batch, budget) for batch in rank_batches(found, examples, world)]
    for key, total in whole.items():
        assert sum(part.get(key, 0.0) for part in parts) == pytest.approx(total, rel=1e-5, abs=1e-5), key


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_rank_without_rows_adds_nothing(name: str) -> None:
    """One row for two ranks: the first has none, and still takes part."""
    found = task(name)
    examples = examples_of(found.objective.rows, 1, 0)
    empty, full = rank_batches(found, examples, 2)
    assert len(empty) == 0
    assert empty.tensors.keys() == full.tensors.keys()
    value, sums = found.loss(NUMPY, made_up(empty, 0), empty.loss_tensors())
    assert float(value) == 0
    assert not any(float(total) for total in sums.values())


def test_a_pair_stays_in_one_micro_batch_and_its_prompt_is_stored_once() -> None:
    examples = examples_of("pairs", 4, 0)
    batch = build_offline_batch(examples, Denominators.of(examples))
    assert batch.coupled
    assert len(batch.prompts) == 4
    for rows in micro_batches(batch, 1, shared=True):
        assert len(rows) == 2
        assert rows[1] == rows[0] + 1


def test_ktos_baseline_is_the_mean_of_mismatched_log_ratios_and_at_least_0() -> None:
    examples = examples_of("labelled", 5, 3)
    batch = rank_batches(task("kto"), examples, 1)[0]
    ratios = []
    for place, example in enumerate(examples):
        other = examples[place - 1].completions[0]
        mismatched = build_offline_batch(
            [Example(uid=0, row=0, prompt=example.prompt, completions=(other,))], Denominators(examples=1, tokens=1)
        )
        ratios.append(float(((made_up(mismatched, 0) - made_up(mismatched, 1)) * mismatched.mask).sum()))
    assert batch.tensors["baseline"][0, 0] == pytest.approx(max(0.0, float(np.mean(ratios))), abs=1e-6)
    assert np.ptp(batch.tensors["baseline"]) == 0


def test_the_last_token_is_marked_whatever_the_mask() -> None:
    example = Example(
        uid=0, row=0, prompt=np.array([1], np.int32),
        completions=(make_completion([1, 2, 3], [1, 0, 0]), make_completion([4], [1])),
    )  # fmt: skip
    batch = build_offline_batch([example], Denominators.of([example]))
    assert batch.tensors["last"].tolist() == [[0, 0, 1], [1, 0, 0]]
    assert batch.weights.tolist() == [[1, 0, 0], [0, 0, 0]]
    assert batch.tensors["row_weight"][:, 0].tolist() == [1, 1]


def test_an_offline_configuration_reads_back(tmp_path: Path) -> None:
    written = config("dpo", beta=0.2, data={"columns": {"chosen": "good"}}).model_dump(mode="json")
    assert OfflineConfig.model_validate(written).model_dump(mode="json") == written
