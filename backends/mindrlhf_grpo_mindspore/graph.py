"""Everything that knows jit: functions compiled once for every bucket of static shapes, and the buckets.

Outside this file the backend is written as functions of tensors. MindSpore's traps here: a tuple, list or dict
passed to a compiled function is a constant (a new one compiles again), so arguments are tensors only; errors are
asynchronous, so the first call waits for its result and fails where it stands.
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
        name: what it does, for the log.
        bucket: describes the arguments of a call in the log; None: their shapes.
    """

    def __init__(
        self, name: str, function: Callable[..., Any], log: CompileLog, bucket: Callable[..., str] | None = None
    ) -> None:
        self.name, self.log, self.bucket = name, log, bucket
        self.function = ms.jit(function)
        self.seen: set[tuple[Shape, ...]] = set()
        self.keys: set[str] = set()  # MindSpore's, of what it compiled

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
        """Free what is compiled: MindSpore holds it for the whole process otherwise. The next call compiles again."""
        free_compiled(self.keys)
        self.keys.clear()
        self.seen.clear()


def compiled_keys() -> set[str]:
    """MindSpore's own record of what is compiled, empty in a version that keeps it elsewhere."""
    try:
        from mindspore.graph.api import ms_compile_cache
    except ImportError:
        return set()
    found: set[str] = ms_compile_cache
    return found


def free_compiled(keys: set[str]) -> None:
    """Give back what is compiled under these keys; there is no public way (MindSpore 2.10)."""
    if keys:
        from mindspore._c_expression import JitExecutor_

        JitExecutor_.get_instance().del_net_res(None, keys)
        compiled_keys().difference_update(keys)


def empty(parameter: Parameter) -> None:
    """Free a parameter's numbers: the compiler goes on holding the parameter after what it compiled is gone."""
    parameter.set_data(Tensor([0.0], parameter.dtype), slice_shape=True)


def wait(result: Any) -> None:
    """Until the tensors of a result are computed; an error of the computation is raised here."""
    if isinstance(result, Tensor):
        result.asnumpy()
    elif isinstance(result, (tuple, list)):
        for part in result:
            wait(part)


def overwrite(parameter: Parameter, values: Tensor) -> None:
    """Give a parameter other values where it lies.

    After ``Parameter.set_data`` compiled functions go on reading and writing the storage that it had before.
    """
    ops.assign(parameter, values.astype(parameter.dtype))
