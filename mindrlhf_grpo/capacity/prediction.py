"""Prediction of a run's peak memory by phase, and the settings that would bring it down."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import combinations
from math import lcm
from typing import Any, Literal, get_args

from ..algorithms.plan import resolve
from ..algorithms.task import resolve_objective
from ..backend import available_backends
from ..config.file import AnyConfig
from ..config.parallel import ParallelConfig, Strategy, SwapConfig
from ..config.run import RunConfig
from ..errors import UserError
from ..model_files.architecture import Architecture
from ..parallel.mesh import divided_sizes, divisors, engine_mesh, training_mesh
from ..rewards.sources import MODEL_PREFIX
from .device_layout import DeviceLayout
from .memory import BYTES, Parts, allocator_bytes, peak, phases
from .model_shape import ModelShape

Place = Literal["host", "accelerator"]
WHOLE_WEIGHTS = ("mindspore",)  # backends whose ranks hold all weights and share out the optimizer state alone
PROCESS_BYTES = {"host": 500 * 2**20, "accelerator": 500 * 2**20}  # libraries and their buffers; a CUDA context
Setting = tuple[tuple[str, str], Any]  # section and key, "" for the whole section; value
ADAPTER_RANK = 32  # proposed where all weights are too many to train


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Bytes by phase and part on the fullest device."""

    phases: dict[str, Parts]

    @property
    def phase(self) -> str:
        """The phase with the highest peak."""
        return max(self.phases, key=lambda phase: peak(self.phases[phase]))

    @property
    def peak(self) -> int:
        return peak(self.phases[self.phase])


def predict(config: AnyConfig, shape: ModelShape, layout: DeviceLayout, place: Place, *, scorer: int = 0) -> Prediction:
    """Predict the memory of a run on one device of a layout.

    Args:
        scorer: bytes of the largest model that rewards compute with.

    Raises:
        ConfigError: an algorithm or objective that does not exist.
    """
    reference, critic = models_beside(config)
    parts_of_phases = phases(config, shape, reference=reference, critic=critic, scorer=scorer, layout=layout)
    return Prediction(
        phases={
            phase: {"process": PROCESS_BYTES[place], **parts, "allocator": allocator_bytes(parts, place)}
            for phase, parts in parts_of_phases.items()
        }
    )


def models_beside(config: AnyConfig) -> tuple[bool, bool]:
    """(reference, critic): whether each is held beside the model that is trained."""
    if isinstance(config, RunConfig):
        needs = resolve(config.algorithm).needs
        shared = config.critic is not None and config.critic.shared  # a head on the policy's body
        return "reference" in needs, "critic" in needs and not shared
    return resolve_objective(config).needs_reference and config.objective.reference_logps == "on_the_fly", False


def largest_scorer(config: AnyConfig, count_weights: Callable[[str], int]) -> tuple[int, list[str]]:
    """Bytes of the largest model that rewards compute with in this process, and those whose size is not known.

    Args:
        count_weights: counts the weights of a model folder or hub id; raises UserError or OSError for an unknown one.
    """
    sizes, unknown = [0], []
    for component in config.rewards if isinstance(config, RunConfig) else []:
        inside = component.arguments
        path = (
            component.function.removeprefix(MODEL_PREFIX)
            if component.function.startswith(MODEL_PREFIX)
            else inside.get("model")
        )
        if not path or not isinstance(path, str):
            continue
        options = inside.get("options") if isinstance(inside.get("options"), dict) else {}
        dtype = inside.get("dtype") or (options or {}).get("dtype") or "float32"
        try:
            sizes.append(count_weights(path) * BYTES.get(str(dtype), 4))
        except (UserError, OSError, KeyError):
            unknown.append(path)
    return max(sizes), unknown


def strategies_of(backend: str) -> tuple[Strategy, ...]:
    """The strategies of `parallel` that a backend has, the one that holds least last."""
    return ("replicate", "zero1", "zero2") if backend in WHOLE_WEIGHTS else get_args(Strategy)


def cuts_matrices(backend: str) -> bool:
    """True where a known backend runs tensor parallelism; its framework is not imported."""
    module = available_backends().get(backend)
    return module is not None and "tensor_parallel" not in import_module(module).UNSUPPORTED


def slices_of(architecture: Architecture, devices: int) -> list[int]:
    """Sizes of a tensor group that a model allows, within a machine of so many devices."""
    sizes = [size for _, size in divided_sizes(architecture)]
    return [count for count in divisors(devices) if all(size % count == 0 for size in sizes)]


def runs(layout: DeviceLayout, backend: str) -> bool:
    """True where a backend can run a layout; any other is a plan."""
    cut = layout.tensor > 1 or layout.engine > 1
    return (
        layout.pipeline == layout.expert == 1
        and layout.strategy in strategies_of(backend)
        and (not cut or cuts_matrices(backend))
    )


def layout_of(config: AnyConfig, ranks: int) -> DeviceLayout:
    """The layout of a run on so many devices: full models, or as ``parallel`` and ``rollout.parallel`` say.

    Raises:
        ConfigError: the devices are no whole number of tensor groups.
    """
    mesh = training_mesh(ranks, config.parallel)
    engine = engine_mesh(ranks, config.parallel, config.rollout.parallel).tensor
    whole = mesh.strategy != "replicate" and config.backend in WHOLE_WEIGHTS
    return DeviceLayout(
        ranks=mesh.data, strategy=mesh.strategy, tensor=mesh.tensor, whole=whole,
        engine=0 if engine == mesh.tensor else engine,
    )  # fmt: skip


