"""A tiny Hugging Face tokenizer, made from a few sentences."""

from __future__ import annotations

import json
from pathlib import Path

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = [
    "the quick brown fox jumps over the lazy dog", "what is 12 + 34? it is 46.", "user assistant system",
    "pack my box with five dozen liquor jugs", "how many roads must a man walk down", "0123456789 naïve 日本",
] * 4  # fmt: skip


def write_huggingface(folder: Path, *, template: str | None = CHATML, **config: object) -> Path:
    """A byte-level BPE of 300-odd tokens as a Hugging Face folder."""
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, models, pre_tokenizers, trainers

    folder.mkdir(parents=True, exist_ok=True)
    fast = Fast(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    fast.train_from_iterator(TEXT, trainer)
    fast.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>", "tokenizer_class": "PreTrainedTokenizerFast", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder
