"""AdamW, in place and in one compiled function for all weights.

The fused Adam kernel of CPU and Ascend is given rates that are computed in float64 on the host, with which it is
torch's AdamW. Weights of 16 bits have float32 master weights. Learning rate, clipping and bias corrections are
inputs: no step compiles again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from numpy.typing import NDArray

from mindrlhf_grpo.backend import CompileLog
from mindrlhf_grpo.config.run import TrainConfig
from mindrlhf_grpo.errors import CheckpointError
from mindrlhf_grpo.model_files.folder import TensorInfo, read_header
from mindrlhf_grpo.model_files.optimizer_state import TENSORS, check_names, named_state, read_steps, write_steps
from mindrlhf_grpo.model_files.safetensors import read_tensor, write_tensors

from ..graph import Compiled, overwrite
from ..models.hf import numbers

ReadSlice = Callable[[Path, TensorInfo, str], NDArray[np.float32]]  # this rank's slice of a saved tensor of the state
RUN = 16384  # numbers whose squares are summed in float32


class AdamW:
    """Decoupled weight decay Adam (arXiv:1711.05101) over named parameters; equal to ``torch.optim.AdamW`` in float32.

    Its settings are ``train``'s betas, epsilon and weight decay; with ``decayed: matrices`` vectors do not decay.
    """

    def __init__(self, parameters: Mapping[str, Parameter], train: TrainConfig, log: CompileLog) -> None:
        self.parameters = dict(parameters)
        self.train, self.log = train, log
        self.steps = 0
        self.averages: dict[str, Parameter] = {}
        self.square_averages: dict[str, Parameter] = {}
        self.masters: dict[str, Parameter] = {}
        self.compiled: Compiled | None = None

    def step(self, gradients: Sequence[Tensor], *, learning_rate: float, gradient_scale: float = 1.0) -> None:
        """One step on the gradients of all parameters, in their order, multiplied by ``gradient_scale``."""
        self.create_state()
        if self.compiled is None:
            step = AdamWStep(self.train.betas, **self.tuples())
            self.compiled = Compiled("optimizer step", step.construct, self.log, bucket=step_bucket)
        self.steps += 1
        beta1, beta2 = self.train.betas
        root = math.sqrt(1 - beta2**self.steps)
        rates = (gradient_scale, 1 - learning_rate * self.train.weight_decay,
                 learning_rate * root / (1 - beta1**self.steps), self.train.optimizer.epsilon * root)  # fmt: skip
        self.compiled(*(Tensor(np.float32(rate)) for rate in rates), *gradients)

    def tuples(self) -> dict[str, ParameterTuple]:
        """The tensors that a step changes, each kind in the order of the parameters."""
        weights = [self.masters.get(name, parameter) for name, parameter in self.parameters.items()]
        least = 2 if self.train.optimizer.decayed == "matrices" else 0  # dimensions of what decays
        decayed = [weight for weight in weights if weight.ndim >= least and self.train.weight_decay > 0]
        return {
            "weights": ParameterTuple(weights),
            "decayed": ParameterTuple(decayed),
            "averages": ParameterTuple(self.averages.values()),
            "square_averages": ParameterTuple(self.square_averages.values()),
            "masters": ParameterTuple(self.masters.values()),
            "rounded": ParameterTuple([self.parameters[name] for name in self.masters]),
        }

    def create_state(self) -> None:
        """Create zero moments and, for other types than float32, master weights; on the first step."""
        for name, parameter in self.parameters.items():
            if name not in self.averages:
                self.averages[name] = zeros(f"average/{name}", parameter.shape)
                self.square_averages[name] = zeros(f"square_average/{name}", parameter.shape)
                if parameter.dtype != ms.float32:
                    self.masters[name] = Parameter(parameter.astype(ms.float32), name=f"master/{name}")

    def named_state(self) -> dict[str, Parameter]:
        """Every tensor of the state under the name it is saved by."""
        return named_state(self.averages, self.square_averages, self.masters)

    def save(self, folder: Path) -> None:
        """Write the state."""
        write_state(folder, {name: tensor.asnumpy() for name, tensor in self.named_state().items()}, self.steps)

    def load(self, folder: Path, read: ReadSlice = lambda path, info, name: read_tensor(path, info)) -> None:
        """Copy a saved state into the live one.

        Args:
            read: reads this rank's slice of a tensor; by default all of it.

        Raises:
            CheckpointError: the state belongs to other parameters or cannot be read.
        """
        try:
            self.steps = read_steps(folder)
            header = read_header(folder / TENSORS)
            if header:
                self.create_state()
            live = self.named_state()
            check_names(header, live, "tensors")
            for name, tensor in live.items():
                saved = read(folder / TENSORS, header[name], name)
                if saved.shape != tuple(tensor.shape):
                    raise ValueError(
                        f"{name} is {header[name].shape}, this rank's slice {saved.shape}, here {tuple(tensor.shape)}"
                    )
                overwrite(tensor, Tensor(saved))
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{folder} does not hold this optimizer's state: {error}") from None


def write_state(folder: Path, tensors: Mapping[str, NDArray[np.float32]], steps: int) -> None:
    """Write a state: safetensors and JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / TENSORS, tensors)
    write_steps(folder, steps)


