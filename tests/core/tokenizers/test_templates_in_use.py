"""D2: the chat templates of today's models by conversations: the same text as transformers, the answers trained.

The templates are files of a package that ``make setup-dev`` unpacks beside the environment; without it this is skipped.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.config.offline import OfflineDataConfig
from mindrlhf_grpo.data.messages import read_conversation
from mindrlhf_grpo.data.row_encoders import encode_supervised
from mindrlhf_grpo.errors import DataError
from mindrlhf_grpo.tokenizers.chat_template import TODAY
from mindrlhf_grpo.tokenizers.tokenizer import Tokenizer, load_tokenizer
from tests.core.tokenizers.published_templates import PACKAGE_MISSING, end_token, template_files, write_tokenizer

SYSTEM = {"role": "system", "content": "Answer in few words."}
SUM, FIVE = {"role": "user", "content": "What is 2+3?"}, {"role": "assistant", "content": "It is five."}
NEXT, EIGHT = {"role": "user", "content": "And 4+4?"}, {"role": "assistant", "content": "It is eight."}
THOUGHT = {"reasoning_content": "Count on fingers."}
CALL = {"type": "function", "id": "call12345", "function": {"name": "add", "arguments": {"a": 2, "b": 3}}}
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]}}}  # fmt: skip
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one turn": [SUM, FIVE],
    "system": [SYSTEM, SUM, FIVE],
    "two turns": [SUM, FIVE, NEXT, EIGHT],
    "a thought": [SUM, {**FIVE, **THOUGHT}],
    "two thoughts": [SUM, {**FIVE, **THOUGHT}, NEXT, {**EIGHT, "reasoning_content": "Twice four."}],
    "a tool": [SUM, {"role": "assistant", "content": "", "tool_calls": [CALL]},
               {"role": "tool", "name": "add", "tool_call_id": "call12345", "content": "5"}, FIVE],
}  # fmt: skip
# How 72 templates by 6 conversations go, by the reason of a refusal. Each refusal is right:
REASONS = {
    "trained": 289,
    # Most templates read no thought apart from the content; in silence it would be lost.
    "writes nothing of 'reasoning_content'": 83,
    # No system role (Gemma 2), no tool role, no thought (Jinja's own exceptions of the template).
    "refuses the conversation": 21,
    # Templates without tools.
    "writes nothing of 'tool_calls'": 10,
    # Templates that write calls and results (DeepSeek-V3), but no definitions of tools.
    "the row has tools": 3,
    # Earlier thoughts are dropped once a question follows (Qwen3, DeepSeek, GLM), or a call of a tool is written without
    # the empty thought that a last message has (Qwen3): data.turns: apart reads these rows.
    "cannot be told": 26,
    # None of these 72 does: a thought cut from the content of a trained answer, content left out, arguments not as JSON.
    "writes nothing of the thought": 0, "writes nothing of 'content'": 0, "does not write the arguments": 0,
}  # fmt: skip

FILES = template_files()
pytestmark = pytest.mark.skipif(not FILES, reason=PACKAGE_MISSING)


@functools.cache
def tokenizer_of(template: Path) -> tuple[Tokenizer, Any]:
    import tempfile

    from transformers import PreTrainedTokenizerFast

    folder = write_tokenizer(Path(tempfile.mkdtemp()) / template.stem, template)
    return load_tokenizer(str(folder)), PreTrainedTokenizerFast.from_pretrained(str(folder))


def spans(tokenizer: Tokenizer, ids: Any, mask: Any) -> list[str]:
    text, before = "", 0.0
    for token, flag in zip(ids, mask, strict=True):
        text += ("\0" if flag > before else "\1" if flag < before else "") + tokenizer.piece(int(token))
        before = flag
    return re.findall("\0([^\0\1]*)", text)


@pytest.mark.parametrize("template", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_d2_text_is_that_of_transformers(template: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.utils.chat_template_utils as theirs_module

    class Today:
        now = staticmethod(lambda: TODAY)

    monkeypatch.setattr(theirs_module, "datetime", Today)
    ours, theirs = tokenizer_of(template)
    messages, tools = CONVERSATIONS[name], [TOOL] if name == "a tool" else None
    for end in (False, True):
        try:
            expected = theirs.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=end)
        except Exception:  # the template's own refusal, of any kind
            with pytest.raises(DataError):
                ours.render(messages, generation_prompt=end, variables={"tools": tools})
            continue
        # transformers gives a thought both of its usual names.
        named = [{**m, "thinking": m["reasoning_content"]} if "reasoning_content" in m else m for m in messages]
        assert ours.render(named, generation_prompt=end, variables={"tools": tools}) == expected


def outcome(template: Path, name: str) -> str:
    """Check what is trained; returns ``trained``, or the reason of a refusal."""
    tokenizer, _ = tokenizer_of(template)
    row = {"messages": CONVERSATIONS[name], "tools": [TOOL] if name == "a tool" else None}
    try:
        encoded = encode_supervised(row, OfflineDataConfig(source="x"), tokenizer)
    except DataError as error:
        return next(reason for reason in REASONS if reason in str(error))
    (completion,) = encoded.completions
    trained = spans(tokenizer, completion.ids, completion.mask)
    answers = [message for message in read_conversation(CONVERSATIONS[name]) if message["role"] == "assistant"]
    assert len(trained) == len(answers), trained
    for text, message in zip(trained, answers, strict=True):
        assert text.count(message["content"]) == 1 or not message["content"], text
        assert message.get("reasoning_content", "") in text
        assert not re.search("What is|And 4|few words", text), "no text of others"
        if "tool_calls" in message:
            assert "add" in text
    assert re.search(re.escape(end_token(template.stem)) + r"\s*$", trained[-1])
    full = "".join(tokenizer.piece(int(token)) for token in [*encoded.prompt, *completion.ids])
    assert "What is 2+3?" in full
    return "trained"


@pytest.mark.parametrize("template", FILES, ids=lambda path: path.stem)
def test_d2_answers_are_trained_or_refused_with_the_reason(template: Path) -> None:
    results = {name: outcome(template, name) for name in CONVERSATIONS}
    assert results["one turn"] == "trained", "one assistant turn at the end always works"


def test_d2_the_number_of_refusals(capsys: pytest.CaptureFixture[str]) -> None:
    results = [(outcome(template, name), template.stem, name) for template in FILES for name in CONVERSATIONS]
    lines = [f"{len(FILES)} templates by {len(CONVERSATIONS)} conversations"]
    for reason in dict.fromkeys(result for result, _, _ in results):
        cases = [(stem, name) for result, stem, name in results if result == reason]
        by_name = {name: sum(other == name for _, other in cases) for name in CONVERSATIONS}
        lines.append(f"  {len(cases):4} {reason}: {', '.join(f'{n} {name}' for name, n in by_name.items() if n)}")
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    outcomes = [result for result, _, _ in results]
    assert {reason: outcomes.count(reason) for reason in REASONS} == REASONS
