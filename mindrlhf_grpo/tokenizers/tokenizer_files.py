"""The tokenizer files of a model folder and the facts in them.

Facts come from: tokenizer_config.json (named tokens, template, added tokens), special_tokens_map.json,
chat_template.jinja or chat_template.json, and generation_config.json or config.json (end tokens).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..model_files.checkpoint_folders import is_adapter, policy_folder
from ..model_files.folder import find_folder

CONFIGS = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json")
HUB_PATTERNS = [
    *CONFIGS,
    "tokenizer.json",
    "*.model",
    "*.tiktoken",
    "chat_template*",
    "vocab*",
    "merges.txt",
    "added_tokens.json",
    "*processor_config.json",
]
NAMED = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFiles:
    """The facts about the tokenizer of a folder.

    Attributes:
        name: folder, file or hub id, for messages.
        folder: the folder of the files.
        model: the vocabulary file; None if only transformers may be able to read it.
        chat_template: the tokenizer's own Jinja source.
        named_tokens: ``bos_token``, ``eos_token``, ... -> text.
        added_tokens: id -> (text, special) of the tokens added to the vocabulary.
        eos_ids: end tokens that the generation or model configuration lists.
        add_bos: ``add_bos_token`` of the tokenizer's configuration; None if it has none.
    """

    name: str
    folder: Path
    model: Path | None
    chat_template: str | None = None
    named_tokens: Mapping[str, str] = field(default_factory=dict)
    added_tokens: Mapping[int, tuple[str, bool]] = field(default_factory=dict)
    eos_ids: tuple[int, ...] = ()
    add_bos: bool | None = None

    def prefix(self, token_id: Callable[[str], int | None], own: tuple[int, ...]) -> tuple[int, ...]:
        """Return the ids before a text: by ``add_bos_token`` where the folder has it, else the format's ``own``."""
        bos = token_id(self.named_tokens["bos_token"]) if "bos_token" in self.named_tokens else None
        if self.add_bos is None or (self.add_bos and bos is None):
            return own
        return (bos,) if self.add_bos and bos is not None else ()

    def named(self, token_id: Callable[[str], int | None], *known: int) -> set[int]:
        """Return the ids of the named tokens (BOS, end, padding, ...) and those ``known``."""
        return {*known, *(token for text in self.named_tokens.values() if (token := token_id(text)) is not None)}

    def end_tokens(self, token_id: Callable[[str], int | None], vocab_size: int, *known: int) -> tuple[int, ...]:
        """Return every id that ends a completion: those listed, ``eos_token``, and those ``known`` from the format.

        Raises:
            DataError: there is none, or one is outside the vocabulary.
        """
        named = token_id(self.named_tokens["eos_token"]) if "eos_token" in self.named_tokens else None
        end_ids = dict.fromkeys((*self.eos_ids, *([] if named is None else [named]), *known))
        if not end_ids:
            raise DataError(
                f"tokenizer {self.name} has no end token: none in generation_config.json, config.json or as eos_token in tokenizer_config.json"
            )
        outside = [token for token in end_ids if not 0 <= token < vocab_size]
        if outside:
            raise DataError(
                f"tokenizer {self.name} has {vocab_size} tokens, but its end token is {outside[0]}: the files belong to different models"
            )
        return tuple(end_ids)

    def padding(self, token_id: Callable[[str], int | None], fallback: int) -> int:
        """Return the id of ``pad_token``, or the fallback without one."""
        named = token_id(self.named_tokens["pad_token"]) if "pad_token" in self.named_tokens else None
        return fallback if named is None else named


def find_tokenizer(path: str, *, trust_remote_code: bool = False) -> TokenizerFiles:
    """Find the tokenizer files of a folder, of one file, or of a hub id (downloaded to the hub's cache).

    Raises:
        DataError: there are none, or a configuration file is not a JSON object.
    """
    place = Path(path).expanduser()
    if place.is_file():
        # A vocabulary file alone says nothing about its model; the files beside it do.
        return _describe(path, place.parent, place)
    folder = policy_folder(place) if place.is_dir() else _download(path, trust_remote_code)
    if is_adapter(folder) and not any(folder.glob("tokenizer*")):
        folder = find_folder(str(folder))  # its base has the tokenizer
    return _describe(path, folder, _vocabulary(path, folder))


def is_tiktoken(path: Path) -> bool:
    """Tell whether a vocabulary file is in tiktoken's text format (``base64 rank`` lines), whatever its name."""
    with path.open("rb") as file:
        first = file.readline(4096).rstrip(b"\r\n")
    return path.suffix == ".tiktoken" or re.fullmatch(rb"[A-Za-z0-9+/]+={0,2} \d+", first) is not None


def _vocabulary(name: str, folder: Path) -> Path | None:
    for candidate in (folder / "tokenizer.json", folder / "tokenizer.model", *sorted(folder.glob("*.tiktoken"))):
        if candidate.is_file():
            return candidate
    if any((folder / other).is_file() for other in ("vocab.json", "vocab.txt", "tokenizer_config.json")):
        return None
    raise DataError(
        f"no tokenizer in {name}: looked for tokenizer.json, tokenizer.model, *.tiktoken, vocab.json, vocab.txt, tokenizer_config.json"
    )


def _download(name: str, trust_remote_code: bool) -> Path:
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise DataError(f"tokenizer {name!r} not found: no such folder or file, and it is no hub id (owner/name)")
    from huggingface_hub import snapshot_download

    patterns = [*HUB_PATTERNS, "*.py"] if trust_remote_code else HUB_PATTERNS
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # the hub client raises many kinds, its network layer more
        raise DataError(
            f"tokenizer {name!r} not found: no such folder, and the hub did not give it ({type(error).__name__}: {_first_line(error)})"
        ) from error


def _describe(name: str, folder: Path, model: Path | None) -> TokenizerFiles:
    config, special_map, generation, architecture = (_read_json(folder / file) for file in CONFIGS)
    named = {key: _token_text(source[key]) for source in (special_map, config) for key in NAMED if source.get(key)}
    added = {
        int(key): (entry["content"], bool(entry.get("special")))
        for key, entry in config.get("added_tokens_decoder", {}).items()
    }
    listed = generation.get("eos_token_id")
    if listed is None:
        listed = architecture.get("eos_token_id")
    return TokenizerFiles(
        name=name,
        folder=folder,
        model=model,
        chat_template=_stored_template(folder, config),
        named_tokens=named,
        added_tokens=added,
        add_bos=config.get("add_bos_token"),
        eos_ids=() if listed is None else tuple(listed) if isinstance(listed, list) else (int(listed),),
    )


def _stored_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = _read_json(folder / "chat_template.json").get("chat_template", config.get("chat_template"))
    if isinstance(template, list):  # several named templates
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template


def _token_text(entry: Any) -> str:
    return str(entry["content"]) if isinstance(entry, Mapping) else str(entry)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, not an object")
    return content


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
