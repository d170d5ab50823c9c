"""The digest of weights: its bytes never change, it depends on names, shapes, types and every bit, not on the order."""

from __future__ import annotations

import numpy as np

from mindrlhf_grpo.model_files.fingerprint import fingerprint

ARRAYS = {
    "matrix": np.arange(15, dtype=np.float32).reshape(5, 3) / 7,
    "number": np.array(2.5, np.float32),
    "half": np.arange(6, dtype=np.float16).reshape(2, 3),
}


def test_saved_digests_keep_their_meaning() -> None:
    expected = "a076a8e3cd86e4d7393e742e8aacd527a2ede267bebab9bfd1150f255535dd02"
    assert fingerprint(ARRAYS.items()) == expected
    assert fingerprint(reversed(list(ARRAYS.items()))) == expected


def test_exchanged_rows_a_changed_bit_another_name_and_another_type_show() -> None:
    matrix = ARRAYS["matrix"]
    changed = matrix.copy()
    changed.view(np.uint32)[3, 1] ^= 1
    variants = [("w", matrix), ("w", matrix[::-1]), ("w", changed), ("v", matrix), ("w", matrix.view(np.int32))]
    assert len({fingerprint([named]) for named in variants}) == len(variants)
