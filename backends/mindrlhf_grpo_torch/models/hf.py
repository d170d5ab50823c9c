"""Loading, adapting and saving Hugging Face models, and their weights by Hugging Face name.

Only safetensors are read and written: nothing is unpickled. ``hf_tensors`` is the one view of the weights that
trainer, engine and export agree on: adapters merged, names as in the Hugging Face layout.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mindrlhf_grpo.config.run import ModelConfig
from mindrlhf_grpo.errors import BackendError, CheckpointError, ConfigError
from mindrlhf_grpo.model_files.folder import find_folder, loadable, read_model_config
from mindrlhf_grpo.model_files.value_head import NAMED_HEADS, body_config, is_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ACCELERATORS = ("cuda", "npu")
BESIDE_LANGUAGE = r"(?!(.*\.)?language_model\.).*"  # of a model that reads images: what gets no adapters


def device_of(name: str, local_rank: int = 0) -> torch.device:
    """The device that a configuration names: auto, cpu, cuda, npu.

    Raises:
        BackendError: the device is absent.
    """
    if name in ("auto", "npu"):
        import_npu()
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    present = accelerator.type if accelerator is not None else "none"
    if name == "cpu" or (name == "auto" and present not in ACCELERATORS):
        return torch.device("cpu")
    if name not in ("auto", present):
        raise BackendError(f"model.device {name!r} is not available here (accelerator: {present}); accepted: auto, cpu")
    return torch.device(present, local_rank % torch.accelerator.device_count())


def to_tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def import_npu() -> None:
    """Make Ascend devices known to torch where torch_npu is installed."""
    try:
        import torch_npu  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        return


def load_causal_lm(model: ModelConfig, device: torch.device | None = None) -> PreTrainedModel:
    """Load the model of a folder or hub id, of text or of images and text, in eval mode, all weights trainable.

    Raises:
        ConfigError: no such folder, no config.json, an unknown architecture, missing or unsafe weights.
    """
    from transformers.utils.logging import disable_progress_bar

    check_folder(model.path)
    disable_progress_bar()
    with refused_as_config_error(model.path):
        loaded, report = model_class(model).from_pretrained(
            loadable(model.path),
            dtype=DTYPES[model.dtype],
            trust_remote_code=model.trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
        )
    refuse_missing(model.path, sorted(report["missing_keys"]))
    return prepared(loaded, model, device)


def model_class(model: ModelConfig) -> Any:
    """The class of transformers that loads a model: for causal LMs, or for models of images and text."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    kind = AutoConfig.from_pretrained(loadable(model.path), trust_remote_code=model.trust_remote_code).model_type
    reads_images = kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return AutoModelForImageTextToText if reads_images else AutoModelForCausalLM


def freeze(model: nn.Module, prefixes: Sequence[str]) -> list[str]:
    """Exclude the weights whose names start with a prefix from training; return their names.

    Raises:
        ConfigError: no weight starts with a prefix, or none is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    frozen: set[str] = set()
    for prefix in prefixes:
        matches = [name for name in names if starts_with(name, prefix)]
        if not matches:
            first = sorted({name.removeprefix("model.").partition(".")[0] for name in names})
            raise ConfigError(f"model.freeze.prefixes: no weight is called {prefix}. ...; here: {', '.join(first)}")
        frozen.update(matches)
    if len(frozen) == len(names):
        raise ConfigError(f"model.freeze.prefixes {list(prefixes)} leave no weight to train")
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    return sorted(frozen)


def starts_with(name: str, prefix: str) -> bool:
    """True if a weight's name starts with the prefix's parts (layers.1 is not layers.10), without ``model.`` in either."""
    parts = prefix.removesuffix(".").removeprefix("model.")
    return f"{name.removeprefix('model.')}.".startswith(f"{parts}.")


def check_folder(path: str) -> None:
    """Raise ConfigError for a path that is meant as a folder and is none, or has no config.json."""
    try:
        loadable(path)
    except ConfigError as error:
        raise ConfigError(f"model.path: {error}") from None


@contextmanager
def refused_as_config_error(path: str) -> Iterator[None]:
    """Turn the errors of transformers for a folder that it cannot load into one clear line."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())
        hint = "; set model.trust_remote_code=true if you trust its code" if "trust_remote_code" in reason else ""
        raise ConfigError(f"model.path {path!r} cannot be loaded: {reason[:300]}{hint}") from None


