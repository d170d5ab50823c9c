"""The contract of a backend: the protocols it implements, and how it is found by name.

A backend is a module with the members of ``BackendModule``, named by an entry point in the group
``mindrlhf_grpo.backends`` or by its own name; its ``build(config)`` returns a ``Backend``. The core talks to it in
NumPy arrays and plain Python only. ``docs/extend/add_a_backend.md`` describes every member.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, TypeVar, cast, runtime_checkable

from numpy.typing import NDArray

from .errors import BackendError
from .parallel.residency import Role
from .tokenizers.tokenizer import Tokenizer
from .types import Batch, FinishReason, FloatArray, IntArray, Prompt, RolloutGroup, Sampling

if TYPE_CHECKING:
    from .config.algorithm import CriticConfig
    from .config.parallel import ParallelConfig
    from .config.run import ModelConfig, RolloutConfig, TrainConfig

T = TypeVar("T")
GROUP = "mindrlhf_grpo.backends"
MODULES = {"torch": "mindrlhf_grpo_torch", "mindspore": "mindrlhf_grpo_mindspore"}

Capability = Literal[
    "lora",
    "entropy_bonus",
    "moved_reference",
    "value_model",
    "remote_code",
    "language_model",
    "tensor_parallel",
    "conversations",
]
"""A part of the contract that a backend may leave out: LoRA adapters, losses whose ``reads_entropy`` is true,
``Policy.sync_reference``, ``Backend.load_value_model`` with a shared critic's ``Policy.values``,
``Backend.load_remote_code``, ``Backend.load_language_model``, models in slices (``parallel.tensor`` and
``rollout.parallel.tensor`` above 1), ``RolloutEngine.generate`` with conversations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilation:
    """A function compiled for one bucket of shapes; ``seconds`` includes its first run."""

    name: str
    bucket: str
    seconds: float


class CompileLog:
    """Compilations of this process, in order.

    Attributes:
        announce: if set, called with one line before every compilation and one after it.
    """

    def __init__(self) -> None:
        self.entries: list[Compilation] = []
        self.seconds = 0.0
        self.announce: Callable[[str], None] | None = None

    @contextmanager
    def compiling(self, name: str, bucket: str) -> Iterator[None]:
        """Time the block as the first call of ``name`` for shapes it has not seen."""
        self._announce(f"compiling {name} for {bucket} ...")
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self.entries.append(Compilation(name=name, bucket=bucket, seconds=seconds))
        self.seconds += seconds
        self._announce(f"compiled {name} for {bucket} in {seconds:.1f} s")

    def _announce(self, text: str) -> None:
        if self.announce is not None:
            self.announce(text)