def remedies(
    config: AnyConfig, shape: ModelShape, ranks: int, available: int, *, slices: Sequence[int] = (1,), scorer: int = 0
) -> list[str]:
    """The fewest settings, ``key=value``, with which a run fits; empty if none of the candidates suffice.

    Args:
        slices: sizes of a tensor group that the model allows.
    """
    known = list(candidates(config, ranks, slices))
    for count in range(1, len(known) + 1):
        for chosen in combinations(known, count):
            if clash([key for key, _ in chosen]):
                continue
            changed = config
            for setting in chosen:
                changed = with_setting(changed, setting)
            layout = layout_of(changed, ranks)
            if refused(changed) or not runs(layout, changed.backend):
                continue
            if predict(changed, shape, layout, "accelerator", scorer=scorer).peak <= available:
                return [shown(setting) for setting in chosen]
    return []


def candidates(config: AnyConfig, ranks: int, slices: Sequence[int]) -> Iterator[Setting]:
    """Yield settings that lower the peak; those that do not change the result come first."""
    if not config.model.recompute:
        yield ("model", "recompute"), True
    row = config.data.max_tokens if not isinstance(config, RunConfig) else (
        config.data.max_prompt_tokens + config.rollout.max_tokens
    )  # fmt: skip
    if config.train.tokens_per_micro_batch > row:
        yield ("train", "tokens_per_micro_batch"), row
    if isinstance(config, RunConfig):
        if config.rollout.slots > 8:
            yield ("rollout", "slots"), 8
        if config.swap is None:
            yield ("swap", ""), SwapConfig()
    yield from divisions(config, ranks, slices)
    if config.model.dtype == "float32":
        yield ("model", "dtype"), "bfloat16"
    if not config.model.lora_rank:
        yield ("model", "lora_rank"), ADAPTER_RANK


def divisions(config: AnyConfig, ranks: int, slices: Sequence[int]) -> Iterator[Setting]:
    """Yield settings that divide the model over more ranks: a strategy, then larger and larger tensor groups."""
    least, parallel = strategies_of(config.backend)[-1], config.parallel
    shares = ranks > 1
    if shares and (parallel is None or parallel.strategy != least):
        yield ("parallel", "strategy"), least
    for size in slices if cuts_matrices(config.backend) else ():
        if parallel is not None and size > parallel.tensor:
            yield ("parallel", "tensor"), size
        elif parallel is None and size > 1:
            yield ("parallel", ""), ParallelConfig(strategy="replicate", tensor=size)
            if shares and size < ranks:
                yield ("parallel", ""), ParallelConfig(strategy=least, tensor=size)


def clash(keys: Sequence[tuple[str, str]]) -> bool:
    """True where one key, or a section and a key of it, would be set twice."""
    sections = [section for section, name in keys if not name]
    names = [section for section, name in keys if name]
    return len(set(keys)) < len(keys) or bool(set(sections) & set(names))


def refused(config: AnyConfig) -> str:
    """The reason why a backend refuses these settings together; empty if it accepts them."""
    if config.parallel is None or config.parallel.strategy == "replicate" or config.backend in WHOLE_WEIGHTS:
        return ""
    if (
        isinstance(config, RunConfig)
        or not config.model.lora_rank
        or resolve_objective(config).objective.model == "policy"
    ):
        return ""
    return (
        f"parallel.strategy={config.parallel.strategy} is not made for a reward model with adapters (model.lora_rank); "
        "accepted: replicate"
    )


def with_setting(config: AnyConfig, setting: Setting) -> AnyConfig:
    """The configuration with one key changed."""
    (section, name), value = setting
    if not name:
        return config.model_copy(update={section: value})
    if section == "parallel" and config.parallel is None:
        return config.model_copy(update={"parallel": ParallelConfig.model_validate({name: value})})
    inner = getattr(config, section)
    return config.model_copy(update={section: inner.model_copy(update={name: value})})


def fewest_slices(config: AnyConfig) -> int:
    """The least number of ranks that training and engine both cut into whole tensor groups."""
    parts = (config.parallel, config.rollout.parallel)
    return lcm(*(part.tensor for part in parts if part is not None))


def smallest(
    config: AnyConfig, shape: ModelShape, layouts: Iterable[DeviceLayout], available: int, *, scorer: int = 0
) -> tuple[DeviceLayout, Prediction] | None:
    """The first of the layouts on which a run fits."""
    for layout in layouts:
        prediction = predict(config, shape, layout, "accelerator", scorer=scorer)
        if prediction.peak <= available:
            return layout, prediction
    return None


def shown(setting: Setting) -> str:
    """A setting as written on the command line; a section as the keys that differ from their defaults."""
    (section, name), value = setting
    if name:
        return f"{section}.{name}={'true' if value is True else value}"
    changed = ", ".join(f"{key}: {one}" for key, one in value.model_dump(exclude_defaults=True).items())
    return f"{section}={{{changed}}}"
