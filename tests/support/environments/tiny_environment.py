"""A tiny model that talks: a character tokenizer with turn markers, a chat template with tools, environments.

The random model writes no call by itself; the plain environment answers each of its turns.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.support import tiny

TEMPLATE = """{%- if tools %}<s>tools{% for tool in tools %}
{{ tool | tojson }}{% endfor %}<e>
{% endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}<s>tool
{{ message.content }}<e>
{% else %}<s>{{ message.role }}
{{ message.content }}{% for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<e>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<s>assistant
{% endif %}"""
CHARACTERS = "".join(chr(code) for code in range(32, 127)) + "\n"
ENDS = "ABCDEFGHIJ"
SPECIAL = ["<pad>", "<e>", "<s>"]

CALCULATOR = '''
class Calculator:
    """Adds."""

    def __init__(self, base: int = 0):
        self.base = base

    def reset(self, **row):
        self.answer, self.used = str(row.get("answer", "")), 0
        return row.get("hint")

    def add(self, a: int, b: int) -> int:
        """
        Adds two numbers.

        Args:
            a: The first number
            b: The second number

        Returns:
            The sum.
        """
        self.used += 1
        return a + b + self.base

    def get_reward(self) -> float:
        return float(self.used)

    def _private(self):
        raise RuntimeError
'''
ECHO = '''
class Echo:
    """Says how many characters it heard."""

    def reset(self, **row):
        self.turns = 0

    def step(self, text):
        self.turns += 1
        return f"{len(text)} heard, go on", self.turns == 3, sum(letter.isdigit() for letter in text) / 10
'''


def write_model(folder: Path, *, seed: int = 0, context: int = 512) -> Path:
    """A random Llama over characters; its tokenizer has the template above. Capital letters end a turn too, after about ten tokens."""
    import torch
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {piece: index for index, piece in enumerate([*SPECIAL, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(?m)."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in SPECIAL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<e>", additional_special_tokens=["<s>"]
    )
    fast.chat_template = TEMPLATE
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=context, bos_token_id=None, eos_token_id=1, pad_token_id=0,
        initializer_range=0.2, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    ends = [1, *(vocabulary[letter] for letter in ENDS)]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends, "pad_token_id": 0}))
    fast.save_pretrained(folder)
    return folder


def write_rows(path: Path, count: int = 12) -> Path:
    rows = [{"prompt": f"{n}+{n + 1}=", "answer": str(2 * n + 1)} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def prepare(folder: Path, kind: str = "Echo", **sections: Any) -> Path:
    """Model, rows, environment and ``config.yaml`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model").exists():
        write_model(folder / "model")
        write_rows(folder / "rows.jsonl")
        (folder / "environment.py").write_text(CALCULATOR + ECHO)
    config: dict[str, Any] = {
        "backend": "torch",
        "run_dir": str(folder / "run"),
        "model": {"path": str(folder / "model"), "device": "cpu"},
        "data": {"source": str(folder / "rows.jsonl")},
        "rewards": [{"function": "environment"}],
        "environment": {"function": f"{folder / 'environment.py'}:{kind}", "max_tokens": 40, "timeout": 5.0},
        "rollout": {"group_size": 4, "max_tokens": 120, "slots": 8},
        "train": {"steps": 3, "prompts_per_step": 4, "learning_rate": 0.003},
    }
    for name, section in sections.items():
        config[name] = {**config.get(name, {}), **section} if isinstance(section, dict) else section
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def metrics(folder: Path) -> list[dict[str, float]]:
    return tiny.metrics(folder)
