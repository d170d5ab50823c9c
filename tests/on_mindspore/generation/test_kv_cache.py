"""The KV cache: writes, growth, moves between slots, and the memory that compiled steps see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

ms = pytest.importorskip("mindspore")

from mindrlhf_grpo_mindspore.generation.cache_attention import SlotAttention, segment_bias  # noqa: E402
from mindrlhf_grpo_mindspore.generation.kv_cache import PromptCache, SlotCache, bucket  # noqa: E402
from mindrlhf_grpo_mindspore.graph import Compiled  # noqa: E402
from mindspore import Tensor  # noqa: E402

from mindrlhf_grpo.backend import CompileLog  # noqa: E402
from mindrlhf_grpo.model_files.families import read_architecture  # noqa: E402

SHAPES = ((2, 4), (2, 6))
ARCHITECTURE = read_architecture(
    {
        "model_type": "llama", "vocab_size": 5, "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    }
)  # fmt: skip


@pytest.fixture(params=[True, False], ids=["memory of the host", "memory of the device"])
def cache(request: pytest.FixtureRequest) -> SlotCache:
    return SlotCache(SHAPES, 3, ms.float32, shared=request.param)


def make_prompt(length: int, seed: int = 0) -> PromptCache:
    random = np.random.default_rng(seed)
    return PromptCache(
        parts=tuple(random.normal(size=(heads, length, size)).astype(np.float32) for heads, size in SHAPES)
    )


def held(cache: SlotCache, part: int, slot: int) -> Any:
    values = cache.current.slot(part, slot)
    return values if isinstance(values, np.ndarray) else values.asnumpy()


@pytest.mark.parametrize(("length", "expected"), [(1, 128), (128, 128), (129, 256), (600, 1024)])
def test_lengths_come_in_buckets(length: int, expected: int) -> None:
    assert bucket(length) == expected


def test_a_prompt_goes_to_its_slots_and_nowhere_else(cache: SlotCache) -> None:
    prompt = make_prompt(7)
    cache.fork(prompt, [0, 2])
    for part, values in enumerate(prompt.parts):
        for slot in (0, 2):
            np.testing.assert_array_equal(held(cache, part, slot)[:, :7], values)
        assert np.abs(held(cache, part, 1)).max() == 0
    assert cache.length == 128
    assert cache.nbytes == 3 * 128 * (2 * 4 + 2 * 6) * 4


def test_growing_and_moving_keep_what_is_held(cache: SlotCache) -> None:
    one, other = make_prompt(5, seed=1), make_prompt(200, seed=2)
    cache.fork(one, [0])
    cache.fork(other, [2])
    assert cache.length == 256
    cache.move(2, 1)
    for part in range(2):
        np.testing.assert_array_equal(held(cache, part, 0)[:, :5], one.parts[part])
        np.testing.assert_array_equal(held(cache, part, 1)[:, :200], other.parts[part])


def test_a_released_cache_can_be_used_again(cache: SlotCache) -> None:
    cache.fork(make_prompt(5), [1])
    cache.release()
    assert cache.length == 0
    cache.fork(make_prompt(6, seed=3), [1])
    np.testing.assert_array_equal(held(cache, 0, 1)[:, :6], make_prompt(6, seed=3).parts[0])


@pytest.mark.parametrize("shared", [True, False])
def test_a_step_attends_to_the_prompt_and_to_what_it_wrote_itself(shared: bool) -> None:
    cache = SlotCache(((2, 4), (2, 4)), 3, ms.float32, shared=shared)
    random = np.random.default_rng(0)
    prompt = PromptCache(parts=tuple(random.normal(size=(2, 3, 4)).astype(np.float32) for _ in range(2)))
    cache.fork(prompt, [0, 1])
    attend = SlotAttention(ARCHITECTURE, cache.current, 2)

    class Step(ms.nn.Cell):
        def construct(self, queries: Tensor, keys: Tensor, values: Tensor, positions: Tensor) -> Tensor:
            return attend(0, queries, keys, values, attend.plan(positions))

    step = Compiled("attend", Step(), CompileLog())
    seen = [list(prompt.parts) for _ in range(2)]
    for place in range(3, 6):
        queries, keys, values = (random.normal(size=(2, heads, 4)).astype(np.float32) for heads in (4, 2, 2))
        mixed = step(Tensor(queries), Tensor(keys), Tensor(values), Tensor(np.full(2, place, np.int32))).asnumpy()
        for row in range(2):
            seen[row] = [
                np.concatenate([old, new[row][:, None]], 1) for old, new in zip(seen[row], (keys, values), strict=True)
            ]
            for head in range(4):
                scores = seen[row][0][head // 2] @ queries[row, head] * 0.5
                shares = np.exp(scores - scores.max())
                expected = shares @ seen[row][1][head // 2] / shares.sum()
                np.testing.assert_allclose(mixed[row, head], expected, rtol=0, atol=1e-6)


def test_a_token_sees_its_own_sequence_up_to_itself() -> None:
    bias = segment_bias(Tensor(np.array([0, 0, 1, 1, -1], np.int32))).asnumpy()[0, 0]
    assert (bias == 0).astype(int).tolist() == [
        [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1],
    ]  # fmt: skip
    assert bias.min() == -1e9
