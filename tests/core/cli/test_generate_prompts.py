"""How ``generate`` turns prompts into tokens; the backend is a recorder."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.cli import generate as command
from mindrlhf_grpo.config.run import ModelConfig
from mindrlhf_grpo.errors import ConfigError, DataError
from mindrlhf_grpo.model_files.safetensors import write_tensors
from mindrlhf_grpo.types import Prompt, Sampling
from tests.support.tiny_tokenizers import CHATML, write_huggingface

THINKING = CHATML.replace(
    "assistant\n{% endif %}", "assistant\n{% if enable_thinking %}<think>\n{% endif %}{% endif %}"
)


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = write_huggingface(tmp_path / "model", template=THINKING)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 512, "vocab_size": 320}))
    write_tensors(folder / "model.safetensors", {"lm_head.weight": np.ones((320, 4))})
    return str(folder)


def prompts_of(monkeypatch: pytest.MonkeyPatch, model: str, row: dict[str, Any], **settings: Any) -> str:
    """The text of the only prompt that reaches the engine."""
    taken: list[Prompt] = []

    def load_engine(policy: Any, tokenizer: Any) -> Any:
        def generate(prompts: list[Prompt], sampling: Sampling, *, group_size: int) -> list[Any]:
            taken.extend(prompts)
            texts.extend("".join(tokenizer.piece(int(token)) for token in prompt.ids) for prompt in prompts)
            return []

        return SimpleNamespace(generate=generate)

    texts: list[str] = []
    backend = SimpleNamespace(load_engine=load_engine, comm=SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(command, "load_backend", lambda config: backend)
    command.generate(ModelConfig(path=model), [row], Sampling(max_tokens=4), **settings)
    return texts[0]


def test_names_of_the_template_reach_it(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    """``--template-kwargs`` is data.rendering.chat_template_kwargs; a row's own column goes before it."""
    row: dict[str, Any] = {"prompt": "dog"}
    assert prompts_of(monkeypatch, model, row, template_kwargs={"enable_thinking": True}).endswith("<think>\n")
    row["chat_template_kwargs"] = {"enable_thinking": False}
    assert prompts_of(monkeypatch, model, row, template_kwargs={"enable_thinking": True}).endswith("assistant\n")
    with pytest.raises(DataError, match="'thinks' is not accepted: the chat template does not read it"):
        prompts_of(monkeypatch, model, row, template_kwargs={"thinks": True})


def test_another_template_and_a_prompt_to_continue(monkeypatch: pytest.MonkeyPatch, model: str, tmp_path: Path) -> None:
    """``--chat-template FILE``; an assistant message at the end is continued (newcomer P2)."""
    other = tmp_path / "other.jinja"
    other.write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}")
    row = {"prompt": [{"role": "user", "content": "dog"}, {"role": "assistant", "content": "the lazy"}]}
    assert prompts_of(monkeypatch, model, row, chat_template=str(other)) == "[user] dog[assistant] the lazy"
    assert prompts_of(monkeypatch, model, row).endswith("<|im_start|>assistant\nthe lazy")


@pytest.mark.parametrize("text", ["{enable", "[1]", "3"])
def test_template_kwargs_are_a_json_object(text: str) -> None:
    with pytest.raises(ConfigError, match="--template-kwargs"):
        command.parse_template_kwargs(text)
    assert command.parse_template_kwargs(None) == {}
    assert command.parse_template_kwargs('{"a": 1}') == {"a": 1}
