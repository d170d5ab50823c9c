"""AdamW, in place and with little memory.

Float32 weights are stepped by torch's own functional AdamW (fused where it exists). Bfloat16 weights have
float32 master weights and moments, and are stepped tensor by tensor, so that no float32 copy of all gradients
exists. Weights keep their storage: an engine may alias them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from mindrlhf_grpo.config.run import TrainConfig
from mindrlhf_grpo.errors import CheckpointError
from mindrlhf_grpo.model_files.optimizer_state import TENSORS, check_names, named_state, read_steps, write_steps

from ..models.hf import local


class AdamW:
    """Decoupled weight decay Adam (arXiv:1711.05101) over named parameters; equal to ``torch.optim.AdamW`` in float32.

    Its settings are ``train``'s betas, epsilon and weight decay; with ``decayed: matrices`` vectors do not decay.
    """

    def __init__(self, named_parameters: Iterable[tuple[str, Tensor]], train: TrainConfig) -> None:
        self.parameters = dict(named_parameters)
        self.train = train
        self.steps = 0
        self.averages: dict[str, Tensor] = {}
        self.square_averages: dict[str, Tensor] = {}
        self.masters: dict[str, Tensor] = {}

    @torch.no_grad()
    def step(self, *, learning_rate: float, gradient_scale: float = 1.0) -> None:
        """One step on the parameters' ``grad``, multiplied by ``gradient_scale``; grads are freed."""
        self.create_state()
        done = torch.tensor(float(self.steps))
        for name, parameter in self.parameters.items():
            gradient = parameter.grad
            if gradient is None:
                gradient = torch.zeros_like(parameter)
            parameter.grad = None  # freed as soon as this tensor is done
            gradient = local(gradient).float()
            if gradient_scale != 1.0:
                gradient.mul_(gradient_scale)
            self.step_tensor(name, local(parameter), gradient, done, learning_rate)
        self.steps += 1

    def step_tensor(self, name: str, parameter: Tensor, gradient: Tensor, done: Tensor, learning_rate: float) -> None:
        """Step one tensor from its float32 gradient; ``done`` is the number of steps before this one."""
        weight = self.masters.get(name, parameter)
        beta1, beta2 = self.train.betas
        adamw(
            [weight], [gradient], [self.averages[name]], [self.square_averages[name]], [],
            [done.to(weight.device, copy=True)],
            foreach=False, fused=weight.device.type in FUSED, amsgrad=False, beta1=beta1, beta2=beta2,
            lr=learning_rate, weight_decay=self.weight_decay(name), eps=self.train.optimizer.epsilon, maximize=False,
        )  # fmt: skip
        if weight is not parameter:
            parameter.copy_(weight)

    def weight_decay(self, name: str) -> float:
        """The decay of a parameter."""
        exempt = self.train.optimizer.decayed == "matrices" and self.parameters[name].dim() < 2
        return 0.0 if exempt else self.train.weight_decay

    def create_state(self) -> None:
        """Create zero moments and, for other types than float32, master weights; on the first step."""
        for name, full in self.parameters.items():
            if name not in self.averages:
                parameter = local(full)
                self.averages[name] = torch.zeros_like(parameter, dtype=torch.float32)
                self.square_averages[name] = torch.zeros_like(parameter, dtype=torch.float32)
                if parameter.dtype != torch.float32:
                    self.masters[name] = parameter.detach().to(torch.float32)

    def named_state(self) -> dict[str, Tensor]:
        """Every tensor of the state under the name it is saved by."""
        return named_state(self.averages, self.square_averages, self.masters)

    def save(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write the state: safetensors and JSON.

        Args:
            state: full tensors in place of a shard's, by the names of ``named_state``.
        """
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        state = self.named_state() if state is None else state
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / TENSORS)
        write_steps(folder, self.steps)

    @torch.no_grad()
    def load(self, folder: Path, read_part: Callable[[str, Tensor, Any], None] | None = None) -> None:
        """Copy a saved state into the live one.

        Args:
            read_part: fills this rank's part of a tensor, by the name of its parameter, from slices of the saved one.

        Raises:
            CheckpointError: the state belongs to other parameters or cannot be read.
        """
        from safetensors import SafetensorError, safe_open

        try:
            self.steps = read_steps(folder)
            with safe_open(folder / TENSORS, framework="pt") as saved:
                names = set(saved.keys())
                if names:
                    self.create_state()
                live = self.named_state()
                check_names(names, live, "tensors")
                for name, tensor in live.items():
                    if read_part is None:
                        tensor.copy_(saved.get_tensor(name))
                    else:
                        read_part(name.partition("/")[2], tensor, saved.get_slice(name))
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"{folder} does not hold this optimizer's state: {error}") from None


FUSED = ("cpu", "cuda")


def gradient_norm(parameters: Iterable[Tensor]) -> float:
    """Global L2 norm of the gradients, summed in float64 over tensors."""
    norms = [
        torch.linalg.vector_norm(local(parameter.grad), dtype=torch.float32)
        for parameter in parameters
        if parameter.grad is not None
    ]
    return float(torch.stack(norms).cpu().double().square().sum().sqrt()) if norms else 0.0
