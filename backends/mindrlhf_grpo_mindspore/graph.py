"""The one place that uses jit: functions compiled once for every bucket of static shapes.

Outside this file the backend is written as functions of tensors. Two traps of MindSpore: a tuple, list or dict passed
to a compiled function is a constant (a new one compiles again), so arguments are tensors only; errors are asynchronous,
so the first call waits for its result and fails at the right line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mindspore as ms
from mindspore import Parameter, Tensor, ops

from mindrlhf_grpo.backend import CompileLog

Shape = tuple[tuple[int, ...], str]


class Compiled:
    """A function of tensors, compiled for every combination of argument shapes it meets.

    Args:
        name: names the function in the log.
        bucket: describes the arguments of a call in the log; None: their shapes.
    """

    def __init__(
        self, name: str, function: Callable[..., Any], log: CompileLog, bucket: Callable[..., str] | None = None
    ) -> None:
        self.name, self.log, self.bucket = name, log, bucket
        self.function = ms.jit(function)
        self.seen: set[tuple[Shape, ...]] = set()
        self.keys: set[str] = set()  # MindSpore's own keys of the compiled graphs

    def __call__(self, *tensors: Tensor) -> Any:
        shapes = tuple((tuple(tensor.shape), str(tensor.dtype)) for tensor in tensors)
        if shapes in self.seen:
            return self.function(*tensors)
        text = self.bucket(*tensors) if self.bucket else " ".join(str(shape) for shape, _ in shapes)
        before = set(compiled_keys())
        with self.log.compiling(self.name, text):
            result = self.function(*tensors)
            wait(result)
        self.keys |= compiled_keys() - before
        self.seen.add(shapes)
        return result

    def forget(self) -> None:
        """Free the compiled graphs, which MindSpore would keep until the process ends; the next call compiles again."""
        free_compiled(self.keys)
        self.keys.clear()
        self.seen.clear()


def compiled_keys() -> set[str]:
    """MindSpore's own record of compiled graphs, empty in a version that keeps it elsewhere."""
    try:
        from mindspore.graph.api import ms_compile_cache
    except ImportError:
        return set()
    keys: set[str] = ms_compile_cache
    return keys


def free_compiled(keys: set[str]) -> None:
    """Free the graphs compiled under these keys; MindSpore 2.10 has no public way to do so."""
    if keys:
        from mindspore._c_expression import JitExecutor_

        JitExecutor_.get_instance().del_net_res(None, keys)
        compiled_keys().difference_update(keys)


def empty(parameter: Parameter) -> None:
    """Free a parameter's values: the compiler holds the parameter even after its graphs are freed."""
    parameter.set_data(Tensor([0.0], parameter.dtype), slice_shape=True)


def wait(result: Any) -> None:
    """Wait until the tensors of a result are computed; an error of the computation is raised here."""
    if isinstance(result, Tensor):
        result.asnumpy()
    elif isinstance(result, (tuple, list)):
        for part in result:
            wait(part)


def overwrite(parameter: Parameter, values: Tensor) -> None:
    """Overwrite a parameter's values in place.

    After ``Parameter.set_data`` compiled functions would go on reading and writing its previous storage.
    """
    ops.assign(parameter, values.astype(parameter.dtype))