class Loss(Protocol):
    """A loss over one micro-batch: a plain sum, because ``tensors['weights']`` carries the denominators.

    A plain function becomes a loss with ``losses.function_loss.FunctionLoss``.
    """

    @property
    def reads_entropy(self) -> bool:
        """True if the policy must add each token's entropy ``[N, T]``, with gradient, as ``tensors["entropies"]``."""
        ...

    @property
    def reads_values(self) -> bool:
        """True if a policy with a shared critic must pass its value head's outputs in place of log-probs."""
        ...

    def __call__(self, xp: Any, outputs: Any, tensors: Mapping[str, Any], /) -> tuple[Any, dict[str, Any]]:
        """Return the scalar to minimise and named scalars for metrics.

        A metric is a *sum* over trained tokens; names that start with ``max/`` are combined by maximum instead.

        Args:
            xp: the backend's array namespace, see ``losses.xp``.
            outputs: log-probs of a policy, or values of a value model ``[N, T]``.
            tensors: the arrays of ``Batch.loss_tensors``, as the framework's own, all ``[N, T]``.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LogProbs:
    """Per-token log-probs ``[N, T]`` (0 past each length) and, where asked, entropies ``[N, T]``."""

    logps: FloatArray
    entropy: FloatArray | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateResult:
    """One optimizer step over the global batch (all ranks): total loss, gradient norm before clipping, metric sums.

    ``sums`` holds the metrics of the loss, summed (``max/`` names: maximum) over micro-batches and ranks, plus
    ``entropy`` (sum over trained tokens) and ``tokens`` (number of trained tokens). ``also`` holds the sums of each
    additional batch of the step, which ``loss`` and ``grad_norm`` include. ``changed_frac`` is the share of the trained
    weights, as the model computes with them, that the step changed, estimated from a sample of each tensor
    (``batches.sums.changed_frac``); NaN where a backend does not measure it.
    """

    loss: float
    grad_norm: float
    sums: Mapping[str, float]
    also: tuple[Mapping[str, float], ...] = ()
    changed_frac: float = math.nan


class RowRanks(Protocol):
    """The ranks as those who share out rows see them.

    Ranks that hold one model in slices (tensor parallel) count as one: they have the same rows, and the same number here.
    """

    rank: int
    world_size: int

    def gather_objects(self, item: Any) -> list[Any]: ...  # one item of each group with the same rows, in rank order
    def once(
        self, compute: Callable[[], T]
    ) -> T: ...  # computed by one of the ranks with the same rows, for all of them


class Comm(Protocol):
    """The process group: host-side collectives; gradients are summed inside the backend.

    Attributes:
        rows: these ranks, for everything that shares out rows.
    """

    rank: int
    world_size: int

    @property
    def rows(self) -> RowRanks: ...

    def gather_objects(self, item: Any) -> list[Any]: ...  # every rank receives every rank's item, in rank order
    def barrier(self) -> None: ...
    def close(self) -> None: ...  # at the end of the run, on every rank
    def abandon(
        self,
    ) -> None: ...  # after an error on this rank: the others may be inside a collective, so nothing waits


class TrainedModel(Protocol):
    """Weights with an optimizer: the part of the contract that policy, critic and reward model share.

    A policy passes log-probs ``[N, T]`` to a loss, the others values.

    Attributes:
        layout: ``shared`` (a group's prompt is computed once) or ``plain``, chosen when the model is loaded.
        layout_reason: why this layout was chosen.
    """

    layout: str
    layout_reason: str

    def update(
        self, batch: Batch, loss: Loss, *, learning_rate: float, also: Sequence[tuple[Batch, Loss]] = ()
    ) -> UpdateResult:
        """One optimizer step on this rank's rows; gradients are summed over micro-batches and ranks.

        Every rank must call it, also with an empty batch.

        Args:
            also: additional batches, each with its loss, whose gradients join the same step (a pretraining mix).

        Raises RunFailed for a gradient that is not finite; the weights are then unchanged.
        """
        ...

    def fingerprint(self) -> str:
        """Hex digest of the weights by Hugging Face name, adapters merged, as the engine must have them."""
        ...

    def roles(self) -> Mapping[str, Role]:
        """The parts of its device memory that can be swapped out: weights, optimizer and, for a policy, reference."""
        ...

    def gather(self) -> None:
        """Gather sharded weights and state for rank 0, which saves next; every rank calls it."""
        ...

    def save_model(self, folder: Path, *, merge: bool = False) -> None:
        """Write the Hugging Face layout (adapter only for LoRA unless ``merge``). Rank 0 calls it."""
        ...

    def save_state(self, folder: Path) -> None:
        """Write the optimizer and everything else that a bit-identical resume needs. Rank 0 calls it."""
        ...

    def load_state(self, model: Path, state: Path) -> None:
        """Restore what ``save_model`` and ``save_state`` wrote. Raises CheckpointError where it does not fit."""
        ...


class Policy(TrainedModel, Protocol):
    """The trained language model and its reference policy.

    With a shared critic (``critic.shared``) its body also carries a value head: ``update`` passes the head's outputs to
    a loss whose ``reads_values`` is true, and ``save_state`` keeps the head.
    """

    def values(self, batch: Batch) -> FloatArray:
        """Outputs of the value head before each token ``[N, T]``, without gradient; only with a shared critic."""
        ...

    def logps(self, batch: Batch, *, reference: bool = False, entropy: bool = False) -> LogProbs:
        """Log-probs of this rank's rows, without gradient; ``reference`` uses the reference weights."""
        ...

    def sync_reference(self, share: float) -> None:
        """Move the reference to ``share`` * policy + (1 - share) * reference (TR-DPO, arXiv:2404.09656).

        ``save_state`` keeps a moved reference. Raises BackendError for LoRA, whose reference is the model without
        adapters.
        """
        ...


class ValueReader(Protocol):
    """A model that gives one number per completion token: all that a reward asks of a reward model."""

    def values(self, batch: Batch) -> FloatArray:
        """Values ``[N, T]`` float32 without gradient, 0 past each length: at each completion token, see ``ReadAt``."""
        ...

    def embeddings(self, batch: Batch) -> FloatArray:
        """Hidden states ``[N, E]`` float32 without gradient, as the head reads them at each row's last token.

        Raises BackendError for a model whose hidden states cannot be read.
        """
        ...

    def release(self) -> None:
        """Free the weights until the next call, which loads them again: several models take the memory of one."""
        ...


class ValueModel(ValueReader, TrainedModel, Protocol):
    """A language model's body with a head of one number: a critic or a reward model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an environment says to a turn.

    Attributes:
        ids: the tokens up to where the next turn of the model begins; None: the conversation is over.
        finish: the reason why it is over.
    """

    ids: IntArray | None
    finish: FinishReason = FinishReason.STOP


class Conversations(Protocol):
    """The other side of completions with several turns: environments that answer what the model says."""

    def answer(self, prompt: Prompt, sample: int, turn: Sequence[int], *, ended: bool) -> Future[Answer]:
        """Begin to answer a turn of a sample, without waiting; the future never raises.

        Args:
            turn: the sampled tokens of the turn, its end token included.
            ended: whether an end token ended it, else a stop string.
        """
        ...


class RolloutEngine(Protocol):
    """The generator of completions.

    Attributes:
        weight_version: the version of the weights it samples with, set by ``WeightSync.push``.
    """

    weight_version: int

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        group_size: int,
        conversations: Conversations | None = None,
    ) -> list[RolloutGroup]:
        """``group_size`` completions for each prompt, in the order of ``prompts``.

        With ``conversations`` a completion goes on after each answer to a turn, until it is over or has
        ``sampling.max_tokens`` tokens, those of answers included.
        """
        ...

    def sleep(self) -> None:
        """Free the KV cache."""
        ...

    def wake_up(self) -> None:
        """Take the KV cache's memory back, at once or with the next prompts."""
        ...

    def fingerprint(self) -> str:
        """Hex digest of the weights it computes with, comparable to ``TrainedModel.fingerprint``."""
        ...

    def roles(self) -> Mapping[str, Role]:
        """Its device memory by part: ``kv_cache``, and ``engine`` for weights that it does not share with the policy."""
        ...