def load_classifier(model: ModelConfig, device: torch.device | None = None) -> PreTrainedModel:
    """Load the body of a folder or hub id as transformers' sequence classifier, in eval mode, all weights trainable.

    The caller sets its head: the folder of a causal LM has none.

    Raises:
        ConfigError: as ``load_causal_lm``, or transformers has no sequence classifier of the family.
    """
    from transformers import AutoModelForSequenceClassification

    check_folder(model.path)
    with quiet_loading(), refused_as_config_error(model.path), torch.random.fork_rng(devices=[]):
        loaded, report = AutoModelForSequenceClassification.from_pretrained(
            loadable(model.path),
            dtype=DTYPES[model.dtype],
            trust_remote_code=model.trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **classifier_settings(model.path),
        )
    wrong = sorted(report["missing_keys"]) + sorted(str(key[0]) for key in report["mismatched_keys"])
    refuse_missing(model.path, [name for name in wrong if not is_head(name)])
    return prepared(loaded, model, device)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence progress bars and warnings of transformers, which warns of absent and of unused heads."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def classifier_settings(path: str) -> dict[str, Any]:
    """Arguments that ask for one label; a model type that only renames its head gets the configuration of its body's family."""
    from transformers import AutoConfig

    config = read_model_config(find_folder(path))
    if config.get("model_type") not in NAMED_HEADS:
        return {"num_labels": 1}
    body = body_config(config)
    return {"config": AutoConfig.for_model(body.pop("model_type"), **{**body, "num_labels": 1})}


def refuse_missing(path: str, missing: list[str]) -> None:
    if missing:
        named = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ConfigError(f"model.path {path!r}: {len(missing)} weights are missing from its files: {named}")


def prepared(loaded: PreTrainedModel, model: ModelConfig, device: torch.device | None) -> PreTrainedModel:
    """Move a loaded model to its device, in eval mode; the padding id's row is trained."""
    moved: PreTrainedModel = in_eval_mode(loaded).to(device_of(model.device) if device is None else device)
    return moved


def in_eval_mode(loaded: Any) -> Any:
    """Switch dropout off; the padding id's row is trained."""
    embedding = loaded.get_input_embeddings()
    if getattr(embedding, "padding_idx", None) is not None:
        embedding.padding_idx = None  # else the padding id's row gets no gradient; here masks come from lengths alone
    return loaded.eval()