class AdamWStep(nn.Cell):
    """The compiled step: all weights are stepped, rounded copies of master weights renewed.

    The kernel's own bias correction is off (powers of 0): in float32 it would lose digits of 1 - beta2.
    """

    def __init__(
        self,
        betas: tuple[float, float],
        *,
        weights: ParameterTuple,
        decayed: ParameterTuple,
        averages: ParameterTuple,
        square_averages: ParameterTuple,
        masters: ParameterTuple,
        rounded: ParameterTuple,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.beta1, self.beta2 = betas
        self.decayed = decayed
        self.weights, self.averages, self.square_averages = weights, averages, square_averages
        self.masters, self.rounded = masters, rounded
        self.adam = ops.Adam()
        self.each = ops.HyperMap()  # a loop of Python would nest too deep for the compiler

    def construct(self, scale: Tensor, decay: Tensor, rate: Tensor, eps: Tensor, *gradients: Tensor) -> Tensor:
        """``decay``: factor of the weights by weight decay; ``rate``, ``eps``: with the bias corrections of this step."""
        if len(self.decayed) > 0:
            self.each(ops.partial(decay_tensor, decay), self.decayed)
        step = ops.partial(self.step_tensor, scale, rate, eps)
        self.each(step, self.weights, self.averages, self.square_averages, gradients)
        if len(self.rounded) > 0:
            self.each(round_tensor, self.rounded, self.masters)
        return rate

    def step_tensor(
        self,
        scale: Tensor,
        rate: Tensor,
        eps: Tensor,
        weight: Parameter,
        average: Parameter,
        square_average: Parameter,
        gradient: Tensor,
    ) -> Tensor:
        """Step one weight."""
        scaled = gradient.astype(ms.float32) * scale
        return self.adam(weight, average, square_average, 0.0, 0.0, rate, self.beta1, self.beta2, eps, scaled)[0]


def decay_tensor(decay: Tensor, weight: Parameter) -> Tensor:
    return ops.assign(weight, weight * decay)


def round_tensor(copy: Parameter, master: Parameter) -> Tensor:
    return ops.assign(copy, master.astype(copy.dtype))


def zeros(name: str, shape: Sequence[int]) -> Parameter:
    return Parameter(Tensor(np.zeros(shape, np.float32)), name=name)


def step_bucket(*tensors: Tensor) -> str:
    """The bucket of a step, for the compile log; four of its tensors are rates."""
    return f"{len(tensors) - 4} weights"


def gradient_norm(gradients: Sequence[Tensor], *, on_host: bool) -> float:
    """Global L2 norm of the gradients, summed in float64 over tensors.

    Args:
        on_host: the device is the processor: NumPy reads the tensors where they are, in one pass.
    """
    if on_host:
        flats = (numbers(gradient).reshape(-1) for gradient in gradients)
        runs = (flat[start : start + RUN] for flat in flats for start in range(0, len(flat), RUN))
        return math.sqrt(math.fsum(float(np.dot(run, run)) for run in runs))
    squares = [ops.square(gradient.astype(ms.float32)).sum() for gradient in gradients]
    return math.sqrt(float(ops.stack(squares).asnumpy().sum(dtype=np.float64)))
