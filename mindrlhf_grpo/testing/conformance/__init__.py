"""The suite that every backend must pass, against a Llama in NumPy and float64.

In the tests of a backend of one's own::

    import pytest
    from mindrlhf_grpo.testing.conformance import CHECKS, BackendUnderTest

    @pytest.fixture(scope="module")
    def backend(tmp_path_factory):
        return BackendUnderTest("my_backend", tmp_path_factory.mktemp("model"))

    @pytest.mark.parametrize("name", CHECKS)
    def test_conformance(backend, name):
        CHECKS[name](backend)

or ``mindrlhf-grpo parity conform --backend my_backend``. A check raises :class:`Deviates` and says what, where and by
how much. Checks may run in any order and alone.
"""

from __future__ import annotations

from collections.abc import Callable

from . import generation as checks_of_generation
from . import lora as checks_of_lora
from . import training as checks_of_training
from .backend_under_test import BackendUnderTest
from .comparisons import Deviates

__all__ = ["CHECKS", "BackendUnderTest", "Deviates"]

CHECKS: dict[str, Callable[[BackendUnderTest], None]] = {
    check.__name__: check
    for check in (*checks_of_training.CHECKS, *checks_of_generation.CHECKS, *checks_of_lora.CHECKS)
}
