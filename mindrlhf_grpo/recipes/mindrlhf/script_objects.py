"""The objects that MindRLHF's scripts create before a trainer: configurations, model sizes, tokenizers.

Each object holds its own values; nothing is shared through a class.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ...errors import ConfigError
from .keys import keys, plain_yaml, translated
from .model_folders import check_shape, shape_of

CONFIG = "MINDRLHF_CONFIG"
SAMPLING = ("max_decode_length", "seq_length", "temperature", "top_k", "top_p", "repetition_penalty")


class AttributeMapping(dict[str, Any]):
    """A dict whose keys are also attributes, as MindRLHF's scripts read and set them."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"{type(self).__name__} has no {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    @staticmethod
    def wrap(value: Any) -> Any:
        """Return a value with every nested mapping as an attribute mapping."""
        if isinstance(value, dict):
            return AttributeMapping({key: AttributeMapping.wrap(inner) for key, inner in value.items()})
        return [AttributeMapping.wrap(item) for item in value] if isinstance(value, list) else value


class RunFields(AttributeMapping):
    """The fields of a run: MindRLHF's defaults, overridden by a YAML file.

    Args:
        file_path: YAML of fields; default: the file named by MINDRLHF_CONFIG, if any.

    Raises:
        ConfigError: an unknown field.
    """

    kind: ClassVar[str]

    def __init__(self, file_path: str | None = None) -> None:
        rows = {name: row for name, row in keys()[self.kind].items() if isinstance(row, dict)}
        super().__init__({name: copy.deepcopy(row.get("default")) for name, row in rows.items()})
        if file := file_path or os.environ.get(CONFIG):
            values, place = plain_yaml(Path(file).read_text(encoding="utf-8"), file)
            translated(self.kind, values, place)
            self.update(values)


class GRPOConfig(RunFields):
    """The fields of a GRPO run."""

    kind = "grpo_fields"


class PPOConfig(RunFields):
    """The fields of a PPO run."""

    kind = "ppo_fields"


class MindFormerConfig(AttributeMapping):
    """A model's YAML as nested fields."""

    def __init__(self, path: str) -> None:
        super().__init__(AttributeMapping.wrap(plain_yaml(Path(path).read_text(encoding="utf-8"), path)[0]))


class LlamaConfig(AttributeMapping):
    """Sizes of a model and the path of its weights (``checkpoint_name_or_path``); raises ConfigError for unknown keys."""

    def __init__(self, **sizes: Any) -> None:
        check_shape(sizes)
        super().__init__({"type": type(self).__name__, **copy.deepcopy(sizes)})


class DeepseekV3Config(LlamaConfig):
    """Sizes of DeepSeek-V3."""


class ChatGLM2Config(LlamaConfig):
    """Sizes of GLM-4-9B."""


class Qwen2Tokenizer:
    """The tokenizer of a vocab.json with a merges.txt; a trainer reads it from their folder."""

    def __init__(
        self, vocab_file: str, merges_file: str, *, add_bos_token: bool = False, add_eos_token: bool = False
    ) -> None:
        for file in (vocab_file, merges_file):
            if not Path(file).is_file():
                raise ConfigError(f"there is no file {file}")
        if add_bos_token or add_eos_token:
            raise ConfigError(
                "add_bos_token and add_eos_token: prompts get what their chat template writes; accepted: False"
            )
        if Path(vocab_file).parent != Path(merges_file).parent:
            raise ConfigError(f"{vocab_file} and {merges_file} lie in two folders; accepted: one with both")
        self.vocab_file, self.merges_file = vocab_file, merges_file


Qwen2_5Tokenizer = Qwen2Tokenizer


def init_configs(args: Any = None) -> tuple[PPOConfig, LlamaConfig, LlamaConfig, LlamaConfig, LlamaConfig]:
    """Return run, policy, reference, critic and reward model from the YAML files that the arguments name."""
    run = PPOConfig()
    arguments = {
        "mind_dataset_dir" if name == "dataset_dir" else name: value for name, value in vars(args or {}).items()
    }
    run.update({name: value for name, value in arguments.items() if name in keys()["ppo_fields"] and value is not None})
    models = []
    for key in ("sft_model_path", "sft_model_path", "critic_model_path", "reward_model_path"):
        shape = shape_of(run.get(key))
        if shape is None:
            raise ConfigError(f"{key} is {run.get(key)!r}; accepted: the YAML file of a model")
        models.append(LlamaConfig(**shape))
    return run, models[0], models[1], models[2], models[3]


def combine_config(run: RunFields, model: Mapping[str, Any]) -> RunFields:
    """Fill in the model's sampling settings where the run leaves them at their defaults."""
    table = keys()[run.kind]
    for name in SAMPLING:
        if model.get(name) is not None and run.get(name) == table[name].get("default"):
            run[name] = model[name]
    return run


combine_grpo_config = combine_config


def transfer_from_str_to_bool(text: Any) -> bool:
    """Return whether a text means true."""
    return str(text).strip().lower() in ("true", "1", "yes")


str2bool = transfer_from_str_to_bool


def set_pipeline_parallel_context(**settings: Any) -> None:
    """Do nothing: scripts call this, and the backend sets up its processes itself."""


def build_context(config: Any) -> None:
    """Do nothing: scripts call this, and the backend sets up its device itself."""


def build_parallel_config(config: Any) -> None:
    """Do nothing: scripts call this; see ``parallel`` of our configuration."""


def plain(config: Any) -> dict[str, Any]:
    """Return the values of a configuration object, ours or MindFormers'."""
    if isinstance(config, Mapping):
        return dict(config)
    return dict(config.to_dict() if hasattr(config, "to_dict") else vars(config))
