"""The rules by which a policy's reference is moved, and the file that keeps a moved one."""

from __future__ import annotations

from ..errors import BackendError

FILE = "reference.safetensors"


def check_move(share: float, *, lora: bool) -> None:
    """Check that a reference can move to ``share`` * policy + (1 - share) * reference.

    Raises:
        BackendError: the policy has adapters.
        ValueError: a share outside (0, 1].
    """
    if lora:
        raise BackendError(
            "a reference cannot be moved with LoRA: it is the model without adapters; accepted: model.lora_rank=0"
        )
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, not {share}")
