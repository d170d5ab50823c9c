"""The chat templates of today's models: files of a package that `make setup-dev` unpacks, and tokenizers for them."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

from tests.support.tiny_tokenizers import write_huggingface

PLACES = (
    os.environ.get("CHAT_TEMPLATES", ""),
    str(Path(sys.prefix) / "templates" / "trl" / "chat_templates"),
)
PACKAGE_MISSING = "no chat templates here: make setup-dev unpacks requirements/templates.txt (or CHAT_TEMPLATES=folder)"
MARKS = re.compile(r"<[|｜][^<>'\"{}\s]*?[|｜]?>|<[a-z_]+\|>|<(?:start|end)_of_(?:turn|utterance|image)>|</?s>")
# The token that ends an answer, by the beginning of a template's name; others end with <|im_end|>.
ENDS = {
    "cohere": "<|END_OF_TURN_TOKEN|>", "deepseek": "<｜end▁of▁sentence｜>", "diffusion_gemma": "<turn|>",
    "gemma4": "<turn|>", "gemma": "<end_of_turn>", "glm4moe": "<|user|>", "gptoss": "<|return|>",
    "idefics3": "<end_of_utterance>", "llama3": "<|eot_id|>", "llava_next": "</s>", "muse_glimmer": "<|eot|>",
    "phi3": "<|end|>", "smolvlm": "<end_of_utterance>",
}  # fmt: skip


def template_files() -> list[Path]:
    """The template files; none where the package is not unpacked."""
    folder = next((Path(place) for place in PLACES if place and Path(place).is_dir()), None)
    return sorted(folder.glob("*.jinja")) if folder else []


def end_token(name: str) -> str:
    return next((end for prefix, end in ENDS.items() if name.startswith(prefix)), "<|im_end|>")


def write_tokenizer(folder: Path, template: Path) -> Path:
    """Write a byte-level tokenizer that knows the marks of a template as special tokens."""
    source = template.read_text(encoding="utf-8")
    end = end_token(template.stem)
    marks = dict.fromkeys([*MARKS.findall(source), end, "<s>"])
    known = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    added = {mark: 320 + number for number, mark in enumerate(mark for mark in marks if mark not in known)}
    ids = {**known, **added}
    tokens = {str(ids[mark]): {"content": mark, "special": True} for mark in ids}
    folder = write_huggingface(
        folder, template=source, eos_token=end, bos_token="<s>", pad_token="<|endoftext|>", added_tokens_decoder=tokens
    )
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [ids[end]]}))
    return folder
