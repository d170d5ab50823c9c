"""A backend over NumPy, as small as the contract of ``mindrlhf_grpo.backend`` allows: the proof that it is complete.

The maths is that of ``mindrlhf_grpo.testing.numpy_model``: nothing is fast, padded or cached. ``UNSUPPORTED`` names
what it leaves out.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindrlhf_grpo.backend import (
    BackendConfig,
    Capability,
    CompileLog,
    Conversations,
    DeviceEntry,
    DeviceListing,
    LanguageModel,
    LogProbs,
    Loss,
    Policy,
    ReadAt,
    RolloutEngine,
    UpdateResult,
    ValueModel,
)  # fmt: skip
from mindrlhf_grpo.batches.sums import step_sums, trained_rows
from mindrlhf_grpo.config.run import ModelConfig, TrainConfig
from mindrlhf_grpo.errors import BackendError, ConfigError, RunFailed
from mindrlhf_grpo.generation.generation import check_prompt
from mindrlhf_grpo.generation.stop_strings import StopStrings
from mindrlhf_grpo.losses import xp
from mindrlhf_grpo.model_files.families import read_architecture
from mindrlhf_grpo.model_files.fingerprint import fingerprint
from mindrlhf_grpo.model_files.folder import copy_files, find_folder, read_headers, read_model_config, weight_files
from mindrlhf_grpo.model_files.safetensors import read_tensor, write_tensors
from mindrlhf_grpo.parallel.process import package_versions, peak_host_memory
from mindrlhf_grpo.parallel.residency import Role
from mindrlhf_grpo.parallel.single_process import SingleProcess
from mindrlhf_grpo.testing.numpy_model import training as maths
from mindrlhf_grpo.testing.numpy_model.generation import complete
from mindrlhf_grpo.testing.numpy_model.llama import Gradients, NumpyLlama
from mindrlhf_grpo.tokenizers.tokenizer import Tokenizer
from mindrlhf_grpo.types import Batch, FinishReason, FloatArray, Prompt, Rollout, RolloutGroup, Sampling

FRAMEWORK = "numpy"
UNSUPPORTED: Mapping[Capability, str] = {
    "lora": "weights are plain arrays",
    "entropy_bonus": "a loss is differentiated by log-probs alone",
    "moved_reference": "the reference is the model folder",
    "value_model": "there is one kind of model",
    "remote_code": "the code in model folders is written for torch",
    "language_model": "there is one kind of model",
    "tensor_parallel": "there is one process",
    "conversations": "a completion is made at once",
}


def build(config: BackendConfig) -> ToyBackend:
    check(config)
    return ToyBackend(config)


def check(config: BackendConfig) -> None:
    if config.model.lora_rank:
        raise ConfigError(f"model.lora_rank: the toy backend has no adapters: {UNSUPPORTED['lora']}; accepted: 0")


def environment_warning() -> str:
    return ""


def list_devices() -> DeviceListing:
    devices: list[DeviceEntry] = [{"device": "cpu", "name": platform.machine(), "bfloat16": False}]
    return {"framework": f"numpy {np.__version__}", "devices": devices}


def from_numpy(array: NDArray[Any], device: Any = None) -> Any:
    return array


def to_numpy(array: Any) -> NDArray[Any]:
    return np.asarray(array, np.float32)


def no_gradient() -> AbstractContextManager[Any]:
    return nullcontext()


def load_model(path: str) -> NumpyLlama:
    """Read a Hugging Face folder with one file of weights."""
    folder = find_folder(path)
    (file,) = weight_files(folder)
    weights = {name: read_tensor(file, info) for name, info in read_headers(folder).items()}
    return NumpyLlama(read_architecture(read_model_config(folder)), weights)


def as_float32(weights: Gradients) -> dict[str, FloatArray]:
    return {name: array.astype(np.float32) for name, array in weights.items()}


class ToyPolicy:
    """Implements ``backend.Policy`` and ``backend.Inspection``: float64 arithmetic, float32 weights after each step."""

    layout, layout_reason = "plain", "one sequence at a time"

    def __init__(self, config: BackendConfig) -> None:
        self.config, self.train, self.model = config, config.train, load_model(config.model.path)
        train = config.train
        self.optimizer = maths.NumpyAdamW(
            betas=train.betas, weight_decay=train.weight_decay, max_grad_norm=train.max_grad_norm
        )

    def update(
        self, batch: Batch, loss: Loss, *, learning_rate: float, also: Sequence[tuple[Batch, Loss]] = ()
    ) -> UpdateResult:
        parts: list[list[dict[str, float]]] = []
        total: Gradients = {name: np.zeros_like(weight) for name, weight in self.model.weights.items()}
        for part, its_loss in [(batch, loss), *also]:
            sums, gradients = self.backward(part.take(trained_rows(part)), its_loss)
            parts.append(sums)
            total = {name: gradient + gradients[name] for name, gradient in total.items()}
        norm = maths.global_norm(total)
        if not math.isfinite(norm):
            raise RunFailed(f"the gradient norm is {norm}: the update was not made")
        self.optimizer.step(self.model.weights, total, learning_rate=learning_rate)
        self.model.weights.update({n: w.astype(np.float64) for n, w in as_float32(self.model.weights).items()})
        value, (sums_of_batch, *others) = step_sums([parts], {"tokens": 0.0, "entropy": 0.0})
        return UpdateResult(loss=value, grad_norm=norm, sums=sums_of_batch, also=tuple(others))

    def backward(self, batch: Batch, loss: Loss) -> tuple[list[dict[str, float]], Gradients]:
        """Metric sums, none for a batch without rows, and gradients."""
        if loss.reads_entropy or loss.reads_values:
            raise BackendError(UNSUPPORTED["entropy_bonus" if loss.reads_entropy else "value_model"])
        with np.errstate(all="ignore"):
            value, gradients = maths.loss_and_gradients(self.model, batch, loss)
        if not len(batch):
            return [], gradients
        tensors = {name: np.asarray(array, np.float64) for name, array in batch.loss_tensors().items()}
        with np.errstate(all="ignore"):
            metrics = loss(xp.NUMPY, maths.logps(self.model, batch), tensors)[1]
        entropy = (maths.entropy(self.model, batch) * batch.mask).sum()
        sums = {"loss": value, "tokens": batch.mask.sum(), "entropy": entropy, **metrics}
        return [{name: float(number) for name, number in sums.items()}], gradients

    def logps(self, batch: Batch, *, reference: bool = False, entropy: bool = False) -> LogProbs:
        model = load_model(self.config.model.path) if reference else self.model
        spread = maths.entropy(model, batch).astype(np.float32) if entropy else None
        return LogProbs(logps=maths.logps(model, batch).astype(np.float32), entropy=spread)

    def layer_logps(self, batch: Batch) -> FloatArray:
        return maths.layer_logps(self.model, batch).astype(np.float32)

    def gradients(self, batch: Batch, loss: Loss) -> tuple[float, dict[str, FloatArray]]:
        value, gradients = maths.loss_and_gradients(self.model, batch, loss)
        return value, as_float32(gradients)

    def weights(self) -> dict[str, FloatArray]:
        return as_float32(self.model.weights)

    def values(self, batch: Batch) -> FloatArray:
        raise BackendError(UNSUPPORTED["value_model"])

    def sync_reference(self, share: float) -> None:
        raise BackendError(UNSUPPORTED["moved_reference"])

    def fingerprint(self) -> str:
        return fingerprint(as_float32(self.model.weights).items())

    def roles(self) -> Mapping[str, Role]:
        return {}

    def gather(self) -> None:
        return

    def save_model(self, folder: Path, *, merge: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        copy_files(find_folder(self.config.model.path), folder, ("*.json",))
        write_tensors(folder / "model.safetensors", as_float32(self.model.weights))

    def save_state(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        kinds = {"average": self.optimizer.averages, "square": self.optimizer.square_averages}
        arrays = {f"{kind}/{name}": array for kind, named in kinds.items() for name, array in named.items()}
        np.savez(folder / "optimizer.npz", steps=self.optimizer.steps, **arrays)

    def load_state(self, model: Path, state: Path) -> None:
        self.model.weights.update(load_model(str(model)).weights)
        with np.load(state / "optimizer.npz") as saved:
            self.optimizer.steps = int(saved["steps"])
            for kind, named in (("average", self.optimizer.averages), ("square", self.optimizer.square_averages)):
                named.update({n.partition("/")[2]: saved[n] for n in saved.files if n.startswith(f"{kind}/")})


class ToyEngine:
    """Implements ``backend.RolloutEngine`` and ``backend.WeightSync``, on a copy of the weights."""

    weight_version = 0

    def __init__(self, config: BackendConfig, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = load_model(config.model.path), tokenizer
        self.policy: ToyPolicy | None = None

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        group_size: int,
        conversations: Conversations | None = None,
    ) -> list[RolloutGroup]:
        if conversations is not None:
            raise BackendError(UNSUPPORTED["conversations"])
        for prompt in prompts:
            check_prompt(prompt, sampling, vocab_size=self.model.architecture.vocabulary, context=None)
        return [
            RolloutGroup(prompt=prompt, rollouts=tuple(self.rollout(prompt, n, sampling) for n in range(group_size)))
            for prompt in prompts
        ]

    def rollout(self, prompt: Prompt, sample: int, sampling: Sampling) -> Rollout:
        """One completion, cut after the token that completes a stop string."""
        end_tokens, stop = self.tokenizer.eos_ids, StopStrings(sampling.stop, self.tokenizer)
        completion = complete(self.model, prompt, sample, sampling, end_tokens)
        ids, ended = completion.ids, completion.ids[-1] in end_tokens
        text = self.tokenizer.decode(ids)
        for length in range(sampling.min_tokens + 1, len(ids) + 1):
            if (before := stop.cut(ids[:length])) is not None:
                ids, ended, text = ids[:length], True, before
                break
        return Rollout(
            sample=sample, ids=np.array(ids, np.int32), logps=np.array(completion.logps[: len(ids)], np.float32),
            finish=FinishReason.STOP if ended else FinishReason.LENGTH, text=text, weight_version=self.weight_version,
        )  # fmt: skip

    def push(self, version: int) -> None:
        assert self.policy is not None
        self.model.weights.update({name: array.copy() for name, array in self.policy.model.weights.items()})
        if self.fingerprint() != self.policy.fingerprint():
            raise RunFailed("the engine's weights differ from the policy's after the sync")
        self.weight_version = version

    def fingerprint(self) -> str:
        return fingerprint(as_float32(self.model.weights).items())

    def roles(self) -> Mapping[str, Role]:
        return {}

    def sleep(self) -> None:
        return

    def wake_up(self) -> None:
        return


class ToyBackend:
    """Implements ``backend.Backend``."""

    name, device = "toy", "cpu"

    def __init__(self, config: BackendConfig) -> None:
        self.config, self.comm, self.compile_log = config, SingleProcess(), CompileLog()

    def load_policy(self) -> ToyPolicy:
        return ToyPolicy(self.config)

    def load_engine(self, policy: Policy | None, tokenizer: Tokenizer) -> ToyEngine:
        engine = ToyEngine(self.config, tokenizer)
        if policy is not None:
            self.weight_sync(policy, engine).push(0)
        return engine

    def weight_sync(self, policy: Policy, engine: RolloutEngine) -> ToyEngine:
        if not isinstance(engine, ToyEngine):
            raise BackendError(f"no engine of the toy backend: {type(engine).__name__}")
        engine.policy = self.inspect(policy)
        return engine

    def inspect(self, policy: Policy) -> ToyPolicy:
        if not isinstance(policy, ToyPolicy):
            raise BackendError(f"no policy of the toy backend: {type(policy).__name__}")
        return policy

    def load_value_model(self, model: ModelConfig, train: TrainConfig, *, read_at: ReadAt) -> ValueModel:
        raise BackendError(UNSUPPORTED["value_model"])

    def load_remote_code(self, model: ModelConfig, train: TrainConfig) -> None:
        return None

    def load_language_model(self, model: ModelConfig, tokenizer: Tokenizer, *, slots: int) -> LanguageModel:
        raise BackendError(UNSUPPORTED["language_model"])

    def memory(self) -> dict[str, float]:
        return peak_host_memory()

    def versions(self) -> dict[str, str]:
        return package_versions(("numpy",), device="cpu")
