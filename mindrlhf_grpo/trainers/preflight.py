"""Checks of a run before weights are loaded; all problems are reported at once.

A configuration may be well formed and still name a model, file, column, reward or backend that does not exist. Each
check asks the module that owns the matter.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from ..algorithms.plan import resolve as resolve_algorithm
from ..algorithms.registry import ALGORITHMS
from ..algorithms.task import Task, resolve_objective
from ..backend import available_backends, backend_module
from ..batches.items import item_function
from ..config.file import AnyConfig, Draft
from ..config.keys import catalogue, record_path
from ..config.offline import OfflineConfig, mixed_rows
from ..config.run import MetricConfig, RewardConfig, RunConfig
from ..config.secrets import HIDDEN, hidden_places
from ..data.examples import ExampleStream
from ..data.mixture import Setting, read_sources
from ..data.row_check import Survey
from ..data.row_encoders import encode_supervised
from ..errors import BackendError, ConfigError, DataError, UserError, from_here
from ..metrics.metric_functions import MetricFunction
from ..model_files.families import read_architecture
from ..model_files.folder import find_folder, read_model_config
from ..parallel.mesh import check_sizes
from ..rewards.models.reward_model import settings_from_arguments
from ..rewards.protocol import ModelReward
from ..rewards.resolve import Reward, model_reward
from ..rewards.resolve import resolve as resolve_reward
from ..rewards.sources import ENVIRONMENT, MODEL_PREFIX, build_model_reward, build_source, check_form
from ..run.wandb_sink import wandb_mode
from ..tokenizers.tokenizer import Tokenizer, load_tokenizer
from .rollouts import load_environments
from .rows import check_lengths, check_vocabulary, open_examples, open_prompts

T = TypeVar("T")
DEVICES = ("auto", "cpu", "cuda", "npu", "xpu", "mps")
PACKAGES = {"wandb": "wandb", "wandb-offline": "wandb", "tensorboard": "tensorboard"}


@dataclass(slots=True)
class Findings:
    """The problems found so far, each with the key it belongs to."""

    problems: list[tuple[str, str]] = field(default_factory=list)

    def attempt(self, key: str, action: Callable[[], T]) -> T | None:
        """Return the result of ``action``; if it raises a UserError, record that under ``key`` and return None."""
        try:
            return action()
        except UserError as error:
            text = str(error)
            owner = _owner(text) or key
            problem = (owner, text if text.startswith(owner) else f"{owner}: {text}")
            if problem not in self.problems:  # training and held-out rows may share a problem
                self.problems.append(problem)
            return None


def check(config: AnyConfig, draft: Draft | None = None) -> None:
    """Raise one ConfigError that lists everything that would stop this run; ``draft`` adds file and line."""
    problems = problems_of(config)
    if problems:
        lines = [f"{draft.place(_parts(key))}: {text}" if draft else text for key, text in problems]
        raise ConfigError(lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} problems:", *lines]))


def problems_of(config: AnyConfig) -> list[tuple[str, str]]:
    """(key, text) of everything that would stop this run; each text starts with the key."""
    findings = Findings()
    findings.attempt("model.path", lambda: read_model_config(find_folder(config.model.path)))
    tokenizer = (
        None
        if findings.problems
        else findings.attempt(
            "model.tokenizer" if config.model.tokenizer else "model.path", lambda: open_tokenizer(config)
        )
    )
    findings.attempt("model.device", lambda: check_device(config.model.device))
    findings.attempt("data.chat_template", lambda: check_template(config.data.chat_template))
    if isinstance(config, OfflineConfig):
        _check_offline(findings, config, tokenizer)
    else:
        _check_online(findings, config, tokenizer)
    findings.attempt("backend", lambda: check_backend(config.backend))
    if not {"backend", "model.path"} & {key for key, _ in findings.problems}:
        findings.attempt("backend", lambda: ask_backend(config))
        findings.attempt("parallel.tensor", lambda: check_tensor_parallel(config))
    for name in config.tracking.to:
        _check_tracker(findings, name)
    findings.attempt("run_dir", lambda: check_writable(config.run_dir))
    findings.problems += [
        (
            place,
            f"{place} is {HIDDEN}, as the files of a run hold secrets; write it again, or read it from the environment",
        )
        for place in hidden_places(config.model_dump(mode="json"))
    ]
    return findings.problems


def _check_online(findings: Findings, config: RunConfig, tokenizer: Tokenizer | None) -> None:
    """Check prompts, rewards, algorithm, and the models besides the policy."""
    if tokenizer is not None:
        findings.attempt("data.max_prompt_tokens", lambda: check_lengths(config))
    if config.environment is not None and tokenizer is not None:
        findings.attempt("environment", lambda: check_environment(config, tokenizer))
        if findings.problems:
            return  # its tools are part of every prompt
    columns = findings.attempt("data.source", lambda: check_prompts(config, config.data.source, tokenizer))
    held_out = config.eval.source
    if held_out is not None:
        findings.attempt("eval.source", lambda: check_prompts(config, held_out, tokenizer))
    for index, component in enumerate(config.rewards):
        _check_reward(findings, f"rewards.{index}", component, columns)
    for index, metric in enumerate(config.metrics or []):
        findings.attempt(f"metrics.{index}.function", partial(check_metric, metric, f"metrics.{index}", columns))
    if config.items is not None:
        findings.attempt("items.function", partial(item_function, config.items))
    if config.data.images is not None:
        findings.attempt("data.images", lambda: check_readers_of_images(config))
    plan = findings.attempt("algorithm", lambda: resolve_algorithm(config.algorithm))
    if plan is not None:
        findings.attempt("algorithm", lambda: plan.check(config.rollout.group_size))
        findings.attempt("critic.path", lambda: check_critic(config, needed="critic" in plan.needs))
    if config.algorithm.pretraining is not None and tokenizer is not None:
        rows = mixed_rows(config, config.algorithm.pretraining)
        findings.attempt(
            "algorithm.pretraining", lambda: ExampleStream(rows, encode_supervised, tokenizer, seed=config.seed).check()
        )


def check_environment(config: RunConfig, tokenizer: Tokenizer) -> None:
    """Raise ConfigError for an environment that does not exist, that the template or backend cannot talk to, or whose
    reward is asked for and missing."""
    environments = load_environments(config, tokenizer)
    assert environments is not None  # asked for
    if any(reward.function == ENVIRONMENT for reward in config.rewards) and not environments.kind.gives_reward:
        raise ConfigError(
            f"rewards: function: environment, and {environments.kind.label} has no get_reward; accepted: a class with "
            "get_reward() or step(text) -> (observation, done, reward), or another reward"
        )
    reason = backend_module(config.backend).UNSUPPORTED.get("conversations")
    if reason is not None:
        raise ConfigError(f"environment: the backend {config.backend} makes completions of one turn: {reason}")


def check_readers_of_images(config: RunConfig) -> None:
    """Raise ConfigError for a critic or reward model that would read image tokens without the images."""
    if config.critic is not None:
        raise ConfigError(
            "critic reads text only, and data.images gives images; accepted: an algorithm without a critic"
        )
    for index, component in enumerate(config.rewards):
        if component.function.startswith(MODEL_PREFIX) and component.arguments.get("tokens") == "same":
            raise ConfigError(
                f"rewards.{index}.arguments: tokens: same gives the reward model the tokens of images, which it cannot "
                "read; accepted with data.images: own, where it reads <image> as text"
            )


def check_metric(config: MetricConfig, label: str, columns: tuple[str, ...] | None) -> None:
    """Raise ConfigError for a metric function that does not exist, or that needs a column the data lacks."""
    function = MetricFunction.of(config, label)
    if columns is not None:
        function.check(columns)


def _check_offline(findings: Findings, config: OfflineConfig, tokenizer: Tokenizer | None) -> None:
    """Check objective and rows."""
    task = findings.attempt("objective", lambda: resolve_objective(config))
    for key, source in (("data.source", config.data.source), ("eval.source", config.eval.source)):
        if source is not None:
            findings.attempt(key, partial(check_examples, config, source, task, tokenizer))


def check_examples(config: OfflineConfig, source: Setting, task: Task | None, tokenizer: Tokenizer | None) -> None:
    """Read a source, and tokenise its rows where objective and tokenizer are known."""
    if task is None or tokenizer is None:
        read_sources(source)
        return
    check_vocabulary(config, tokenizer, open_examples(config, task, tokenizer, source).check())


def surveys_of(config: AnyConfig) -> list[Survey]:
    """Return the checks of the training rows and of the held-out ones, which ``check`` has made in this process."""
    tokenizer = open_tokenizer(config)
    sources = [source for source in (config.data.source, config.eval.source) if source is not None]
    if isinstance(config, OfflineConfig):
        task = resolve_objective(config)
        return [open_examples(config, task, tokenizer, source).check() for source in sources]
    return [open_prompts(config, tokenizer, source).check() for source in sources]


def check_critic(config: RunConfig, *, needed: bool) -> None:
    """Raise ConfigError for a critic that no algorithm uses, or one with another vocabulary than the policy."""
    if config.critic is None:
        return
    if not needed:
        readers = ", ".join(name for name, algorithm in ALGORITHMS.items() if "critic" in algorithm.needs)
        raise ConfigError(f"critic has no effect on algorithm.name: {config.algorithm.name}; it belongs to {readers}")
    if config.critic.path is not None:
        sizes = {
            path: read_model_config(find_folder(path)).get("vocab_size")
            for path in (config.model.path, config.critic.path)
        }
        if len(set(sizes.values())) > 1:
            raise ConfigError(
                f"critic.path {config.critic.path!r} has {sizes[config.critic.path]} tokens in its vocabulary, "
                f"model.path {sizes[config.model.path]}: they must read the same tokens"
            )


def open_tokenizer(config: AnyConfig) -> Tokenizer:
    """Load the tokenizer of the run, with the template that the data section asks for where that exists."""
    template = config.data.chat_template
    usable = template in ("auto", "none") or Path(template).is_file()
    return load_tokenizer(
        config.model.tokenizer_path,
        chat_template=template if usable else "auto",
        trust_remote_code=config.model.trust_remote_code,
        special_tokens=config.data.rendered.special_tokens,
    )


def check_prompts(config: RunConfig, source: Setting, tokenizer: Tokenizer | None) -> tuple[str, ...] | None:
    """Tokenise the prompts of a source and return their columns; None where there is no tokenizer."""
    if tokenizer is None:
        read_sources(source)
        return None
    survey = open_prompts(config, tokenizer, source).check()
    check_vocabulary(config, tokenizer, survey)
    return survey.columns


def check_device(device: str) -> None:
    """Raise ConfigError unless this can be the name of a device; the backend checks that it exists."""
    if device not in DEVICES:
        raise ConfigError(f"{device!r} is not accepted; it takes one of {', '.join(DEVICES)}")


def check_template(template: str) -> None:
    """Raise DataError if the Jinja file does not exist."""
    if template not in ("auto", "none") and not Path(template).is_file():
        raise DataError(
            f"there is no file {template!r}{from_here(Path(template))}; accepted: auto, none, or a Jinja file"
        )


def check_backend(name: str) -> None:
    """Raise BackendError unless the backend is known and installed; its framework is not imported."""
    known = available_backends()
    if name not in known and not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name):
        raise BackendError(f"{name!r} is no name of a backend; available: {', '.join(sorted(known))}")
    backend_module(name)


def ask_backend(config: AnyConfig) -> None:
    """Let the backend refuse a device, dtype or model family that it does not support."""
    backend_module(config.backend).check(config)


def check_tensor_parallel(config: AnyConfig) -> None:
    """Check that backend and model can be cut into as many slices as the training and the engine ask for.

    Raises:
        BackendError: the backend holds whole matrices on every rank.
        ConfigError: a size of the model is no multiple of the number of slices.
    """
    parts = {"parallel.tensor": config.parallel, "rollout.parallel.tensor": config.rollout.parallel}
    asked = {key: part.tensor for key, part in parts.items() if part is not None and part.tensor > 1}
    for key, tensor in asked.items():
        reason = backend_module(config.backend).UNSUPPORTED.get("tensor_parallel")
        if reason is not None:
            raise BackendError(
                f"{key} is {tensor}, and backend {config.backend!r} cuts no matrices: {reason}; accepted: 1"
            )
        check_sizes(read_architecture(read_model_config(find_folder(config.model.path))), tensor, key)


def check_writable(run_dir: Path) -> None:
    """Raise ConfigError if a run cannot write its folder."""
    try:
        existing = next(folder for folder in (run_dir.absolute(), *run_dir.absolute().parents) if folder.exists())
    except OSError as error:  # a name that is too long, say
        raise ConfigError(f"{str(run_dir)[:100]!r} cannot be a folder: {error.strerror}") from None
    if run_dir.exists() and not run_dir.is_dir():
        raise ConfigError(f"{str(run_dir)!r} is a file; a run needs a folder")
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ConfigError(f"{str(run_dir)!r} cannot be written: {existing} is read-only, or no folder")


def _check_reward(findings: Findings, label: str, component: RewardConfig, columns: tuple[str, ...] | None) -> None:
    findings.attempt(f"{label}.completions", lambda: check_form(component, label))
    if component.function == ENVIRONMENT:
        findings.attempt(f"{label}.arguments", lambda: build_source(component, None, None))
        return
    if component.function.startswith(MODEL_PREFIX):
        folder = component.function.removeprefix(MODEL_PREFIX)
        findings.attempt(f"{label}.function", lambda: read_model_config(find_folder(folder)))
        findings.attempt(f"{label}.arguments", lambda: settings_from_arguments(folder, component.arguments))
        return
    try:
        user_defined = model_reward(component.function, component.arguments, label=label)
        if user_defined is not None:
            reward: ModelReward | Reward = build_model_reward(user_defined, None, None, component.arguments)
        else:
            reward = resolve_reward(component.function, component.arguments, label=label)
        if columns is not None:
            reward.check(columns)
    except UserError as error:
        part = "arguments" if "argument" in str(error) else "function"
        findings.problems.append((f"{label}.{part}", str(error)))


def _check_tracker(findings: Findings, name: str) -> None:
    package = PACKAGES[name]
    if find_spec(package) is None:
        text = f"{name} needs {package}, which is not installed: pip install 'mindrlhf-grpo[{package}]'"
        findings.problems.append(("tracking.to", f"tracking.to: {text}"))
    elif package == "wandb":
        mode = findings.attempt("tracking.to", lambda: wandb_mode(name))
        if mode == "online" and not os.environ.get("WANDB_API_KEY"):
            text = "wandb needs WANDB_API_KEY in the environment; wandb-offline and WANDB_MODE=offline do not"
            findings.problems.append(("tracking.to", f"tracking.to: {text}"))


def _owner(text: str) -> str:
    """The key that a message starts with; empty if there is none."""
    first = text.split(maxsplit=1)[0].rstrip(":,") if text else ""
    key = catalogue().records.get(record_path(first.split(".")))
    return first if key is not None and ("." in first or key.section is None) else ""


def _parts(key: str) -> tuple[str | int, ...]:
    return tuple(int(part) if part.isdigit() else part for part in key.split("."))
