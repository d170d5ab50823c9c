"""The place of each token in the text, and the item it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mindrlhf_grpo.batches.items import ItemSpans, character_ends, line_numbers
from mindrlhf_grpo.config.algorithm import ItemsConfig
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.types import FinishReason, Prompt, Rollout, RolloutGroup

END = 0


class ByteTokenizer:
    """Tokens are byte strings given by the test; 0 ends. A decoder may strip the first space, as sentencepiece does."""

    eos_ids: tuple[int, ...] = (END,)

    def __init__(self, pieces: Sequence[str | bytes], *, strips: bool = False) -> None:
        self.pieces = [b"", *(piece.encode() if isinstance(piece, str) else piece for piece in pieces)]
        self.strips = strips

    def decode(self, ids: Sequence[int]) -> str:
        text = b"".join(self.pieces[int(token)] for token in ids).decode(errors="replace")
        return text.removeprefix(" ") if self.strips else text


def rollout(tokenizer: ByteTokenizer, *, ended: bool = True) -> Rollout:
    """All pieces in order, and the end token."""
    ids = np.array([*range(1, len(tokenizer.pieces)), *[END] * ended], np.int32)
    finish = FinishReason.STOP if ended else FinishReason.LENGTH
    return Rollout(sample=0, ids=ids, logps=np.zeros(len(ids), np.float32), finish=finish, text=tokenizer.decode(ids))


def of_config(
    function: str, pieces: list[str | bytes], items: int, **arguments: object
) -> tuple[list[int], list[float]]:
    """Items and extra advantages of one completion."""
    tokenizer = ByteTokenizer(pieces)
    own = rollout(tokenizer)
    group = RolloutGroup(prompt=Prompt(uid=0, ids=own.ids, text=""), rollouts=(own,))
    spans = ItemSpans(ItemsConfig(function=function, arguments=dict(arguments)), tokenizer)
    found = spans.of([group], items)
    extra = np.zeros(found.items.shape) if found.extra is None else found.extra
    return found.items[0].tolist(), extra[0].tolist()


@pytest.mark.parametrize("strips", [False, True])
def test_a_character_of_several_tokens_counts_for_the_last(strips: bool) -> None:
    letters = "é🙂".encode()
    tokenizer = ByteTokenizer([" A", letters[:1], letters[1:4], letters[4:5], letters[5:], "\n b"], strips=strips)
    shift = int(strips)
    assert character_ends(rollout(tokenizer), tokenizer) == [
        *(end - shift for end in (2, 2, 3, 3, 4, 7)), 7 - shift,
    ]  # fmt: skip


def test_bytes_that_make_no_character_do_not_hold_the_rest_back() -> None:
    tokenizer = ByteTokenizer([b"\xff"] * 9 + [b"ok\n", b"x"])
    assert character_ends(rollout(tokenizer, ended=False), tokenizer)[-2:] == [12, 13]


def test_text_after_a_stop_string_counts_nothing() -> None:
    tokenizer = ByteTokenizer(["one\n", "two\n", "STOP and more"])
    own = rollout(tokenizer, ended=False)
    cut = Rollout(sample=0, ids=own.ids, logps=own.logps, finish=FinishReason.STOP, text="one\ntwo\n")
    assert character_ends(cut, tokenizer) == [4, 8, 8]


def test_a_newline_belongs_to_the_line_it_ends() -> None:
    assert line_numbers("a\nb\n\nc", [1, 2, 4, 5, 6]) == [0, 0, 1, 2, 3]


def test_lines_are_the_items_unless_another_function_is_named() -> None:
    assert of_config("line", ["a", "\n", "b\n", "c", "\nd"], 3) == ([0, 0, 1, 2, 2, -1], [0.0] * 6)


def test_a_function_of_the_users_gives_items_and_what_advantages_get_besides(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def words(text, ends, ended, items, bonus=0.0):\n"
        "    own = [min(text[:end].count(' '), items) for end in ends]\n"
        "    return own, [bonus * (number == items) for number in own]\n"
        "def short(text, ends, ended, items):\n    return [0]\n"
        "def wild(text, ends, ended, items):\n    return [items + 2 for _ in ends]\n"
        "def broken(text, ends, ended, items):\n    return 1 / 0\n"
    )
    own, extra = of_config(f"{tmp_path / 'mine.py'}:words", ["a", " b", " c"], 2, bonus=0.5)
    assert (own, extra) == ([0, 1, 2, 2], [0.0, 0.0, 0.5, 0.5])
    for name, message in (
        ("short", "must give an item"),
        ("wild", "items run from -1 to 3, not 4"),
        ("broken", "failed: Zero"),
    ):
        with pytest.raises(ConfigError, match=message):
            of_config(f"{tmp_path / 'mine.py'}:{name}", ["a", " b"], 2)
    with pytest.raises(
        ConfigError, match=r"items.function: .*has no function 'word'.*accepted: line, pkg.module:function"
    ):
        of_config(f"{tmp_path / 'mine.py'}:word", ["a"], 2)


def test_arguments_that_the_function_does_not_take_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"items.arguments: line: got an unexpected keyword argument 'mode'"):
        of_config("line", ["a"], 2, mode="newline")
