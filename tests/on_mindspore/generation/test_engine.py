"""Generation on MindSpore: the torch engine's tokens, whatever the slots, neighbours, caches and adapters."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import tiny_families
from tests.support.tiny_generation import (  # fmt: skip
    END,
    assert_equal,
    by_request,
    load_model,
    make_engine,
    make_prompts,
    make_torch_engine,
    sampling,
    tokenizer_of,
    write_model,
)
from tests.support.tiny_generation import tokens as tokens_of

ms = pytest.importorskip("mindspore")

from mindrlhf_grpo_mindspore.generation.engine import MindSporeEngine, build_engine  # noqa: E402
from mindrlhf_grpo_mindspore.generation.runner import CachedRunner, prefill_batches, row_bucket  # noqa: E402
from mindrlhf_grpo_mindspore.graph import overwrite  # noqa: E402
from mindrlhf_grpo_mindspore.models import hf  # noqa: E402

from mindrlhf_grpo.backend import CompileLog  # noqa: E402
from mindrlhf_grpo.config.run import ModelConfig  # noqa: E402
from mindrlhf_grpo.errors import BackendError, ConfigError, DataError, RunFailed  # noqa: E402
from mindrlhf_grpo.types import FinishReason, Prompt, RolloutGroup  # noqa: E402

RULES: list[dict[str, Any]] = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.7, "top_k": 12, "top_p": 0.9, "min_p": 0.01},
    {"repetition_penalty": 1.3, "min_tokens": 8},
    {"temperature": 0.0, "repetition_penalty": 1.5, "min_tokens": 5},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("generation") / "model")


@pytest.fixture(scope="module")
def engine(folder: Path) -> MindSporeEngine:
    """32 slots: more than 8 rows are computed as 32, fewer as 8."""
    return make_engine(folder)


@pytest.fixture(scope="module")
def expected(folder: Path) -> Any:
    return make_torch_engine(folder)


# the rules one by one: conformance, and the sampler's own tests
@pytest.mark.parametrize(
    "rule", [RULES[0], *(pytest.param(rule, marks=pytest.mark.slow) for rule in RULES[1:])], ids=str
)
def test_tokens_are_those_of_the_torch_engine(engine: MindSporeEngine, expected: Any, rule: dict[str, Any]) -> None:
    prompts = make_prompts()
    ours, theirs = (one.generate(prompts, sampling(**rule), group_size=4) for one in (engine, expected))
    assert_equal(ours, theirs)
    assert [group.prompt for group in ours] == prompts
    rollout = ours[0].rollouts[0]
    assert (rollout.ids.dtype, rollout.logps.dtype) == (np.int32, np.float32)


@pytest.mark.slow  # conformance: completions_do_not_depend_on_order and _slots
def test_tokens_do_not_depend_on_neighbours_order_or_slots(engine: MindSporeEngine) -> None:
    prompts, rule = make_prompts((5, 3, 9, 3, 12, 30)), sampling()
    together = tokens_of(engine.generate(prompts, rule, group_size=3))
    assert len({tuple(ids) for ids in together.values()}) > 12, "the samples should differ"
    try:
        for engine.slots in (1, 5):
            assert tokens_of(engine.generate(prompts, rule, group_size=3)) == together
    finally:
        engine.slots = 32
    assert tokens_of(engine.generate(prompts[::-1], rule, group_size=3)) == together
    for prompt in prompts:
        alone = tokens_of(engine.generate([prompt], rule, group_size=3))
        assert alone == {request: ids for request, ids in together.items() if request[0] == prompt.uid}


def test_few_shapes_are_compiled_and_none_twice(engine: MindSporeEngine) -> None:
    for rule in RULES[:2]:
        engine.generate(make_prompts(), sampling(**rule), group_size=4)
    engine.generate(make_prompts((5,)), sampling(), group_size=3)
    layers = [(entry.name, entry.bucket) for entry in engine.runner.log.entries if entry.name != "draw"]
    assert len(layers) == len(set(layers)), "another rule compiled the layers again"
    assert {("prefill", "128 tokens"), ("decode", "32 rows of 128 places"), ("decode", "8 rows of 128 places")} <= set(
        layers
    )
    compiled = len(engine.runner.log.entries)
    engine.generate(make_prompts(seed=3), sampling(seed=3), group_size=4)
    assert len(engine.runner.log.entries) == compiled


def test_sequences_outgrow_a_bucket(engine: MindSporeEngine, expected: Any) -> None:
    prompts = make_prompts((3, 125, 260))
    ours, theirs = (one.generate(prompts, sampling(max_tokens=9), group_size=3) for one in (engine, expected))
    assert_equal(ours, theirs)
    assert engine.runner.cache.length == 512


@pytest.mark.row("mindrlhf", "Incremental/reshard/swap/resume")
def test_recomputation_gives_the_same_tokens(folder: Path, engine: MindSporeEngine) -> None:
    whole = make_engine(folder, model=engine.model, slots=8, decoder="recompute")
    rule = sampling(temperature=0.0, repetition_penalty=1.5, min_tokens=5)
    assert_equal(*(one.generate(make_prompts(), rule, group_size=2) for one in (engine, whole)))


def test_a_cache_in_the_parameters_own_memory_gives_the_same_tokens(folder: Path, engine: MindSporeEngine) -> None:
    prompts, rule = make_prompts((5, 9)), sampling(max_tokens=8)
    other = make_engine(folder, model=engine.model, slots=8)
    other.runner = CachedRunner(engine.model, CompileLog(), slots=8, shared=False)
    assert_equal(other.generate(prompts, rule, group_size=4), engine.generate(prompts, rule, group_size=4))


def test_adapters_are_applied_as_if_merged(tmp_path: Path, folder: Path) -> None:
    settings = ModelConfig(path=str(folder), lora_rank=3, lora_alpha=6.0)
    plain = load_model(folder)
    weights = hf.add_lora(dict(plain.weights), settings, plain.architecture, seed=1)
    random = np.random.default_rng(0)
    for name, weight in hf.adapters(weights).items():
        if name.endswith(hf.LORA_B):
            overwrite(weight, ms.Tensor(random.normal(0, 0.2, weight.shape).astype(np.float32)))
    model = dataclasses.replace(plain, weights=weights, lora_scale=2.0)
    hf.save_model(weights, plain.architecture, tmp_path / "merged", settings, merge=True)
    for path in folder.glob("*token*"):
        (tmp_path / "merged" / path.name).write_bytes(path.read_bytes())
    adapted = make_engine(folder, model=model, slots=8)
    merged = make_torch_engine(tmp_path / "merged")
    ours, theirs = (one.generate(make_prompts(), sampling(), group_size=2) for one in (adapted, merged))
    assert_equal(ours, theirs)
    assert adapted.fingerprint() == merged.fingerprint()


def test_latent_attention_and_experts_give_the_same_tokens(tmp_path: Path, folder: Path) -> None:
    """Keys and values of different sizes, as many as queries."""
    model = tiny_families.save(tiny_families.make_model("deepseek_v3"), tmp_path)
    for path in folder.glob("*token*"):
        (model / path.name).write_bytes(path.read_bytes())
    ours, theirs = (
        one.generate(make_prompts(), sampling(), group_size=1)
        for one in (make_engine(model, slots=8), make_torch_engine(model))
    )
    assert_equal(ours, theirs)


def test_endings(engine: MindSporeEngine) -> None:
    groups = engine.generate(make_prompts(), sampling(max_tokens=40), group_size=6)
    rollouts = list(by_request(groups).values())
    assert {rollout.finish for rollout in rollouts} == {FinishReason.STOP, FinishReason.LENGTH}
    for rollout in rollouts:
        assert END not in rollout.ids[:-1]
        assert (rollout.finish is FinishReason.STOP) == (rollout.ids[-1] == END)


def test_a_stop_string_cuts_the_text_and_ends_at_its_token(engine: MindSporeEngine) -> None:
    plain = engine.generate(make_prompts(), sampling(), group_size=1)
    whole: RolloutGroup = max(plain, key=lambda group: len(group.rollouts[0].text))
    stop, text = whole.rollouts[0].text[4:6], whole.rollouts[0].text
    cut = engine.generate([whole.prompt], sampling(stop=("absent", stop)), group_size=1)[0].rollouts[0]
    first = text.index(stop)
    assert (cut.text, cut.finish) == (text[:first], FinishReason.STOP)
    assert cut.ids.tolist() == whole.rollouts[0].ids[: first + 2].tolist()


def test_sleep_gives_the_memory_back_and_generation_takes_it_again(folder: Path, engine: MindSporeEngine) -> None:
    before = tokens_of(engine.generate(make_prompts(), sampling(), group_size=2))
    bucket = engine.runner.cache.current
    assert float(np.abs(bucket.parts[0]).max()) > 0
    engine.sleep()
    assert (float(np.abs(bucket.parts[0]).max()), engine.runner.cache.length) == (0.0, 0)
    engine.wake_up()
    compiled = len(engine.runner.log.entries)
    assert tokens_of(engine.generate(make_prompts(), sampling(), group_size=2)) == before
    assert len(engine.runner.log.entries) == compiled


def test_logits_that_are_not_finite_stop_the_run(engine: MindSporeEngine) -> None:
    norm = engine.model.weights["model.norm.weight"]
    kept = norm.asnumpy().copy()
    overwrite(norm, ms.Tensor(np.full_like(kept, np.nan)))
    try:
        with pytest.raises(RunFailed, match="not finite"):
            engine.generate(make_prompts(), sampling(), group_size=1)
    finally:
        overwrite(norm, ms.Tensor(kept))


def prompt(*ids: int, **more: Any) -> Prompt:
    return Prompt(uid=0, ids=np.array(ids, dtype=np.int32), text="", row=4, **more)


@pytest.mark.parametrize(
    ("request_", "max_tokens", "error", "text"),
    [
        (prompt(*[3] * 510), 5, ConfigError, "row 4: 510 prompt tokens and rollout.max_tokens 5 do not fit .* 512"),
        (prompt(), 5, DataError, "row 4: the prompt has no tokens"),
        (prompt(3, 900), 5, DataError, "row 4: token 900 is beyond the model's vocabulary"),
        (prompt(3, features={"image": 1}), 5, BackendError, "row 4: .* not image"),
    ],
)
def test_what_cannot_be_generated_is_refused_by_row(
    engine: MindSporeEngine, request_: Prompt, max_tokens: int, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        engine.generate([request_], sampling(max_tokens=max_tokens), group_size=1)


def test_an_engine_needs_a_mindspore_policy_and_a_decoder_it_has(folder: Path) -> None:
    from mindrlhf_grpo.config.run import RunConfig
    from tests.support.tiny import settings

    config = RunConfig.model_validate(settings(folder.parent))
    with pytest.raises(BackendError, match="needs a mindspore policy, not object"):
        build_engine(config, object(), tokenizer_of(folder), CompileLog())
    with pytest.raises(BackendError, match="'fused' is unknown; the mindspore engine has cached, recompute"):
        make_engine(folder, decoder="fused")


@pytest.mark.parametrize(
    ("count", "slots", "rows"),
    [(64, 64, 64), (17, 64, 64), (16, 64, 16), (1, 64, 16), (1, 128, 8), (3, 8, 8), (1, 1, 1), (5, 12, 12)],
)
def test_rows_come_in_few_buckets(count: int, slots: int, rows: int) -> None:
    assert row_bucket(count, slots) == rows


def test_prompts_are_computed_many_at_once() -> None:
    assert prefill_batches({0: 100, 1: 400, 2: 112, 3: 600, 4: 7}) == [[3], [1, 2], [0, 4]]
    assert [len(batch) for batch in prefill_batches(dict.fromkeys(range(40), 12))] == [32, 8]
    assert [len(batch) for batch in prefill_batches(dict.fromkeys(range(20), 2))] == [20]
