"""MindRLHF (https://gitee.com/mindspore/mindrlhf) for its users: its files, its calls and its checkpoints.

``settings`` reads its configurations of 2024 and 2025, ``trainers`` offers the calls of its quick start,
``model_folders`` and ``conversion`` read its weights, ``data`` its rows, ``verifiers`` its rewards. All of them drive the
core; none has a training loop. docs/from_mindrlhf.md maps its terms to ours and lists the numbers that differ.
"""
