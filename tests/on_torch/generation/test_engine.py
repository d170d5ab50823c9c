"""Generation: the inputs that a completion depends on, its end, and refused requests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.errors import BackendError, ConfigError, DataError, RunFailed
from mindrlhf_grpo.types import FinishReason, Prompt
from tests.support.tiny_engine import (
    END,
    Endless,
    Letters,
    by_request,
    family_engine,
    make_engine,
    make_prompts,
    own_logps,
    sampling,
)
from tests.support.tiny_engine import tokens as tokens_of
from tests.support.tiny_policy import make_model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

torch.set_num_threads(1)

FAMILIES = ["llama", "qwen2", "qwen3", "gpt2", "mistral"]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_equal_transformers_generate(family: str) -> None:
    engine = family_engine(family, tokenizer=Endless(), slots=3)
    for group in engine.generate(make_prompts(), sampling(temperature=0.0, max_tokens=20), group_size=1):
        expected = engine.model.generate(
            torch.tensor(group.prompt.ids[None]).long(), max_new_tokens=20, min_new_tokens=20, do_sample=False,
            attention_mask=torch.ones(1, len(group.prompt.ids)), eos_token_id=None,
        )  # fmt: skip
        assert group.rollouts[0].ids.tolist() == expected[0, len(group.prompt.ids) :].tolist()


@pytest.mark.parametrize("decoder", ["fused", "cached", "recompute"])
def test_tokens_do_not_depend_on_neighbours_order_or_slots(decoder: str) -> None:
    engine = family_engine("llama", decoder=decoder, slots=64)
    prompts, rule = make_prompts((5, 3, 9, 3, 12, 30)), sampling()
    together = tokens_of(engine.generate(prompts, rule, group_size=3))
    assert len({tuple(ids) for ids in together.values()}) > 12, "the samples should differ"
    for slots in (1, 5):
        engine.slots = slots
        assert tokens_of(engine.generate(prompts, rule, group_size=3)) == together
    assert tokens_of(engine.generate(prompts[::-1], rule, group_size=3)) == together
    for prompt in prompts:
        alone = tokens_of(engine.generate([prompt], rule, group_size=3))
        assert alone == {request: ids for request, ids in together.items() if request[0] == prompt.uid}


def test_a_smaller_group_is_the_beginning_of_a_larger_one() -> None:
    engine = family_engine("llama")
    four = tokens_of(engine.generate(make_prompts(), sampling(), group_size=4))
    two = tokens_of(engine.generate(make_prompts(), sampling(), group_size=2))
    assert two == {request: ids for request, ids in four.items() if request[1] < 2}


def test_every_decoder_samples_the_same_tokens() -> None:
    found = [
        tokens_of(family_engine("qwen3", decoder=decoder).generate(make_prompts(), sampling(), group_size=2))
        for decoder in ("fused", "cached", "recompute")
    ]
    assert found[0] == found[1] == found[2]


def test_another_seed_gives_other_tokens() -> None:
    engine = family_engine("llama")
    one, other = (tokens_of(engine.generate(make_prompts(), sampling(seed=seed), group_size=2)) for seed in (1, 2))
    assert one != other


@pytest.mark.parametrize("rule", [{}, {"temperature": 0.7}, {"top_k": 3, "repetition_penalty": 1.4, "min_tokens": 4}])
def test_recorded_logps_are_the_models_own_before_truncation(rule: dict[str, Any]) -> None:
    engine = family_engine("qwen2")
    for group in engine.generate(make_prompts(), sampling(**rule), group_size=2):
        for rollout in group.rollouts:
            expected = own_logps(engine.model, group.prompt, rollout, rule.get("temperature", 1.0))
            np.testing.assert_allclose(rollout.logps, expected, rtol=0, atol=1e-4)
            assert rollout.logps.dtype == np.float32
            assert rollout.ids.dtype == np.int32


def test_groups_come_back_in_order_with_all_samples() -> None:
    prompts = make_prompts()
    groups = family_engine("llama", slots=3).generate(prompts, sampling(), group_size=4)
    assert [group.prompt for group in groups] == prompts
    assert [[rollout.sample for rollout in group.rollouts] for group in groups] == [[0, 1, 2, 3]] * 5


def test_an_end_token_stops_and_is_kept_and_the_budget_truncates() -> None:
    groups = family_engine("llama").generate(make_prompts(), sampling(max_tokens=60 - 12), group_size=8)
    rollouts = list(by_request(groups).values())
    ended = [rollout for rollout in rollouts if rollout.ids[-1] == END]
    assert {rollout.finish for rollout in ended} == {FinishReason.STOP}
    for rollout in rollouts:
        assert END not in rollout.ids[:-1]
        assert rollout.text == Letters().decode(rollout.ids)
        if rollout.ids[-1] != END:
            assert (rollout.finish, len(rollout.ids)) == (FinishReason.LENGTH, 48)


def test_an_immediate_end_is_a_completion_of_one_token() -> None:
    model = make_model("llama")
    model.lm_head.weight.data.zero_()[END] = 1.0
    model.model.norm.weight.data.fill_(1.0)
    model.model.norm.forward = lambda hidden: torch.ones_like(hidden)
    engine = make_engine(model, decoder="recompute")
    rollout = engine.generate(make_prompts((4,)), sampling(temperature=0.0), group_size=1)[0].rollouts[0]
    assert (rollout.ids.tolist(), rollout.finish, rollout.text) == ([END], FinishReason.STOP, "")


def test_no_end_token_before_the_minimum() -> None:
    groups = family_engine("llama").generate(make_prompts(), sampling(min_tokens=12), group_size=8)
    assert {len(rollout.ids) for rollout in by_request(groups).values()} == {12}


def test_a_minimum_without_end_tokens_is_harmless() -> None:
    engine = family_engine("llama", tokenizer=Endless())
    assert {
        len(rollout.ids)
        for rollout in engine.generate(make_prompts(), sampling(min_tokens=3), group_size=1)[0].rollouts
    } == {12}


def test_a_stop_string_cuts_the_text_and_ends_at_its_token() -> None:
    engine = family_engine("llama", tokenizer=Endless())
    plain = engine.generate(make_prompts(), sampling(), group_size=1)
    stops = [group.rollouts[0].text[4:6] for group in plain]
    for group, stop in zip(plain, stops, strict=True):
        whole = group.rollouts[0].text
        cut = engine.generate([group.prompt], sampling(stop=("absent", stop)), group_size=1)[0].rollouts[0]
        assert cut.text == whole[: whole.index(stop)]
        ids = group.rollouts[0].ids
        needed = next(n for n in range(len(ids) + 1) if stop in engine.tokenizer.decode(ids[:n].tolist()))
        assert cut.ids.tolist() == ids[:needed].tolist()
        assert len(cut.logps) == needed
        assert cut.finish is FinishReason.STOP


def test_rollouts_carry_the_weight_version_and_progress_is_told() -> None:
    engine = family_engine("llama")
    engine.weight_version = 7
    told: list[tuple[int, int]] = []
    engine.progress = lambda finished, total: told.append((finished, total))
    groups = engine.generate(make_prompts(), sampling(), group_size=2)
    assert {rollout.weight_version for rollout in by_request(groups).values()} == {7}
    assert told == [(count, 10) for count in range(1, 11)]


def test_sleep_frees_the_cache_and_generation_wakes_it() -> None:
    engine = family_engine("llama")
    before = tokens_of(engine.generate(make_prompts(), sampling(), group_size=2))
    assert engine.decoder.cache.nbytes > 0
    engine.sleep()
    assert engine.decoder.cache is None
    engine.wake_up()
    assert tokens_of(engine.generate(make_prompts(), sampling(), group_size=2)) == before


def test_no_prompts_give_no_groups() -> None:
    assert family_engine("llama").generate([], sampling(), group_size=2) == []


def prompt(*ids: int, **more: Any) -> Prompt:
    return Prompt(uid=0, ids=np.array(ids, dtype=np.int32), text="", row=4, **more)


@pytest.mark.parametrize(
    ("request_", "max_tokens", "error", "text"),
    [
        (prompt(*[3] * 60), 5, ConfigError, "row 4: 60 prompt tokens and rollout.max_tokens 5 do not fit .* 64 tokens"),
        (prompt(), 5, DataError, "row 4: the prompt has no tokens"),
        (prompt(3, 61), 5, DataError, "row 4: token 61 is beyond the model's vocabulary of 61"),
        (prompt(3, features={"image": 1}), 5, BackendError, "row 4: .* not image"),
    ],
)
def test_what_cannot_be_generated_is_refused_by_row(
    request_: Prompt, max_tokens: int, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        family_engine("llama").generate([request_], sampling(max_tokens=max_tokens), group_size=1)


def test_logits_that_are_not_finite_stop_the_run() -> None:
    engine = family_engine("llama")
    engine.model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(RunFailed, match="not finite"):
        engine.generate(make_prompts(), sampling(), group_size=1)


def test_an_engine_needs_a_torch_policy() -> None:
    from mindrlhf_grpo_torch.generation.engine import build_engine

    from tests.support.tiny_policy import run_config

    with pytest.raises(BackendError, match="needs a torch policy"):
        build_engine(run_config("unused"), object(), Letters())
