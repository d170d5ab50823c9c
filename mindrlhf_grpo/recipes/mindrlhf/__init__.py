"""MindRLHF (https://gitee.com/mindspore/mindrlhf), for those who ran it: its files, its calls and its checkpoints.

``settings`` reads its configurations of 2024 and 2025, ``trainers`` has the calls of its quick start, ``models`` and
``names.yaml`` its weights, ``data`` its rows, ``verifiers`` its rewards. Each drives the core; none has a loop of its own.
docs/from_mindrlhf.md says what maps to what, and which numbers differ.
"""