def add_lora(model: PreTrainedModel, config: ModelConfig, *, seed: int, task: str | None = "CAUSAL_LM") -> nn.Module:
    """Wrap the model in fresh adapters (their product is zero); every rank draws the same ones.

    Raises:
        ConfigError: a target that names no linear module.
    """
    from peft import LoraConfig, get_peft_model

    targets = config.lora_targets
    for target in [] if isinstance(targets, str) and targets == "all-linear" else as_list(targets):
        check_target(model, target)
    settings = LoraConfig(
        r=config.lora_rank, lora_alpha=config.lora_alpha, lora_dropout=0.0, bias="none", task_type=task,
        target_modules=targets if targets == "all-linear" else as_list(targets),
        exclude_modules=BESIDE_LANGUAGE if hasattr(model, "get_image_features") else None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft asks transformers for a property that transformers has renamed: nothing that a user could change
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        torch.manual_seed(seed)
        return get_peft_model(model, settings).eval()


def check_target(model: nn.Module, target: str) -> None:
    """Raise ConfigError unless a LoRA target is the name of a module with a weight matrix, or the end of one."""
    names = [
        name
        for name, module in model.named_modules()
        if getattr(module, "weight", None) is not None and module.weight.dim() == 2
    ]
    if not any(name == target or name.endswith(f".{target}") for name in names):
        known = sorted({name.rsplit(".", 1)[-1] for name in names})
        raise ConfigError(f"model.lora_targets: no module is called {target!r}; here: all-linear, {', '.join(known)}")


def as_list(targets: str | list[str]) -> list[str]:
    return [targets] if isinstance(targets, str) else list(targets)


def is_lora(model: nn.Module) -> bool:
    return hasattr(model, "peft_config")


def causal_lm_of(model: Any) -> Any:
    """The Hugging Face causal LM inside the adapters, or the model itself."""
    return model.get_base_model() if is_lora(model) else model


Gather = Callable[[str, Tensor], Tensor]
"""Assemble a parameter, by its name in the model, from the shards of all ranks."""


def hf_tensors(model: nn.Module, gather: Gather | None = None) -> Iterator[tuple[str, Tensor]]:
    """(Hugging Face name, tensor) of every weight and saved buffer, tied ones once; adapters merged one at a time.

    Tensors without an adapter are the live ones; merged ones are fresh.

    Args:
        gather: assembles sharded parameters; then every rank must take all tensors. None: parameters are not sharded.
    """
    causal_lm = causal_lm_of(model)
    for name, parameter in causal_lm.named_parameters():
        if ".lora_" in name:
            continue
        place = name.rpartition(".")[0].removesuffix(".base_layer")
        owner = causal_lm.get_submodule(place)
        value = parameter.detach() if gather is None else gather(name, parameter)
        if name.endswith(".base_layer.weight") and hasattr(owner, "lora_A"):
            value = (
                merged_weight(owner, value) if gather is None else merged_gathered_weight(owner, value, place, gather)
            )
        yield name.replace(".base_layer.", "."), value
    yield from saved_buffers(causal_lm)


def saved_buffers(causal_lm: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(Hugging Face name, buffer) of every buffer that a checkpoint holds."""
    for prefix, module in causal_lm.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{prefix}.{name}".lstrip("."), buffer


@torch.no_grad()
def merged_weight(layer: Any, weight: Tensor) -> Tensor:
    """Weight plus adapter, added in float32 and rounded once."""
    delta = sum(layer.get_delta_weight(adapter).float() for adapter in layer.active_adapters)
    return (weight.float() + delta).to(weight.dtype)


@torch.no_grad()
def merged_gathered_weight(layer: Any, weight: Tensor, name: str, gather: Gather) -> Tensor:
    """Weight plus adapter of a sharded layer of this name, from gathered factors."""
    total = weight.float()
    for adapter in layer.active_adapters:
        down, up = (
            gather(f"{name}.{part}.{adapter}.weight", getattr(layer, part)[adapter].weight)
            for part in ("lora_A", "lora_B")
        )
        product = up @ down
        total = total + ((product.T if layer.fan_in_fan_out else product) * layer.scaling[adapter]).float()
    return total.to(weight.dtype)


def save_model(model: Any, folder: Path, *, merge: bool = False, tensors: dict[str, Tensor] | None = None) -> None:
    """Write the Hugging Face layout: the adapter alone for LoRA, all weights otherwise or with ``merge``.

    Args:
        tensors: where the model holds shards: gathered weights by Hugging Face name, or adapters by the model's names.

    Raises:
        BackendError: sharded weights are to be merged.
    """
    if tensors is not None and merge and is_lora(model):
        raise BackendError("adapters are not merged where weights are sharded: merge a checkpoint of the run")
    folder.mkdir(parents=True, exist_ok=True)
    if is_lora(model) and not merge:
        model.save_pretrained(folder, save_embedding_layers=False, state_dict=tensors)
    else:
        causal_lm_of(model).save_pretrained(folder, state_dict=dict(hf_tensors(model)) if tensors is None else tensors)


def is_shard(tensor: Tensor) -> bool:
    """True for a tensor that is sharded over ranks, see ``parallel.py``."""
    return hasattr(tensor, "to_local")


def local(tensor: Any) -> Tensor:
    """The part of a tensor that this rank holds."""
    with torch.no_grad():
        held: Tensor = tensor.to_local() if is_shard(tensor) else tensor
        return held


def load_weights(
    model: Any, config: ModelConfig, folder: Path, *, own: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> None:
    """Copy saved weights into the live tensors, which keep their storage.

    Args:
        own: takes the part of full tensors that this rank holds.

    Raises:
        CheckpointError: the folder does not fit the model.
    """
    try:
        if is_lora(model):
            load_adapter(model, folder, own)
        else:
            saved = load_causal_lm(config.model_copy(update={"path": str(folder)}), torch.device("cpu"))
            copy_tensors(dict(hf_tensors(model)), own(dict(hf_tensors(saved))))
    except (ConfigError, OSError, RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{folder} does not hold this model's weights: {error}") from None


def load_adapter(model: Any, folder: Path, own: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Copy a saved adapter into the live one; ``own`` as in ``load_weights``."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    saved = load_file(folder / "adapter_model.safetensors")
    copy_tensors(get_peft_model_state_dict(model, save_embedding_layers=False), own(saved))


@torch.no_grad()
def copy_tensors(live: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    """Copy tensors by name; both sides must have the same names."""
    if set(live) != set(saved):
        raise KeyError(f"weights differ: {', '.join(sorted(set(live) ^ set(saved))[:3])}")
    for name, tensor in live.items():
        local(tensor).copy_(saved[name])
