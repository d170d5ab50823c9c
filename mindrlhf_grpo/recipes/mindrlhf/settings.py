"""MindRLHF's configurations as ours: files with sections (2025), dataclasses of fields and preference YAMLs (2024).

``keys.yaml`` gives the meaning of each key; this module computes the settings that depend on several of them. Nothing is
kept between two calls, so two configurations never share a value.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...compat.translation import Place, Translation
from ...config.file import AnyConfig, Draft
from ...data.sources import read_rows
from ...errors import ConfigError, did_you_mean
from .keys import keys, listed, nested, plain_yaml, set_by_path, translated
from .layout import check_layout, put_layout
from .model_folders import check_shape, model_folder, shape_of
from .token_files import SUFFIXES

HERE = __package__
BACKEND = "MINDRLHF_BACKEND"
SHARED = "mindrlhf"  # name of the run's folder in one that is everybody's
DROPOUT = ("emb_dropout_prob", "hidden_dropout", "attention_dropout")


@dataclass(frozen=True, slots=True)
class Settings:
    """Our configuration, and notes: the keys without a meaning here by their reasons, and last what changes numbers."""

    config: AnyConfig
    notes: tuple[str, ...]


def read_settings(
    path: Path, overrides: Sequence[str] = (), options: Mapping[str, Any] | None = None, *, backend: str | None = None
) -> Settings:
    """Read a YAML file of either generation.

    Args:
        overrides: ``section.key=value`` in MindRLHF's words or in ours; ours win.
        options: values of its command line (``dataset_file``, ``verifier_function``, ...); they win over the file.

    Raises:
        ConfigError: unknown keys, with their places and the nearest known ones, or unusable values.
    """
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    values, place = plain_yaml(path.read_text(encoding="utf-8"), str(path))
    return from_values(values, overrides, options, backend=backend, place=place)


def from_values(
    values: dict[str, Any],
    overrides: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    *,
    backend: str | None = None,
    place: Callable[[Place], str] = lambda path: "configuration",
) -> Settings:
    """Do the same with the values of a file."""
    kind = kind_of(values)
    theirs = keys()[kind]
    for text in overrides:
        if text.lstrip("+").split(".")[0].split("=")[0] in theirs:
            set_by_path(values, text)
    for name, value in (options or {}).items():
        if value is not None:
            section, _, key = keys()["options"][name].partition(".")
            values.setdefault(section, {})[key] = value
    our_overrides = [text for text in overrides if text.split(".")[0].split("=")[0] not in theirs]
    return to_settings(kind, translated(kind, values, place), our_overrides, backend=backend)


def kind_of(values: Mapping[str, Any]) -> str:
    """Return the table of ``keys.yaml`` that a configuration belongs to."""
    if "model" in values or "runner_config" in values:
        return "offline"
    if any(key in keys()["grpo"] for key in values):
        return "grpo"
    return "grpo_fields" if any(key in values for key in ("beta", "num_generations", "grpo_epochs")) else "ppo_fields"


def to_settings(
    kind: str, translation: Translation, our_overrides: Sequence[str] = (), *, backend: str | None = None
) -> Settings:
    """Build our configuration from translated keys; ``our_overrides`` are in our words."""
    notes = translation.changes
    values = {**translation.our_values(), "backend": backend or chosen_backend()}
    named = translation.named_values()
    if str(named.get("optimizer")) not in keys()["optimizers"]:
        raise ConfigError(
            f"optimizer {named['optimizer']!r}: there is AdamW; accepted: {', '.join(keys()['optimizers'])}"
        )
    values["train.betas"] = named.get("betas") or [named["beta1"], named["beta2"]]
    values["run_dir"] = run_folder(str(named.get("save_dir") or named.get("save") or "runs/mindrlhf"))
    if named.get("resume") in (False, "False") and (Path(values["run_dir"]) / "config.yaml").is_file():
        notes.append(f"resume_training is False, and {values['run_dir']} holds a run, which is resumed")
    if named["device"] == "CPU":
        values["model.device"] = "cpu"
    scheduled = any(name.startswith("lr_schedule.") for name in translation.places)
    if named.get("optimizer_rate") and not scheduled:  # a file without a schedule: the optimizer's rate, constant
        values["train.learning_rate"], named["decay_style"] = named["optimizer_rate"], "constant"
    fill = {"offline": fill_offline, "ppo_fields": fill_ppo}.get(kind, fill_grpo)
    fill(values, named, notes)
    put_precision(values, named, notes)
    put_schedule(values, named, notes)
    put_layout(values, named)
    draft = Draft(nested(values), "the translated configuration").with_overrides(our_overrides)
    config = draft.validated()
    translation.ignored |= check_layout(config, named)
    return Settings(config, tuple(translation.notes()))


def chosen_backend() -> str:
    """Return MINDRLHF_BACKEND, else MindSpore where it is installed, else torch."""
    return os.environ.get(BACKEND) or ("mindspore" if find_spec("mindspore") else "torch")


def run_folder(save: str) -> str:
    """Return the folder of the run: a folder in theirs where that is everybody's, as in upstream's ``save: /tmp/``."""
    place = Path(save).expanduser().resolve()
    shared = {Path("/tmp"), Path(tempfile.gettempdir()).resolve(), Path.home().resolve(), Path.cwd().resolve()}
    return str(Path(save) / SHARED if place in shared or place == Path(place.anchor) else save)


def put_precision(values: dict[str, Any], named: Mapping[str, Any], notes: list[str]) -> None:
    """Put the type to compute in, and note what the model's own type and dropout would change."""
    yaml = named.get("model_yaml")
    if yaml and not named.get("shape") and not Path(yaml).is_file():
        notes.append(f"model_config {yaml} is not there: computed in float32, whatever its compute_dtype says")
    shape = named.get("shape") or shape_of(yaml) or {}
    kind = shape.get("compute_dtype")
    if kind == "bfloat16" and values.get("model.device") != "cpu":
        values["model.dtype"] = "bfloat16"
    elif kind in ("bfloat16", "float16"):
        why = "on a processor" if kind == "bfloat16" else "there is no float16"
        notes.append(f"compute_dtype {kind}: computed in float32 ({why}); model.dtype=bfloat16 takes half the memory")
    dropped = {name: shape[name] for name in DROPOUT if shape.get(name)}
    notes += [f"{name} {share}: nothing is dropped" for name, share in dropped.items()]


