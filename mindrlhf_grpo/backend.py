"""What a backend implements, and how it is found.

A backend is a module (or entry point in the group ``mindrlhf_grpo.backends``) with a function
``build(config) -> Backend``, and where it can tell early what it refuses, ``check(config)``, which raises a
UserError without importing the framework. The core talks to it in NumPy arrays and plain Python only.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from .errors import BackendError
from .parallel.residency import Role
from .tokenizers.tokenizer import Tokenizer
from .types import Batch, FloatArray, Prompt, RolloutGroup, Sampling

if TYPE_CHECKING:
    from .config.run import ModelConfig, TrainConfig

GROUP = "mindrlhf_grpo.backends"
MODULES = {"torch": "mindrlhf_grpo_torch", "mindspore": "mindrlhf_grpo_mindspore"}
FRAMEWORKS = {"torch": "torch", "mindspore": "mindspore"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilation:
    """One function compiled for one bucket of shapes; ``seconds`` includes its first run."""

    name: str
    bucket: str
    seconds: float


class CompileLog:
    """Compilations of this process, in order.

    Attributes:
        announce: called with one line before every compilation and one after, if set.
    """

    def __init__(self) -> None:
        self.entries: list[Compilation] = []
        self.seconds = 0.0
        self.announce: Callable[[str], None] | None = None

    @contextmanager
    def compiling(self, name: str, bucket: str) -> Iterator[None]:
        """Time the block as the first call of ``name`` for shapes it has not seen."""
        self._say(f"compiling {name} for {bucket} ...")
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self.entries.append(Compilation(name=name, bucket=bucket, seconds=seconds))
        self.seconds += seconds
        self._say(f"compiled {name} for {bucket} in {seconds:.1f} s")

    def _say(self, text: str) -> None:
        if self.announce is not None:
            self.announce(text)


class Loss(Protocol):
    """A loss over one micro-batch: a plain sum, because ``tensors['weights']`` carries the denominators.

    A plain function becomes a loss with ``losses.function_loss.FunctionLoss``.
    """

    @property
    def reads_entropy(self) -> bool:
        """Whether the policy must add each token's entropy ``[N, T]``, with gradient, as ``tensors["entropies"]``."""
        ...

    @property
    def reads_values(self) -> bool:
        """Whether a policy with a shared critic passes its value head's outputs in place of log-probs."""
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

    ``sums`` holds what the loss returned, summed (``max/`` names: maximum) over micro-batches and ranks,
    plus ``entropy`` (sum over trained tokens) and ``tokens`` (number of trained tokens); ``also`` those of each further
    batch of the step, which ``loss`` and ``grad_norm`` include.
    """

    loss: float
    grad_norm: float
    sums: Mapping[str, float]
    also: tuple[Mapping[str, float], ...] = ()


class Comm(Protocol):
    """The process group: host-side collectives; gradients are summed inside the backend."""

    rank: int
    world_size: int

    def gather_objects(self, item: Any) -> list[Any]: ...  # every rank receives every rank's item, in rank order
    def barrier(self) -> None: ...
    def close(self) -> None: ...


class TrainedModel(Protocol):
    """What policy, critic and reward model have in common: weights with an optimizer.

    Which per-token output ``[N, T]`` a loss is given is the model's kind: log-probs of a policy, values of the others.
    """

    layout: (
        str  # "shared" (a group's prompt computed once) or "plain"; chosen at load, with the reason in layout_reason
    )
    layout_reason: str

    def update(
        self, batch: Batch, loss: Loss, *, learning_rate: float, also: Sequence[tuple[Batch, Loss]] = ()
    ) -> UpdateResult:
        """One optimizer step on this rank's rows; gradients are summed over micro-batches and ranks.

        Every rank must call it, also with an empty batch.

        Args:
            also: further batches, each with its loss, whose gradients join the same step (a pretraining mix).
        """
        ...

    def fingerprint(self) -> str:
        """Hex digest of the trainable weights as the engine must see them."""
        ...

    def roles(self) -> Mapping[str, Role]:
        """Its memory by part, for phases that do without it: weights and optimizer, of a policy reference too."""
        ...

    def gather(self) -> None:
        """Every rank calls it before rank 0 saves: bring together what is shared out over ranks, if anything is."""
        ...

    def save_model(self, folder: Path, *, merge: bool = False) -> None:
        """Write the Hugging Face layout (adapter only for LoRA unless ``merge``). Rank 0 calls it."""
        ...

    def save_state(self, folder: Path) -> None:
        """Write the optimizer and everything else that exact resume needs."""
        ...

    def load_state(self, model: Path, state: Path) -> None:
        """Restore from what ``save_model`` and ``save_state`` wrote."""
        ...


class Policy(TrainedModel, Protocol):
    """The trained language model, and the reference it is held to.

    With a shared critic (``critic.shared``) its body carries a value head besides: ``update`` gives the head's numbers to
    a loss whose ``reads_values`` is true, and ``save_state`` keeps the head.
    """

    def values(self, batch: Batch) -> FloatArray:
        """Of the value head before each token ``[N, T]``, without gradient; only with a shared critic."""
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


class ValueModel(TrainedModel, Protocol):
    """A language model's body with a head of one number: a critic or a reward model."""

    def values(self, batch: Batch) -> FloatArray:
        """``[N, T]`` float32 without gradient, 0 past each length: at each completion token, see ``ReadAt``."""
        ...

    def embeddings(self, batch: Batch) -> FloatArray:
        """``[N, E]`` float32 without gradient: the hidden state that the head reads at each row's last token."""
        ...

    def release(self) -> None:
        """Free the weights until the next call, which loads them again: several models take the memory of one."""
        ...