class LanguageModel(Protocol):
    """An untrained language model beside the policy, which generates and scores texts (a judge).

    Nothing is loaded before the first call.
    """

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, *, group_size: int) -> list[RolloutGroup]:
        """``group_size`` completions for each prompt, in the order of ``prompts``; the KV cache is freed."""
        ...

    def logps(self, batch: Batch) -> LogProbs:
        """Log-probs of the batch's completions, without gradient."""
        ...

    def release(self) -> None:
        """Free the weights until the next call, which loads them again: several models take the memory of one."""
        ...


class WeightSync(Protocol):
    """The transfer of the policy's weights to the engine, in memory."""

    def push(self, version: int) -> None:
        """Copy the weights, compare fingerprints, and set the engine's ``weight_version``.

        Raises RunFailed if the fingerprints differ after the push.
        """
        ...


class Inspection(Protocol):
    """A view inside a policy, for the proof that two backends compute the same. Names are Hugging Face's.

    Adapters appear under peft's names without their prefix (``model.layers.0.mlp.up_proj.lora_A.weight``).
    """

    def weights(self) -> Mapping[str, FloatArray]:
        """Every weight in float32, tied ones once; adapters apart from the weights they belong to."""
        ...

    def layer_logps(self, batch: Batch) -> FloatArray:
        """``[L + 1, N, T]``: log-probs of the batch's tokens read off after the embedding and after each layer.

        The hidden state at each place goes through the final norm and the head; the last entry is the model's own
        log-prob. 0 past each length.
        """
        ...

    def gradients(self, batch: Batch, loss: Loss) -> tuple[float, Mapping[str, FloatArray]]:
        """Loss of this rank's rows and its gradient by trainable weight, before clipping; the policy stays unchanged."""
        ...


