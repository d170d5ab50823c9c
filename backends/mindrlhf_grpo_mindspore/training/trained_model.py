"""Weights with an optimizer, the part that policy, critic and reward model share.

Dropout does not exist here. Gradients are summed over batches of one step, micro-batches and ranks; the loss weights
of a batch carry the denominators. A subclass defines the model's outputs, see ``cells``.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn
from numpy.typing import NDArray

from mindrlhf_grpo.backend import CompileLog, Loss, ReadAt, UpdateResult
from mindrlhf_grpo.batches.online import micro_batches
from mindrlhf_grpo.batches.sums import changed_frac, clip_scale, step_sums, trained_rows
from mindrlhf_grpo.config.parallel import Strategy
from mindrlhf_grpo.config.run import ModelConfig, RolloutConfig, TrainConfig
from mindrlhf_grpo.errors import RunFailed
from mindrlhf_grpo.model_files.architecture import Architecture
from mindrlhf_grpo.model_files.fingerprint import fingerprint
from mindrlhf_grpo.model_files.folder import TensorInfo, find_folder
from mindrlhf_grpo.parallel.residency import Role
from mindrlhf_grpo.parallel.single_process import SingleProcess
from mindrlhf_grpo.types import Batch

from ..comm import MindSporeRanks
from ..devices import Device
from ..graph import Compiled
from ..models import hf
from ..models.tensor_group import ALONE, TensorGroup
from ..models.weight_slices import WeightSlices, WholeWeights
from ..sync.swap import DeviceMemory
from .buckets import Buckets, Cost, Sizes
from .changed_weights import changed, sample
from .layouts import LAYOUTS, ModelInput, needed
from .optim import AdamW, gradient_norm, write_state
from .optimizer_shards import OptimizerShards
from .train_step import TrainStep, loss_arrays, named_sums, sum_names

BUCKETS = "buckets.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """The parts that the models of a run share: device, ranks, compile log, seed.

    Attributes:
        strategy: how ranks share weights, gradients and optimizer state.
        rollout: how completions are sampled, None where none are: bounds the sizes of batches.
    """

    device: Device
    comm: SingleProcess | MindSporeRanks
    log: CompileLog
    seed: int
    rollout: RolloutConfig | None
    strategy: Strategy = "replicate"

    @property
    def group(self) -> TensorGroup:
        """The ranks that hold slices of every matrix together with this one."""
        return self.comm.group if isinstance(self.comm, MindSporeRanks) else ALONE

    def slices(self, architecture: Architecture) -> WeightSlices:
        """The slices of a model's weights that this rank holds."""
        if isinstance(self.comm, MindSporeRanks):
            return WeightSlices(architecture, self.comm.mesh, self.comm)
        return WeightSlices(architecture)


