"""AdamW, in place and in one compiled function for all weights.

The fused Adam kernel of CPU and Ascend is given rates that are computed in float64 on the host, with which it is
torch's AdamW. Weights of 16 bits have float32 master weights. Learning rate, clipping and bias corrections are
inputs: no step compiles again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindrlhf_grpo.compiling import CompileLog
from mindrlhf_grpo.errors import CheckpointError
from mindrlhf_grpo.model_files import read_header
from mindrlhf_grpo.tensor_files import read_tensor, write_tensors

from .graph import Compiled, overwrite

TENSORS, SETTINGS = "optimizer.safetensors", "optimizer.json"
EPS = 1e-8


class AdamW:
    """Decoupled weight decay Adam (arXiv:1711.05101) over named parameters; equal to ``torch.optim.AdamW`` in float32."""

    def __init__(
        self, parameters: Mapping[str, Parameter], *, betas: tuple[float, float], weight_decay: float, log: CompileLog
    ) -> None:
        self.parameters = dict(parameters)
        self.betas, self.weight_decay, self.log = betas, weight_decay, log
        self.steps = 0
        self.averages: dict[str, Parameter] = {}
        self.square_averages: dict[str, Parameter] = {}
        self.masters: dict[str, Parameter] = {}
        self.compiled: Compiled | None = None

    def step(self, gradients: Sequence[Tensor], *, learning_rate: float, gradient_scale: float = 1.0) -> None:
        """One step on the gradients of all parameters, in their order, multiplied by ``gradient_scale``."""
        self.create_state()
        if self.compiled is None:
            step = AdamWStep(self.betas, decays=self.weight_decay > 0, **self.tuples())
            self.compiled = Compiled("optimizer step", step.construct, self.log, bucket=weights_of)
        self.steps += 1
        beta1, beta2 = self.betas
        root = math.sqrt(1 - beta2**self.steps)
        rates = (gradient_scale, 1 - learning_rate * self.weight_decay, learning_rate * root / (1 - beta1**self.steps),
                 EPS * root)  # fmt: skip
        self.compiled(*(Tensor(np.float32(rate)) for rate in rates), *gradients)

    def tuples(self) -> dict[str, ParameterTuple]:
        """What a step changes, each in the order of the parameters."""
        weights = [self.masters.get(name, parameter) for name, parameter in self.parameters.items()]
        return {
            "weights": ParameterTuple(weights),
            "averages": ParameterTuple(self.averages.values()),
            "square_averages": ParameterTuple(self.square_averages.values()),
            "masters": ParameterTuple(self.masters.values()),
            "rounded": ParameterTuple([self.parameters[name] for name in self.masters]),
        }

    def create_state(self) -> None:
        """Zero moments and, for other types than float32, master weights; on the first step."""
        for name, parameter in self.parameters.items():
            if name not in self.averages:
                self.averages[name] = zeros(f"average/{name}", parameter.shape)
                self.square_averages[name] = zeros(f"square_average/{name}", parameter.shape)
                if parameter.dtype != ms.float32:
                    self.masters[name] = Parameter(parameter.astype(ms.float32), name=f"master/{name}")

    def named_state(self) -> dict[str, Parameter]:
        """Every tensor of the state under the name it is saved by."""
        kinds = {"average": self.averages, "square_average": self.square_averages, "master": self.masters}
        return {f"{kind}/{name}": tensor for kind, tensors in kinds.items() for name, tensor in tensors.items()}

    def save(self, folder: Path) -> None:
        """Write the state: safetensors and JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / TENSORS, {name: tensor.asnumpy() for name, tensor in self.named_state().items()})
        (folder / SETTINGS).write_text(json.dumps({"steps": self.steps}))

    def load(self, folder: Path) -> None:
        """Copy a saved state in.

        Raises:
            CheckpointError: the state belongs to other parameters or cannot be read.
        """
        try:
            self.steps = int(json.loads((folder / SETTINGS).read_text())["steps"])
            header = read_header(folder / TENSORS)
            if header:
                self.create_state()
            live = self.named_state()
            if set(header) != set(live):
                raise KeyError(f"tensors differ: {', '.join(sorted(set(header) ^ set(live))[:3])}")
            for name, tensor in live.items():
                if header[name].shape != tuple(tensor.shape):
                    raise ValueError(f"{name} is {header[name].shape}, here {tuple(tensor.shape)}")
                overwrite(tensor, Tensor(read_tensor(folder / TENSORS, header[name])))
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{folder} does not hold this optimizer's state: {error}") from None


class AdamWStep(nn.Cell):
    """What is compiled: all weights are stepped, rounded copies of master weights renewed.

    The kernel's own bias correction is off (powers of 0): in float32 it would lose digits of 1 - beta2.
    """

    def __init__(
        self,
        betas: tuple[float, float],
        *,
        decays: bool,
        weights: ParameterTuple,
        averages: ParameterTuple,
        square_averages: ParameterTuple,
        masters: ParameterTuple,
        rounded: ParameterTuple,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.beta1, self.beta2 = betas
        self.decays = decays
        self.weights, self.averages, self.square_averages = weights, averages, square_averages
        self.masters, self.rounded = masters, rounded
        self.adam = ops.Adam()

    def construct(self, scale: Tensor, kept: Tensor, rate: Tensor, eps: Tensor, *gradients: Tensor) -> Tensor:
        """``kept``: factor of the weights by decay; ``rate``, ``eps``: with the bias corrections of this step."""
        state = zip(self.weights, self.averages, self.square_averages, gradients)  # noqa: B905 - jit's zip takes no strict
        for weight, average, square_average, gradient in state:
            if self.decays:
                ops.assign(weight, weight * kept)
            scaled = gradient.astype(ms.float32) * scale
            self.adam(weight, average, square_average, 0.0, 0.0, rate, self.beta1, self.beta2, eps, scaled)
        for copy, master in zip(self.rounded, self.masters):  # noqa: B905
            ops.assign(copy, master.astype(copy.dtype))
        return rate


def zeros(name: str, shape: Sequence[int]) -> Parameter:
    return Parameter(Tensor(np.zeros(shape, np.float32)), name=name)


def weights_of(*tensors: Tensor) -> str:
    """The bucket of a step, for the compile log; four of its tensors are rates."""
    return f"{len(tensors) - 4} weights"


class GradientNorm:
    """Global L2 norm of the gradients, computed in one compiled function; sums of squares are added in float64."""

    def __init__(self, log: CompileLog) -> None:
        self.square_sums = Compiled(
            "gradient norm", square_sums, log, bucket=lambda *tensors: f"{len(tensors)} weights"
        )

    def __call__(self, gradients: Sequence[Tensor]) -> float:
        squares = self.square_sums(*gradients).asnumpy() if gradients else np.zeros(0, np.float32)
        return math.sqrt(float(squares.sum(dtype=np.float64)))


def square_sums(*gradients: Tensor) -> Tensor:
    """Sum of squares of each tensor."""
    return ops.stack([square_sum(gradient) for gradient in gradients])


def square_sum(x: Tensor) -> Tensor:
    """As a product of a row and a column: one pass over memory, and sums that keep their digits."""
    flat = x.astype(ms.float32).reshape(1, -1)
    return ops.matmul(flat, flat.reshape(-1, 1)).reshape(())
