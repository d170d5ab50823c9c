"""verl's dotted names as our configuration; ``verl_names.yaml`` gives the meaning of each name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...compat.translation import Table, Translation
from ...config.file import Draft
from ...config.run import RunConfig
from ...config.yaml_source import parse
from ...data.stream import PromptStream
from ...errors import ConfigError
from ...rewards.models.reward_model import CHOICES
from ...trainers.session import load_run_tokenizer

PACKAGE = __name__.rpartition(".")[0]
ROWS, NAMES_OF_VERL, GROUPS = f"{PACKAGE}.data:rows", f"{PACKAGE}.metrics:verl_names", f"{PACKAGE}.metrics:group_log"
TRACKERS = ("wandb", "tensorboard")
LOSSES = {"vanilla": "ppo", "gspo": "gspo", "geo_mean": "gmpo", "cispo": "cispo"}
BY_SEQUENCE = ("gspo", "geo_mean")  # verl takes the mean of sequences for these, whatever loss_agg_mode says
CLIP = 0.2  # of verl, for every loss
TEST_OF_GROUPS = ("score", "seq_reward", "seq_final_reward")
KL_CLAMP = 10.0  # of verl, on the low-variance estimate
UNKNOWN = "{place}: {name} is no name of verl that is known here{near}"
REFUSED = "{place}: {name} is {value!r}{near}; accepted here: {accepted}"
ACTOR, RM = "actor_rollout_ref.actor", "reward_model"
VALIDATION = "actor_rollout_ref.rollout.val_kwargs"
RM_OFFLOAD = f"{RM}.model.fsdp_config.param_offload"
CRITIC_AS_ACTOR = tuple(
    f"critic.{name}"
    for name in (
        "ppo_epochs", "ppo_mini_batch_size", "loss_agg_mode", "grad_clip", "optim.weight_decay", "optim.betas",
        "optim.warmup_style", "optim.lr_warmup_steps", "optim.lr_warmup_steps_ratio",
    )
)  # fmt: skip
COMPUTE = tuple(f"{ACTOR}.fsdp_config.{name}" for name in ("mixed_precision.param_dtype", "dtype", "model_dtype"))


@cache
def table() -> Table:
    """Return ``verl_names.yaml``."""
    written = parse(resources.files(PACKAGE).joinpath("verl_names.yaml").read_text("utf-8")).value
    return Table.parse(written, unknown=UNKNOWN, refused=REFUSED)


def read_names(file: Path | None, arguments: Sequence[str]) -> Translation:
    """Read verl's names from a file and the command line; raises ConfigError listing every problem."""
    return Translation.from_words(table(), file, arguments)


def configuration(names: Translation, backend: str) -> tuple[RunConfig, Draft]:
    """Return the run that the names ask for, and the draft that knows where each key was given.

    Raises:
        ConfigError: a required name is missing, values contradict each other, or a key does not accept its value.
    """
    names.require(["actor_rollout_ref.model.path", f"{RM}.model.path", "data.train_files"])
    names.choice("trainer.resume_mode")  # read when the run begins
    draft = Draft({"backend": backend, "algorithm": {"preset": "verl"}, "train": {"steps": 1}}, "verl's names")
    names.put_keys(draft)
    check_critic(names)
    for rule in (put_data, put_batches, put_kl, put_loss, put_precision, put_reward, put_memory, put_run, put_metrics):
        rule(names, draft)
    draft.with_overrides(names.our_settings)
    config = draft.validated()
    assert isinstance(config, RunConfig)
    steps = count_steps(names, config)
    draft.put(("train", "steps"), steps, names.place("trainer.total_epochs"))
    warmup = names.number(f"{ACTOR}.optim.lr_warmup_steps")
    warmup = warmup if warmup >= 0 else int(names.number(f"{ACTOR}.optim.lr_warmup_steps_ratio") * steps)
    draft.put(("train", "warmup_steps"), int(warmup), names.place(f"{ACTOR}.optim.lr_warmup_steps_ratio"))
    settled = draft.with_overrides(names.our_settings).validated()
    assert isinstance(settled, RunConfig)
    return settled, draft


def check_critic(names: Translation) -> None:
    """Raise ConfigError for a setting of the critic that is not the policy's: here both are trained alike."""
    for name in [name for name in CRITIC_AS_ACTOR if name in names.places]:
        if names.get("algorithm.adv_estimator") != "gae":
            names.ignored[name] = (
                f"it has no effect with algorithm.adv_estimator={names.get('algorithm.adv_estimator')}"
            )
        elif names.get(name) != (of_actor := names.get(f"{ACTOR}.{name.removeprefix('critic.')}")):
            raise ConfigError(
                f"{names.place(name)}: {name} is {names.get(name)!r}; the critic is trained as the policy is, by {of_actor!r}"
            )