ReadAt = Literal["before", "token"]
"""The state from which a value model computes a token's value: ``before`` (the state that predicts the token: a
critic), or ``token`` (the state at the token itself: a reward model, whose score stands at the last token)."""


class Backend(Protocol):
    """A framework: builds the parts above for one run."""

    name: str
    comm: Comm
    compile_log: CompileLog  # stays empty where nothing is compiled

    @property
    def device(self) -> Any:
        """The device of this process, as the framework names it; user-defined models are moved there."""
        ...

    def load_policy(self) -> Policy:
        """Load the model to train from ``config.model``. Raises ConfigError where it cannot be loaded."""
        ...

    def load_value_model(self, model: ModelConfig, train: TrainConfig, *, read_at: ReadAt) -> ValueModel:
        """Load a critic or reward model; a folder without a head gets a small random one from the run's seed."""
        ...

    def load_remote_code(self, model: ModelConfig, train: TrainConfig) -> ValueReader | None:
        """Load a reward model computed by the Python code in its folder; None where the backend runs no such code.

        The score of a row stands at its last token.
        """
        ...

    def load_language_model(self, model: ModelConfig, tokenizer: Tokenizer, *, slots: int) -> LanguageModel:
        """Make a language model beside the policy, never trained; its weights are read at the first call."""
        ...

    def load_engine(self, policy: Policy | None, tokenizer: Tokenizer) -> RolloutEngine:
        """Make an engine on the policy's weights, or without a policy on weights loaded from ``config.model``.

        Raises BackendError for a policy of another backend.
        """
        ...

    def weight_sync(self, policy: Policy, engine: RolloutEngine) -> WeightSync:
        """Connect a policy and an engine of this backend. Raises BackendError for those of another."""
        ...

    def memory(self) -> dict[str, float]:
        """Peak memory of this process in MB: ``peak_rss_mb``, and ``peak_device_mb`` where there is an accelerator."""
        ...

    def versions(self) -> dict[str, str]:
        """Versions of the packages that the run depends on, ``python`` and ``device`` among them."""
        ...

    def inspect(self, policy: Policy) -> Inspection:
        """Look inside a policy of this backend. Raises BackendError for one of another."""
        ...


