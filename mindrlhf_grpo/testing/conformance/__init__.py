"""The suite that every backend must pass, against a Llama in NumPy and float64.

In the tests of your own backend::

    import pytest
    from mindrlhf_grpo.testing.conformance import CHECKS, BackendUnderTest, left_out

    @pytest.fixture(scope="module")
    def backend(tmp_path_factory):
        return BackendUnderTest("my_backend", tmp_path_factory.mktemp("model"))

    @pytest.mark.parametrize("name", [name for name in CHECKS if name not in left_out("my_backend")])
    def test_conformance(backend, name):
        CHECKS[name](backend)

or ``mindrlhf-grpo parity conform --backend my_backend``. A check raises :class:`Deviates` with the quantity, the place
and the difference. Checks may run in any order and alone. A check of a capability that the backend lists in
``UNSUPPORTED`` is left out, and the reason printed.
"""

from __future__ import annotations

from collections.abc import Callable

from ...backend import Capability, backend_module
from . import generation as checks_of_generation
from . import lora as checks_of_lora
from . import training as checks_of_training
from .backend_under_test import BackendUnderTest
from .comparisons import Deviates

__all__ = ["CHECKS", "NEEDS", "BackendUnderTest", "Deviates", "left_out"]

CHECKS: dict[str, Callable[[BackendUnderTest], None]] = {
    check.__name__: check
    for check in (*checks_of_training.CHECKS, *checks_of_generation.CHECKS, *checks_of_lora.CHECKS)
}

NEEDS: dict[str, Capability] = {
    **{check.__name__: "lora" for check in checks_of_lora.CHECKS},
    "tokens_of_an_environment_are_context_only": "conversations",
}
"""Check -> the capability it is about; the other checks are for every backend."""


def left_out(backend: str) -> dict[str, str]:
    """Checks that a backend does not claim to pass -> the capability it lacks, and the reason."""
    unsupported = backend_module(backend).UNSUPPORTED
    return {name: f"{need}: {unsupported[need]}" for name, need in NEEDS.items() if need in unsupported}