def put_data(names: Translation, draft: Draft) -> None:
    """Put the files, and the treatment of prompts that are too long."""
    drawn = int(names.get("data.seed") or 0) if names.get("data.shuffle") is not False else None
    for split, section in (("train", "data"), ("val", "eval")):
        name, most = f"data.{split}_files", int(names.number(f"data.{split}_max_samples"))
        if names.get(name):
            part = {"most": most} | ({} if drawn is None else {"seed": drawn}) if most > 0 else {}
            draft.put((section, "source"), {"name": ROWS, "files": names.get(name), **part}, names.place(name))
    choices = {"error": "error", "left": "truncate"}  # verl's left cuts the beginning, as truncate does
    how = "drop" if names.flag("data.filter_overlong_prompts") else choices.get(str(names.get("data.truncation")))
    if how is None:
        raise ConfigError(
            f"{names.place('data.truncation')}: data.truncation is {names.get('data.truncation')!r}; "
            f"accepted here: {', '.join(choices)}, or data.filter_overlong_prompts=True"
        )
    draft.put(("data", "overlong"), how, names.place("data.truncation"))


def put_batches(names: Translation, draft: Draft) -> None:
    """Put the optimizer steps per batch, and the tokens per micro-batch."""
    batch = names.number("data.train_batch_size")
    mini = names.number(f"{ACTOR}.ppo_mini_batch_size") if names.get(f"{ACTOR}.ppo_mini_batch_size") else batch
    if mini < 1 or batch % mini:
        raise ConfigError(
            f"{names.place(f'{ACTOR}.ppo_mini_batch_size')}: ppo_mini_batch_size {mini} must divide "
            f"data.train_batch_size {batch}; both count prompts"
        )
    draft.put(("algorithm", "updates_per_batch"), int(batch // mini), names.place(f"{ACTOR}.ppo_mini_batch_size"))
    size = "ppo_max_token_len_per_gpu" if names.flag(f"{ACTOR}.use_dynamic_bsz") else "ppo_micro_batch_size_per_gpu"
    tokens = names.number(f"{ACTOR}.{size}") * (1 if size.startswith("ppo_max") else longest(names))
    draft.put(("train", "tokens_per_micro_batch"), int(tokens), names.place(f"{ACTOR}.{size}"))


def longest(names: Translation) -> int:
    """Return the tokens of the longest prompt and response together."""
    return int(names.number("data.max_prompt_length") + names.number("data.max_response_length"))


def put_kl(names: Translation, draft: Draft) -> None:
    """Put KL in the reward, in the loss, in both or in neither; entropy; advantages without a group's deviation."""
    in_reward, in_loss = names.flag("algorithm.use_kl_in_reward"), names.flag(f"{ACTOR}.use_kl_loss")
    coef, estimator = names.number(f"{ACTOR}.kl_loss_coef"), names.choice(f"{ACTOR}.kl_loss_type")
    algorithm: dict[str, Any] = {"kl_coef": coef if in_loss else 0.0, "kl_in": "loss", "kl_estimator": estimator}
    if in_reward:
        algorithm |= {
            "kl_coef": names.number("algorithm.kl_ctrl.kl_coef"),
            "kl_in": "reward",
            "kl_estimator": names.choice("algorithm.kl_penalty"),
        }
        if names.get("algorithm.kl_ctrl.type") == "adaptive":
            target = {"target": names.number("algorithm.kl_ctrl.target_kl")}
            algorithm["kl_control"] = {**target, "horizon": int(names.number("algorithm.kl_ctrl.horizon"))}
        if in_loss:
            clamp = KL_CLAMP if estimator == "k3" else 0.0
            algorithm["loss"] = {"name": "ppo", "kl_coef": coef, "kl_estimator": estimator, "kl_clamp": clamp}
    entropy = names.number(f"{ACTOR}.entropy_coeff")
    if entropy:
        algorithm["entropy"] = {"coef": entropy}
    if not names.flag("algorithm.norm_adv_by_std_in_grpo") and names.get("algorithm.adv_estimator") == "grpo":
        algorithm["name"] = "dr_grpo"
    for key, value in algorithm.items():
        draft.put(("algorithm", key), value, names.place("algorithm.use_kl_in_reward"))


def put_loss(names: Translation, draft: Draft) -> None:
    """Put the policy loss where it is not PPO's clip, and the treatment of groups whose rewards are all equal."""
    name, algorithm = f"{ACTOR}.policy_loss.loss_mode", draft.values["algorithm"]
    loss = names.choice(name, LOSSES)
    if loss != "ppo":
        low, high = algorithm.get("clip_low", CLIP), algorithm.get("clip_high", CLIP)
        bounds = {"clip_low": low, "clip_high": high}
        if loss == "cispo":
            bounds = {"low": 1 - low, "high": 1 + high}
            algorithm.pop("clip_low", None), algorithm.pop("clip_high", None)
        gradient = {"gradient": "token"} if loss == "gspo" else {}
        with_kl = algorithm.get("loss", {})
        draft.put(("algorithm", "loss"), {**with_kl, "name": loss, **bounds, **gradient}, names.place(name))
    if names.get(name) in BY_SEQUENCE:
        draft.put(("algorithm", "aggregation"), "sequence_mean", names.place(name))
    if names.flag("algorithm.filter_groups.enable"):
        metric = names.get("algorithm.filter_groups.metric")
        accepted = TEST_OF_GROUPS[: 2 if names.flag("algorithm.use_kl_in_reward") else 3]
        if metric not in (None, *accepted):
            place = names.place("algorithm.filter_groups.metric")
            raise ConfigError(names.table.refusal("algorithm.filter_groups.metric", metric, accepted, place))
        draft.put(("algorithm", "dead_groups"), "resample", names.place("algorithm.filter_groups.enable"))


def put_precision(names: Translation, draft: Draft) -> None:
    """Put the type to compute in; bfloat16 keeps float32 weights in the optimizer, as verl does."""
    given = next((name for name in COMPUTE if names.get(name)), None)
    if given is not None:
        draft.put(("model", "dtype"), names.choice(given), names.place(given))
    if given in (None, COMPUTE[-1]) and draft.values["model"].get("dtype", "float32") == "float32":
        names.changes.append(
            "policy and reward model compute in float32; verl computes in bfloat16 on float32 weights, which "
            f"{COMPUTE[1]}=bfloat16 does here, for half the memory"
        )


def put_reward(names: Translation, draft: Draft) -> None:
    """Put the reward model, and whether it reads prompts in its own template."""
    path, other = names.get(f"{RM}.model.path"), names.get(f"{RM}.model.input_tokenizer")
    same = f"{RM}.model.input_tokenizer" in names.places and other in (None, path)
    most = int(names.number(f"{RM}.max_length") if names.get(f"{RM}.max_length") else longest(names))
    transforms = {str(name): name for name in CHOICES["squash"]}
    own_type = f"{RM}.model.fsdp_config.model_dtype"
    arguments = {
        "tokens": "same" if same else "own",
        "end": "template",
        "squash": names.choice(f"{RM}.score_transform", transforms),
        "max_tokens": most,
        "trust_remote_code": names.flag(f"{RM}.model.trust_remote_code"),
        "tokens_per_micro_batch": int(names.number(f"{RM}.micro_batch_size_per_gpu") * most),
        "dtype": names.choice(own_type) if names.get(own_type) else draft.values["model"].get("dtype", "float32"),
    }
    reward = {"function": f"model:{path}", "name": "score", "arguments": arguments}
    draft.put(("rewards",), [reward], names.place(f"{RM}.model.path"))


def put_memory(names: Translation, draft: Draft) -> None:
    """Put sharding over several ranks, which verl always does, and whether the reward model stays in memory."""
    ranks, torch = int(os.environ.get("WORLD_SIZE", "1")), draft.values["backend"] == "torch"
    offload = names.flag(f"{ACTOR}.fsdp_config.param_offload")
    if ranks > 1 and torch and not names.get("actor_rollout_ref.model.lora_rank"):
        draft.put(("parallel",), {"strategy": "fsdp", "offload": offload}, names.place(f"{ACTOR}.strategy"))
    elif offload:
        names.ignored[f"{ACTOR}.fsdp_config.param_offload"] = "it belongs to torch on several ranks, without LoRA"
    keep = RM_OFFLOAD in names.values and not names.flag(RM_OFFLOAD)
    draft.put(("rewards", 0, "arguments", "keep"), keep, names.place(RM_OFFLOAD))


def put_run(names: Translation, draft: Draft) -> None:
    """Put folder, trackers and evaluation."""
    project, experiment = str(names.get("trainer.project_name")), str(names.get("trainer.experiment_name"))
    folder = names.get("trainer.default_local_dir") or f"checkpoints/{project}/{experiment}"
    draft.put(("run_dir",), str(folder), names.place("trainer.default_local_dir"))
    loggers, mode = names.get("trainer.logger"), os.environ.get("WANDB_MODE")
    chosen = []
    for name in [loggers] if isinstance(loggers, str) else list(loggers or []):
        if name not in TRACKERS and name != "console":
            names.ignored[f"trainer.logger={name}"] = f"trackers here: {', '.join(TRACKERS)}"
        elif name != "console" and (find_spec(name) is None or (name == "wandb" and mode == "disabled")):
            names.ignored[f"trainer.logger={name}"] = "not installed, or turned off; metrics.jsonl has the same figures"
        elif name != "console":
            chosen.append("wandb-offline" if name == "wandb" and mode == "offline" else name)
    draft.put(("tracking", "to"), chosen, names.place("trainer.logger"))
    every = names.number("trainer.test_freq")
    if names.get("data.val_files"):
        draft.put(("eval", "every"), int(max(0, every)), names.place("trainer.test_freq"))
        put_validation(names, draft)


def put_validation(names: Translation, draft: Draft) -> None:
    """Put the sampling of held-out completions, which verl takes only where it is told to sample."""
    if not names.flag(f"{VALIDATION}.do_sample"):
        given = [name for name in names.places if name.startswith(f"{VALIDATION}.") and not name.endswith(".do_sample")]
        names.ignored |= dict.fromkeys(given, "held-out completions are greedy without do_sample")
        return
    for name, whole in (("top_p", 1), ("top_k", -1)):
        if names.get(f"{VALIDATION}.{name}") != whole:
            place = names.place(f"{VALIDATION}.{name}")
            raise ConfigError(
                names.table.refusal(f"{VALIDATION}.{name}", names.get(f"{VALIDATION}.{name}"), [whole], place)
            )
    draft.put(
        ("eval", "temperature"), names.number(f"{VALIDATION}.temperature"), names.place(f"{VALIDATION}.temperature")
    )
    draft.put(("eval", "samples"), int(names.number(f"{VALIDATION}.n")), names.place(f"{VALIDATION}.n"))


def put_metrics(names: Translation, draft: Draft) -> None:
    """Put the metrics under verl's names, and the group log where it has a folder."""
    in_loss = names.flag(f"{ACTOR}.use_kl_loss")
    figures = {
        "kl_loss_coef": names.number(f"{ACTOR}.kl_loss_coef") if in_loss else 0.0,
        "entropy_coeff": names.number(f"{ACTOR}.entropy_coeff"),
    }
    metrics: list[dict[str, Any]] = [{"function": NAMES_OF_VERL, "arguments": figures}]
    if names.get("trainer.group_log_dir"):
        sizes = {
            "every": "group_log_freq",
            "max_groups": "group_log_max_groups",
            "max_samples_per_group": "group_log_max_samples_per_group",
        }
        arguments = {key: int(names.number(f"trainer.{name}")) for key, name in sizes.items()}
        folder = str(names.get("trainer.group_log_dir"))
        metrics.append({"function": GROUPS, "arguments": {**arguments, "folder": folder}})
    draft.put(("metrics",), metrics, names.place("trainer.group_log_dir"))


def count_steps(names: Translation, config: RunConfig) -> int:
    """Return the requested steps, or those of the epochs: complete batches of the prompts that are not too long.

    Raises:
        ConfigError: the data has fewer prompts than a batch.
    """
    if names.get("trainer.total_training_steps"):
        return int(names.number("trainer.total_training_steps"))
    stream = PromptStream(config.data, load_run_tokenizer(config), seed=config.seed)
    usable = len(stream.all()) if config.data.overlong == "drop" else len(stream)
    batch = config.train.prompts_per_step
    if usable < batch:
        raise ConfigError(
            f"{names.place('data.train_batch_size')}: data.train_batch_size is {batch}, the data has {usable} prompts"
        )
    return int(names.number("trainer.total_epochs")) * (usable // batch)


def refuse_to_resume(names: Translation, folder: Path) -> None:
    """Raise ConfigError where a fresh run is asked for and the folder holds a run, which would be resumed."""
    if names.choice("trainer.resume_mode") == "disable" and (folder / "config.yaml").is_file():
        raise ConfigError(
            f"{names.place('trainer.resume_mode')}: {folder} holds a run, which would be resumed; "
            "name another folder by trainer.default_local_dir, or remove this one"
        )