class BackendConfig(Protocol):
    """The part of a configuration that a backend reads; ``RunConfig`` and ``OfflineConfig`` have it."""

    @property
    def backend(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def model(self) -> ModelConfig: ...
    @property
    def train(self) -> TrainConfig: ...
    @property
    def rollout(self) -> RolloutConfig: ...
    @property
    def critic(self) -> CriticConfig | None: ...
    @property
    def parallel(self) -> ParallelConfig | None: ...


class _DeviceRequired(TypedDict):
    device: str
    name: str
    bfloat16: bool


class DeviceEntry(_DeviceRequired, total=False):
    """One device in ``DeviceListing``.

    Attributes:
        device: as ``model.device`` names it, with an index: ``cpu``, ``cuda:0``.
        name: the product.
        bfloat16: whether it computes bfloat16 in hardware.
        free, total: bytes of an accelerator's memory.
        dtypes: where not every ``model.dtype`` works, those that do.
    """

    free: int
    total: int
    dtypes: list[str]


class _ListingRequired(TypedDict):
    framework: str
    devices: list[DeviceEntry]


class DeviceListing(_ListingRequired, total=False):
    """Devices that a backend finds on this machine; printed as JSON by a process of its own.

    Attributes:
        framework: name and version.
        devices: accelerators first, the processor last.
        absent: kind of device -> why it is not among ``devices``, and the remedy.
        kernels: operation -> the implementation that serves it, where the backend has a choice.
    """

    absent: dict[str, str]
    kernels: dict[str, str]


class BackendModule(Protocol):
    """The module that a backend is found by. It can be imported where its framework is missing or broken.

    Only ``build``, ``list_devices``, ``from_numpy``, ``to_numpy`` and ``no_gradient`` may import the framework.
    """

    @property
    def FRAMEWORK(self) -> str:
        """Import name of the framework."""
        ...

    @property
    def UNSUPPORTED(self) -> Mapping[Capability, str]:
        """The capabilities that the backend leaves out, each with the reason; the conformance suite prints it."""
        ...

    def build(self, config: BackendConfig, /) -> Backend:
        """Build the backend of one run. Raises what ``check`` raises, and BackendError for a device that is absent."""
        ...

    def check(self, config: BackendConfig, /) -> None:
        """Raise BackendError or ConfigError for a configuration that the backend refuses; it runs before any loading."""
        ...

    def environment_warning(self) -> str:
        """Return a package to replace or a setting to change on this machine, with the remedy; empty: all is well."""
        ...

    def list_devices(self) -> DeviceListing:
        """List the devices of this machine; ``mindrlhf-grpo doctor`` calls it in a process of its own."""
        ...

    def from_numpy(self, array: NDArray[Any], /, device: Any = None) -> Any:
        """Make an array of the framework, on a ``Backend.device`` where one is passed."""
        ...

    def to_numpy(self, array: Any, /) -> NDArray[Any]:
        """Return the numbers of an array of the framework in float32; it may have a gradient and lie on a device."""
        ...

    def no_gradient(self) -> AbstractContextManager[Any]:
        """Return a context in which models that users bring compute without recording anything for gradients."""
        ...


@runtime_checkable
class RecordFiles(Protocol):
    """Further members of a ``BackendModule`` whose framework has a file format of rows."""

    def read_records(self, path: Path, /) -> Iterator[dict[str, Any]]:
        """Yield the rows of a file in its order. Raises DataError for a file that is missing or broken."""
        ...

    def write_records(self, path: Path, rows: Sequence[Mapping[str, Any]], /) -> None:
        """Write rows of arrays; an existing file is replaced."""
        ...


def available_backends() -> dict[str, str]:
    """Return backend name -> module: the built-in ones and those installed under the entry-point group."""
    installed = {point.name: point.value.split(":")[0] for point in entry_points(group=GROUP)}
    return {**MODULES, **installed}


def backend_module(name: str) -> BackendModule:
    """Import a backend by entry-point name or by module name; its framework must be installed but is not imported.

    Raises:
        BackendError: unknown name, a module that lacks members of ``BackendModule``, or its framework is not installed.
    """
    module = _import(name)
    lacking = [member for member in MEMBERS if not hasattr(module, member)]
    if lacking:
        raise BackendError(
            f"module {module.__name__} is no backend: it lacks {', '.join(lacking)} (docs/extend/add_a_backend.md)"
        )
    backend = cast(BackendModule, module)
    if importlib.util.find_spec(backend.FRAMEWORK) is None:
        remedy = f": pip install 'mindrlhf-grpo[{name}]'" if name in MODULES else ""
        raise BackendError(f"backend {name!r} needs {backend.FRAMEWORK}, which is not installed{remedy}")
    return backend


def _import(name: str) -> ModuleType:
    """Import the module that a backend's name leads to, whatever it contains."""
    known = available_backends()
    module = known.get(name, name)
    try:
        there = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a parent package that is absent, or no name of a module
        there = False
    if not there and name in known:
        raise BackendError(f"backend {name!r} is not part of this installation (module {module} not found)")
    if not there:
        raise BackendError(
            f"backend {name!r} is unknown; available: {', '.join(sorted(known))}, or a module with build(config)"
        )
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BackendError(f"backend {name!r} cannot be imported: {error}") from error


MEMBERS = [name for name in vars(BackendModule) if not name.startswith("_")]


def load_backend(config: BackendConfig) -> Backend:
    """Build the backend that ``config.backend`` names for this run."""
    return backend_module(config.backend).build(config)


def record_files(name: str) -> RecordFiles:
    """Return the reader and writer of a backend's own file format.

    Raises:
        BackendError: an unknown backend, an absent framework, or one without such a format.
    """
    module = backend_module(name)
    if not isinstance(module, RecordFiles):
        raise BackendError(f"backend {name!r} has no file format of rows: it lacks read_records or write_records")
    return module


def backend_of_type(kind: type) -> BackendModule | None:
    """Return the installed backend whose framework a class or one of its bases belongs to; None without one."""
    roots = {base.__module__.partition(".")[0] for base in kind.__mro__}
    for name in available_backends():
        try:
            module = backend_module(name)
        except BackendError:
            continue
        if module.FRAMEWORK in roots:
            return module
    return None