def fill_grpo(values: dict[str, Any], named: dict[str, Any], notes: list[str]) -> None:
    """Fill in the settings of a GRPO run that depend on several keys."""
    prompts = named["num_rollouts"] * named["chunk_size"] * named.get("infer_dp", named.get("train_dp", 1))
    fill_online(values, named, notes, prompts)
    values |= keys()["fixed"]["grpo"]
    put_updates(values, named, notes, prompts * values["rollout.group_size"], prompts)
    values["train.steps"] = named["epochs"] * max(1, len(read_rows(values["data.source"])) // prompts)
    values["rewards"] = reward_components(
        named.get("verifiers", ["accuracy_reward", "format_reward"]), named.get("weights")
    )
    if named.get("sync") in (True, "True"):
        values["algorithm.reference_sync"] = {"every": named["sync_steps"], "share": 1.0}
    keep = named.get("save_prompts", True) not in (False, "False")
    values["tracking.rollouts_every"] = named.get("prompts_every", 1) if keep else 0


def fill_ppo(values: dict[str, Any], named: dict[str, Any], notes: list[str]) -> None:
    """Fill in a PPO run: one completion per prompt, a reward model, a critic."""
    prompts = named["num_rollouts"]
    fill_online(values, named, notes, prompts)
    clip, share = named["cliprange"], named["pretrain_coef"]
    values |= {**keys()["fixed"]["ppo"], "algorithm.clip_low": clip, "algorithm.clip_high": clip}
    values |= {"critic.learning_rate": values["train.learning_rate"], "train.steps": named["epochs"]}
    put_updates(values, named, notes, prompts, prompts)
    reward = other_model(named, values, "reward")
    if not reward:
        raise ConfigError("PPO needs a reward model: reward_model_path names its YAML, or rm_model_config its weights")
    values["rewards"] = [{"function": f"model:{reward}", "name": "reward_model", "arguments": {"keep": True}}]
    if named["shared"] in (True, "True"):
        values |= {"critic.shared": True, "critic.coef": named["vf_coef"]}
    elif critic := other_model(named, values, "critic"):
        values["critic.path"] = critic
    if not 0 <= share < 1:
        raise ConfigError(f"pretrain_coef is {share}; accepted: 0 (no pretraining loss) to below 1")
    if share > 0:
        source = {**values["data.source"], "name": f"{HERE}.data:answered"}
        values["algorithm.pretraining"] = {"source": source, "coef": share / (1 - share), "rows": named["batch_size"]}
        notes.append(
            f"pretrain_coef {share}: the pretraining loss has {share / (1 - share):g} times the policy's weight"
        )


def fill_offline(values: dict[str, Any], named: dict[str, Any], notes: list[str]) -> None:
    """Fill in a run on a fixed dataset: DPO, a reward model, or fine-tuning."""
    shape, arch = named.get("shape") or {}, str(named.get("arch", ""))
    check_shape(shape)
    source = named.get("model") or shape.get("checkpoint_name_or_path")
    values["model.path"] = policy_folder(source, values, shape=shape, tokenizer=None, key="load_checkpoint")
    supervised = not arch.endswith("DPO") and "reward" not in arch.lower()
    function = "examples" if supervised else "pairs"
    values["data.source"] = rows_source(named, values, function, named.get("train_samples"))
    if named.get("train_samples") and named.get("dataset"):
        notes.append(f"num_samples {named['train_samples']}: the first rows of the file, the same ones in each epoch")
    if named.get("held_out"):
        held_out = {**named, "dataset": named["held_out"]}
        values["eval.source"] = rows_source(held_out, values, function, named.get("held_out_samples"))
    values |= {"data.overlong": "truncate", "data.max_tokens": shape.get("seq_length", 4096)}
    put_template(values)
    values["train.prompts_per_step"] = named["batch_size"] * named["train_dp"] * named["accumulation"]
    per_epoch = max(1, len(read_rows(values["data.source"])) // values["train.prompts_per_step"])
    steps = named["total_steps"] if named["total_steps"] > 0 else named["epochs"] * per_epoch
    values["train.steps"] = steps
    values["train.warmup_steps"] = named.get("warmup_steps") or int(named["warmup_ratio"] * steps)
    if arch.endswith("DPO"):
        values |= {"objective.name": "dpo", "objective.preset": "mindrlhf"}
        values |= {
            f"objective.{ours}": shape[key] for key, ours in (("beta", "beta"), ("alpha", "sft_coef")) if key in shape
        }
        notes.append(
            "DPO by length-normalised log-probs, as DPOLossV2; plain DPO: objective.preset=null objective.beta=0.1"
        )
    else:
        values["objective.name"] = "sft" if supervised else "reward_model"
    if named.get("clip_grad") is False:
        values["train.max_grad_norm"] = 0.0
    for callback in named.get("callbacks") or []:
        values["checkpoint.every"] = callback.get("save_checkpoint_steps", values.get("checkpoint.every", 0))
        values["checkpoint.keep_last"] = callback.get("keep_checkpoint_max", values.get("checkpoint.keep_last", 2))


def fill_online(values: dict[str, Any], named: dict[str, Any], notes: list[str], prompts: int) -> None:
    """Fill in what GRPO and PPO share: model, reference, data, batch."""
    shape = named.get("shape") or shape_of(named.get("model_yaml"))
    source = named.get("model") or (shape or {}).get("checkpoint_name_or_path")
    reference = named.get("reference")
    if reference and source and Path(reference).absolute() != Path(source).absolute():
        raise ConfigError(
            f"the reference is {reference}, the actor {source}: here the reference is the untrained actor; give both the same "
            "folder, or leave the reference out"
        )
    if named.get("generator") and named["generator"] != source:
        notes.append(
            f"generate_config.load {named['generator']}: completions come from the actor's own weights, {source}"
        )
    values["model.path"] = policy_folder(
        source, values, shape=shape, tokenizer=named.get("tokenizer"), key="actor_config.load"
    )
    values["data.source"] = rows_source(named, values, "rows")
    put_template(values)
    values["data.overlong"] = "drop"
    values["train.prompts_per_step"] = prompts
    values["train.tokens_per_micro_batch"] = named["seq_length"]
    if str(named.get("tensorboard")).lower() == "true":
        values["tracking.to"] = ["tensorboard"]
    if named.get("scale_reward") not in (None, False, "False"):
        raise ConfigError(
            "scale_reward, ref_mean and ref_std are not there; algorithm.returns.whiten scales advantages"
        )


def policy_folder(
    source: Any, values: Mapping[str, Any], *, shape: Mapping[str, Any] | None, tokenizer: str | None, key: str
) -> str:
    """Return the model folder to train from, made under the run folder where the source is not one."""
    if not source:
        raise ConfigError(f"{key} names no weights, nor does checkpoint_name_or_path of the model's YAML")
    return model_folder(str(source), Path(values["run_dir"]), shape=shape, tokenizer=tokenizer)


def other_model(named: Mapping[str, Any], values: Mapping[str, Any], name: str) -> str | None:
    """Return the folder of the reward model or critic; None where none is named."""
    shape = named.get(f"{name}_shape") or shape_of(named.get(f"{name}_yaml"))
    source = (shape or {}).get("checkpoint_name_or_path")
    into, tokenizer = Path(values["run_dir"]) / name, named.get("tokenizer") or values["model.path"]
    return model_folder(str(source), into, shape=shape, tokenizer=tokenizer) if source else None


def rows_source(named: Mapping[str, Any], values: Mapping[str, Any], function: str, most: int | None = None) -> Any:
    """Return ``data.source``: a file to be read by ``data.py``; anything else is taken as a source of ours.

    Args:
        most: rows of the file to take; None: all.
    """
    dataset = named.get("dataset")
    if not dataset:
        raise ConfigError(
            "no data: rl_config.dataset_file, mind_dataset_dir or train_dataset.data_loader.dataset_dir names them"
        )
    if not Path(dataset).is_file():
        return dataset
    source = {"name": f"{HERE}.data:{function}", "file": str(dataset), "tokenizer": values["model.path"]}
    source |= {"dataset_type": named["dataset_type"]} if named.get("dataset_type") else {}
    return source | ({"most": most} if most else {})


def put_template(values: dict[str, Any]) -> None:
    """Switch the chat template and BOS off for tokenised rows, which have been through theirs."""
    source = values["data.source"]
    if isinstance(source, dict) and str(source["file"]).endswith(SUFFIXES):
        values |= {"data.chat_template": "none", "data.rendering.bos": "never"}


def put_updates(values: dict[str, Any], named: Mapping[str, Any], notes: list[str], samples: int, prompts: int) -> None:
    """Set the optimizer steps per batch: theirs, or the largest smaller number that keeps groups whole."""
    rows = named["batch_size"] * named.get("pack_num", 1) * named.get("train_dp", 1) * named.get("micro_batch_num", 1)
    requested = max(1, samples // rows)
    possible = max(count for count in range(1, prompts + 1) if prompts % count == 0 and count <= requested)
    values["algorithm.updates_per_batch"] = possible
    if possible != requested:
        notes.append(
            f"{possible} optimizer steps for each {samples} completions, not {requested}: a group stays in one step"
        )


def put_schedule(values: dict[str, Any], named: Mapping[str, Any], notes: list[str]) -> None:
    """Set the learning-rate schedule over the steps of the run; constant where theirs hardly falls in that time."""
    style = str(named.get("decay_style", "cosine"))
    if style not in keys()["schedules"]:
        raise ConfigError(
            f"schedule {style!r} is unknown{did_you_mean(style, keys()['schedules'])}; {', '.join(keys()['schedules'])}"
        )
    steps, decay = values["train.steps"], named.get("decay_steps", 0)
    falls = decay <= 2 * steps
    values["train.schedule"] = keys()["schedules"][style] if falls else "constant"
    if not falls:
        notes.append(
            f"learning rate constant after warm-up: decay_steps {decay} is far beyond the {steps} steps of the run"
        )
    elif named.get("min_lr"):
        notes.append(f"learning rate falls to 0 at step {steps}, not to {named['min_lr']:g}")


def reward_components(verifiers: Any, weights: Any) -> list[dict[str, Any]]:
    """Return reward components for verifiers, by name or as ``module:function``; lists or texts with commas.

    Raises:
        ConfigError: an unknown verifier, or a different number of weights.
    """
    names = listed(verifiers)
    factors = [float(weight) for weight in listed(weights)] if weights is not None else [1.0] * len(names)
    if len(factors) != len(names):
        raise ConfigError(f"{len(names)} verifiers ({', '.join(names)}) have {len(factors)} weights")
    known = keys()["verifiers"]
    for name in names:
        if ":" not in name and name not in known:
            raise ConfigError(
                f"verifier {name!r} is unknown{did_you_mean(name, known)}; {', '.join(known)}, or module:function"
            )
    functions = [name if ":" in name else f"{HERE}.verifiers:{name}" for name in names]
    return [{"function": function, "weight": factor} for function, factor in zip(functions, factors, strict=True)]
