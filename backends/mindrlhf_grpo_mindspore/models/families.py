"""The model families that these cells compute: those of the core that read text only, without variants."""

from __future__ import annotations

from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.model_files.architecture import Architecture, Config
from mindrlhf_grpo.model_files.families import FAMILIES, read_architecture


def supported_architecture(config: Config) -> Architecture:
    """The architecture of a model from its ``config.json``, before any weights are read.

    Raises:
        ConfigError: a family or variant that has no cells here; the message names those that have.
    """
    family = config.get("model_type")
    if family not in FAMILIES or FAMILIES[family].images:
        raise ConfigError(
            f"the mindspore backend has no model family {family!r} (model_type in config.json); "
            f"supported: {', '.join(name for name, known in FAMILIES.items() if not known.images)}; "
            "the torch backend trains every causal LM of transformers"
        )
    architecture = read_architecture(config)
    for variant in architecture.variants:
        raise ConfigError(f"config.json of the model: {variant.setting}; the mindspore backend has {variant.described}")
    return architecture