class RolloutEngine(Protocol):
    """Generates completions."""

    weight_version: int

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, *, group_size: int) -> list[RolloutGroup]:
        """``group_size`` completions for each prompt, in the order of ``prompts``."""
        ...

    def sleep(self) -> None:
        """Free the KV cache."""
        ...

    def wake_up(self) -> None: ...

    def fingerprint(self) -> str: ...

    def roles(self) -> Mapping[str, Role]:
        """Its memory by part: kv_cache, and engine where it has weights that are not the policy's."""
        ...


class LanguageModel(Protocol):
    """A language model beside the policy, never trained: what it says, and how likely it finds a text.

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
    """Brings the policy's weights to the engine in memory, then compares fingerprints."""

    def push(self, version: int) -> None:
        """Raises RunFailed if the engine's fingerprint differs from the policy's after the push."""
        ...


class Inspection(Protocol):
    """A policy seen from inside, for the proof that two backends compute the same. Names are Hugging Face's.

    Adapters appear under peft's names without their prefix (``model.layers.0.mlp.up_proj.lora_A.weight``).
    """

    def weights(self) -> dict[str, FloatArray]:
        """Every weight in float32, tied ones once; adapters apart from the weights they belong to."""
        ...

    def layer_logps(self, batch: Batch) -> FloatArray:
        """``[L + 1, N, T]``: log-probs of the batch's tokens read off after the embedding and after each layer.

        The hidden state at each place goes through the final norm and the head; the last entry is the model's own
        log-prob. 0 past each length.
        """
        ...

    def gradients(self, batch: Batch, loss: Loss) -> tuple[float, dict[str, FloatArray]]:
        """Loss of this rank's rows and its gradient by trainable weight, before clipping; the policy is unchanged."""
        ...


ReadAt = Literal["before", "token"]
"""Where a value model reads its number for a token: ``before`` it is seen (the state that predicts it: a critic), or at
the ``token`` itself (a reward model, whose score stands at the last token)."""


class Backend(Protocol):
    """A framework: builds the parts above for one run."""

    name: str
    comm: Comm
    compile_log: CompileLog  # stays empty where nothing is compiled

    def load_policy(self) -> Policy: ...
    def load_value_model(self, model: ModelConfig, train: TrainConfig, *, read_at: ReadAt) -> ValueModel: ...
    def load_own_code(self, model: ModelConfig, train: TrainConfig) -> ValueModel | None:
        """A reward model computed by the Python code in its folder; None where the backend does not run such code.

        Only ``values`` and ``release`` are for use; the score of a row stands at its last token.
        """
        ...

    def load_language_model(self, model: ModelConfig, tokenizer: Tokenizer, *, slots: int) -> LanguageModel: ...
    def load_engine(self, policy: Policy | None, tokenizer: Tokenizer) -> RolloutEngine: ...
    def weight_sync(self, policy: Policy, engine: RolloutEngine) -> WeightSync: ...
    def memory(self) -> dict[str, float]: ...  # "peak_rss_mb", and "peak_device_mb" where there is a device
    def versions(self) -> dict[str, str]: ...
    def inspect(self, policy: Policy) -> Inspection: ...


def available_backends() -> dict[str, str]:
    """Backend name -> module, the built-in ones and those installed under the entry-point group."""
    found = {point.name: point.value.split(":")[0] for point in entry_points(group=GROUP)}
    return {**MODULES, **found}


def backend_module(name: str) -> Any:
    """Import a backend by entry-point name or by module name.

    Raises:
        BackendError: unknown name, or its framework is not installed.
    """
    known = available_backends()
    module = known.get(name, name if "." in name or importlib.util.find_spec(name) else "")
    if name not in known and not is_backend(module):
        raise BackendError(
            f"backend {name!r} is unknown; available: {', '.join(sorted(known))}, or a module with build(config)"
        )
    framework = FRAMEWORKS.get(name)
    if framework and importlib.util.find_spec(framework) is None:
        raise BackendError(
            f"backend {name!r} needs {framework}, which is not installed: pip install 'mindrlhf-grpo[{name}]'"
        )
    if importlib.util.find_spec(module) is None:
        raise BackendError(f"backend {name!r} is not part of this installation (module {module} not found)")
    return importlib.import_module(module)


def is_backend(module: str) -> bool:
    """Whether a module can be imported and offers ``build``."""
    if not module or module in FRAMEWORKS.values():
        return False
    try:
        return hasattr(importlib.import_module(module), "build")
    except ImportError:
        return False


def load_backend(config: Any) -> Backend:
    """Build the backend that ``config.backend`` names for this run."""
    backend: Backend = backend_module(config.backend).build(config)
    return backend