class TrainedModel(ABC):
    """Implements ``backend.TrainedModel``; ``weights`` holds the parameters by name, adapters among them."""

    gives_entropies: bool
    read_at: ReadAt
    weights: dict[str, Parameter]
    trainable: dict[str, Parameter]
    optimizer: AdamW

    def __init__(
        self, config: ModelConfig, train: TrainConfig, architecture: Architecture, context: RunContext
    ) -> None:
        self.model_config, self.train, self.architecture, self.context = config, train, architecture, context
        self.log, self.comm = context.log, context.comm
        self.folder = find_folder(config.path)
        self.lora_scale = hf.lora_scale(config)
        self.layout, self.layout_reason = choose_layout(config.layout)
        self.slices, self.group = context.slices(architecture), context.group
        self.whole: dict[str, NDArray[np.float32]] | None = None  # gathered for a checkpoint, on rank 0
        self.steps: dict[tuple[Loss, tuple[str, ...], bool], tuple[Compiled, tuple[str, ...]]] = {}

    def take_weights(self, weights: dict[str, Parameter]) -> None:
        """Train the weights that require a gradient."""
        self.weights = weights
        self.trainable = {name: weight for name, weight in weights.items() if weight.requires_grad}
        self.make_optimizer()

    def make_optimizer(self) -> None:
        """An optimizer over all trained weights, or over this rank's slices of them."""
        self.shards: OptimizerShards | None = None
        self.gathered: dict[str, NDArray[np.float32]] = {}
        stepped = self.trainable
        ranks = self.comm if isinstance(self.comm, MindSporeRanks) and self.comm.data_size > 1 else None
        if ranks is not None and self.context.strategy != "replicate":
            self.shards = OptimizerShards(self.trainable, ranks, self.slices.is_cut)
            stepped = self.shards.parameters
        self.optimizer = AdamW(stepped, self.train, self.log)

    @abstractmethod
    def cells(self, loss: Loss) -> nn.Cell:
        """Fresh cells of the model for one compiled function, see ``TrainStep``.

        A function compiled from cells that another one has used can compute something else (MindSpore 2.10), so no
        two share any.
        """

    def update(
        self, batch: Batch, loss: Loss, *, learning_rate: float, also: Sequence[tuple[Batch, Loss]] = ()
    ) -> UpdateResult:
        """Make one AdamW step on the summed gradient; every rank calls it, also without rows.

        Raises:
            RunFailed: the gradient is not finite; the weights are unchanged.
        """
        parts: list[list[Mapping[str, float]]] = []
        gradients: list[Tensor] = []
        for part, its_loss in [(batch, loss), *also]:
            sums_of_part, gradients_of_part = self.backward(part.take(trained_rows(part)), its_loss)
            parts.append(sums_of_part)
            gradients = add_up(gradients, gradients_of_part)
        on_host = self.context.device.kind == "cpu"
        gradients, norm = self.summed(gradients, on_host=on_host)
        if not math.isfinite(norm):
            raise RunFailed(f"the gradient norm is {norm}: the update was not made")
        weights = list(self.trainable.values())
        before = sample(weights, on_host=on_host)
        self.optimizer.step(
            gradients, learning_rate=learning_rate, gradient_scale=clip_scale(norm, self.train.max_grad_norm)
        )
        if self.shards is not None:
            self.shards.gather_weights()
        empty = {"tokens": 0.0, "entropy": 0.0} if self.gives_entropies else {"tokens": 0.0}
        ranks = self.comm.gather_objects((parts, changed(before, weights, on_host=on_host)))
        # The ranks of a tensor group see the same rows.
        total, (sums, *others) = step_sums([sums_of_rank for sums_of_rank, _ in ranks[:: self.group.size]], empty)
        moved = changed_frac(estimate for _, estimate in ranks)
        return UpdateResult(loss=total, grad_norm=norm, sums=sums, also=tuple(others), changed_frac=moved)

    def summed(self, gradients: list[Tensor], *, on_host: bool) -> tuple[list[Tensor], float]:
        """The sums over ranks of the gradients that this rank steps by, and the norm of all."""
        names = list(self.trainable)
        gradients = self.with_whole_sums(gradients)
        if self.shards is None:
            gradients = self.comm.sum_gradients(gradients)
            cut = [self.slices.is_cut(name) for name in names]
        else:
            gradients = self.shards.reduce(dict(zip(names, gradients, strict=True)))
            cut = [bucket.cut for bucket in self.shards.buckets.values()]
        return gradients, self.norm(gradients, cut, on_host=on_host)

    def with_whole_sums(self, gradients: list[Tensor]) -> list[Tensor]:
        """The gradients, with those summed over the tensor group of which each rank has a part from its own heads."""
        if not isinstance(self.comm, MindSporeRanks) or self.group.size == 1:
            return gradients
        partial = [place for place, name in enumerate(self.trainable) if self.is_partial(name)]
        if partial:
            sums = self.comm.sum_tensor_group([gradients[place] for place in partial])
            for place, total in zip(partial, sums, strict=True):
                gradients[place] = total
        return gradients

    def is_partial(self, name: str) -> bool:
        """Whether a weight that every rank of a tensor group holds in full acts on each rank's slices."""
        of_slices = (".q_norm.weight", ".k_norm.weight", hf.LORA_A, hf.LORA_B)
        return name.endswith(of_slices) and not self.slices.is_cut(name) and self.reaches_slices(name)

    def reaches_slices(self, name: str) -> bool:
        """Whether a head norm or an adapter's factor belongs to a matrix that is cut."""
        module = name.removesuffix(hf.LORA_A).removesuffix(hf.LORA_B)
        return not name.endswith((hf.LORA_A, hf.LORA_B)) or self.slices.is_cut(f"{module}.weight")

    def norm(self, gradients: list[Tensor], cut: list[bool], *, on_host: bool) -> float:
        """The L2 norm of the gradient of all weights, each counted once; ``cut`` tells those of slices."""
        whole = gradient_norm(gradients, on_host=on_host)
        if self.shards is None and self.group.size == 1:
            return whole
        parts = [
            gradient_norm([gradient for gradient, its in zip(gradients, cut, strict=True) if its == kind], on_host=on_host)
            for kind in (True, False)
        ]  # fmt: skip
        ranks = self.comm.gather_objects(parts)
        if self.shards is None:
            ranks = ranks[: self.group.size]  # other tensor groups have the same sums
        squares = [of_slices**2 for of_slices, _ in ranks]
        squares += [of_others**2 for _, of_others in ranks[:: self.group.size]]
        return math.sqrt(math.fsum(squares))

    def backward(self, batch: Batch, loss: Loss) -> tuple[list[Mapping[str, float]], list[Tensor]]:
        """Sums of each micro-batch, and the gradient of all of them by trainable weight."""
        parts: list[Mapping[str, float]] = []
        total: list[Tensor] = []
        for rows in self.micro_batches(batch):
            sums, gradients = self.backward_part(batch.take(rows), loss)
            parts.append(sums)
            total = add_up(total, gradients)
        return parts, total or [zeros_like(weight) for weight in self.trainable.values()]

    def backward_part(self, batch: Batch, loss: Loss) -> tuple[Mapping[str, float], list[Tensor]]:
        """Sums and gradients of one micro-batch."""
        inputs, sizes = self.input(batch)
        names, floats, segments = loss_arrays(batch, sizes.rows, sizes.completion)
        step, sums = self.step(loss, names, segments is not None)
        items = np.zeros((1, 1), np.int32) if segments is None else segments
        values, gradients = step(sharpness(batch), Tensor(floats), Tensor(items), *inputs.tensors())
        return named_sums(sums, values), list(gradients)

    def step(self, loss: Loss, names: tuple[str, ...], segments: bool) -> tuple[Compiled, tuple[str, ...]]:
        """The compiled train step of a loss, and the names of its sums."""
        key = (loss, names, segments)
        if key not in self.steps:
            entropies = self.gives_entropies and not loss.reads_values
            cell = TrainStep(
                self.cells(loss), loss, ParameterTuple(self.trainable.values()), names, segments=segments,
                entropies=entropies,
            )  # fmt: skip
            step = Compiled(
                "train step", cell.construct, self.log, bucket=lambda *tensors: describe_bucket(tensors[3:])
            )
            self.steps[key] = (step, sum_names(loss, names, segments=segments, entropies=entropies))
        return self.steps[key]

    def fingerprint(self) -> str:
        """Digest of the weights by Hugging Face name, adapters merged."""
        whole = WholeWeights(self.weights, self.slices)
        return fingerprint(hf.hf_tensors(self.weights, self.lora_scale, whole))

    def roles(self) -> dict[str, Role]:
        """Weights and optimizer."""
        return {
            "weights": DeviceMemory(lambda: self.weights.values(), self.context.device),
            "optimizer": DeviceMemory(self.optimizer_memory, self.context.device),
        }

    def optimizer_memory(self) -> list[Parameter]:
        """What the optimizer keeps on this rank: its state, and the slices that it steps."""
        slices = [] if self.shards is None else self.shards.parameters.values()
        return [*self.optimizer.named_state().values(), *slices]

    def gather(self) -> None:
        """Bring what ranks share out to rank 0, which saves it: one tensor after another, into its host memory."""
        main = self.comm.rank == 0
        if self.slices.divided:
            whole = WholeWeights(self.weights, self.slices)
            self.whole = {}
            for name in hf.adapters(self.weights) or self.weights:
                values = whole[name]
                if main:
                    self.whole[name] = values
        if self.shards is not None:
            state: Mapping[str, Any] = self.shards.gathered_state(self.optimizer)
        elif self.slices.divided:
            state = self.optimizer.named_state()
        else:
            return
        self.gathered = {}
        for name, own in state.items():
            values = self.slices.whole(weight_of(name), own)
            if main:
                self.gathered[name] = values

    def save_state(self, folder: Path) -> None:
        """Write the optimizer and the known buckets, on which the rounding of sums depends."""
        if self.shards is None and not self.slices.divided:
            self.optimizer.save(folder)
        else:
            write_state(folder, self.gathered, self.optimizer.steps)
            self.gathered = {}  # as large as the optimizer of one process
        (folder / BUCKETS).write_text(json.dumps(self.buckets.saved()))

    def restore_state(self, state: Path) -> None:
        """Copy the saved optimizer into the live one; weights stay where they are."""
        if self.shards is None:
            self.optimizer.load(state, self.read_slice)
        else:
            self.shards.load_state(self.optimizer, state, self.read_slice)
        saved = state / BUCKETS  # absent where another backend wrote the state
        self.buckets.restore(json.loads(saved.read_text()) if saved.is_file() else {"known": [], "wasted": 0.0})

    def read_slice(self, path: Path, info: TensorInfo, name: str) -> NDArray[np.float32]:
        """This rank's slice of a tensor of the optimizer's state."""
        return self.slices.of_parts(weight_of(name), info.shape, [(path, info)])

    def input(self, batch: Batch) -> tuple[ModelInput, Sizes]:
        """A micro-batch as model input, padded to its bucket."""
        sizes = self.buckets.choose(needed(batch, shared=self.layout == "shared", read_at=self.read_at))
        return LAYOUTS[self.layout](batch, sizes, self.read_at), sizes

    def outputs(self, compiled: Compiled, batch: Batch) -> list[NDArray[np.float32]]:
        """Outputs of a compiled function for a micro-batch, with the padding of its bucket."""
        return [output.asnumpy() for output in compiled(sharpness(batch), *self.input(batch)[0].tensors())]

    def micro_batches(self, batch: Batch) -> list[NDArray[np.int64]]:
        """Rows of every micro-batch; none for an empty batch."""
        if not len(batch):
            return []
        return micro_batches(batch, self.train.tokens_per_micro_batch, shared=self.layout == "shared")

    def make_buckets(self, *, body: int, head: int) -> None:
        """Make the buckets for a model with so many weights below the head and in it."""
        cost = forward_cost(self.architecture, body=body, head=head)
        self.buckets = Buckets(cost, shared=self.layout == "shared", limits=self.limits())

    def limits(self) -> Sizes:
        """The largest micro-batch that the configuration allows."""
        rollout = self.context.rollout
        replicas = self.comm.world_size // self.group.size
        prompts, group, completion = -(-self.train.prompts_per_step // replicas), 1, 1
        if rollout is not None:
            group, completion = rollout.group_size, rollout.max_tokens + (self.read_at == "token")
        prompts, group = (prompts, group) if self.layout == "shared" else (prompts * group, 1)
        return Sizes(prompts=prompts, group=group, prompt=1, completion=completion, tokens=1, predicted=1)


def weight_of(name: str) -> str:
    """The weight that a tensor of the optimizer's state belongs to."""
    return name.partition("/")[2]


def choose_layout(requested: str) -> tuple[str, str]:
    """Layout and reason: every model of this backend can share prompts, its attention being the backend's own."""
    return ("plain", "asked for") if requested == "plain" else ("shared", "the attention is the backend's own")


def forward_cost(model: Architecture, *, body: int, head: int) -> Cost:
    """The cost of a forward pass with so many weights below the head and in it."""
    score = 2.0 * model.layers * model.heads * (model.key_size + model.value_size)
    return Cost(token=2.0 * body, prediction=2.0 * head, score=score)


def sharpness(batch: Batch) -> Tensor:
    """1 / temperature."""
    return Tensor(np.float32(1.0 / batch.temperature))


def add_up(total: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    """The float32 sum of two lists of gradients, tensor by tensor, each freed when it has been added."""
    if not total:
        return gradients
    for place in range(len(total)):
        total[place] = total[place].astype(ms.float32) + gradients[place].astype(ms.float32)
        gradients[place] = total[place]
    return total


def zeros_like(weight: Tensor) -> Tensor:
    return Tensor(np.zeros(weight.shape, np.float32)).astype(weight.dtype)


def describe_bucket(inputs: Sequence[Tensor]) -> str:
    """The bucket of a ``ModelInput.tensors``, for the compile log."""
    ids, _, predictors, _, rows = inputs[:5]
    return f"{ids.shape[0]} tokens, {predictors.shape[0]} predicted, {rows.shape[0]} completions of {rows.shape[1]}"
