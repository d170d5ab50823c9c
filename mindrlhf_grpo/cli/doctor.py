"""The checks of ``doctor``: installed versions, usable backends, and whether a configuration will run and fit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..capacity.machine import BackendState, backend_states, host_memory, processors, versions
from ..capacity.memory import peak
from ..capacity.model_shape import ModelShape, model_shape
from ..capacity.prediction import fewest_slices, largest_scorer, layout_of, predict
from ..config.file import AnyConfig, read_config
from ..config.run import RunConfig
from ..data.row_check import Survey
from ..errors import UserError
from ..model_files.families import nearest_architecture
from ..model_files.folder import embedding_rows, find_folder, read_model_config, read_shapes
from ..rewards.references import score_references
from ..trainers.preflight import check, open_tokenizer, surveys_of
from .doctor_checks import disk_findings, foreign_code, too_little_disk
from .shown_rows import as_lines, shown_rows

GIB = 2**30
MULTIPLE = 64  # of tokens, to which a proposed limit is rounded up


def examine(path: Path | None, overrides: Sequence[str], *, show: int = 0) -> dict[str, Any]:
    """Return the findings of ``doctor`` as plain values; ``ok`` is true if the configuration (or any backend) can run.

    Args:
        show: rows that are shown as the run will see them.
    """
    available, total = host_memory()
    backends = backend_states()
    findings: dict[str, Any] = {
        "versions": versions(),
        "machine": {"cores": processors(), "memory_available": available, "memory_total": total},
        "backends": [asdict(backend) for backend in backends],
        "warnings": [backend.warning for backend in backends if backend.warning],
        "problems": [],
    }
    if path is None:
        if not any(backend.usable for backend in backends):
            findings["problems"].append("no backend can be used")
    else:
        _examine_config(findings, path, overrides, backends, show)
    findings["ok"] = not findings["problems"]
    return findings


def _examine_config(
    findings: dict[str, Any], path: Path, overrides: Sequence[str], backends: Sequence[BackendState], show: int
) -> None:
    problems: list[str] = findings["problems"]
    try:
        config, draft = read_config(path, overrides)
    except UserError as error:
        problems.append(str(error))
        return
    seen: Survey | None = None
    try:
        check(config, draft)
        seen = _examine_rows(findings, config, show)
    except UserError as error:
        problems.append(str(error))
    for key, text in foreign_code(config):
        problems.append(f"{draft.place(tuple(key.split('.')))}: {text}")
    device, problem = select_device(config, backends)
    if problem and "model.device: " not in "".join(problems):
        problems.append(f"{draft.place(('model', 'device'))}: {problem}")
    if config.model.dtype not in device.get("dtypes", [config.model.dtype]) and "model.dtype: " not in "".join(
        problems
    ):
        problem = f"model.dtype: {config.backend} does not compute {config.model.dtype} on {device['device']}"
        problems.append(f"{draft.place(('model', 'dtype'))}: {problem}; accepted: {', '.join(device['dtypes'])}")
    try:
        prediction = predict_memory(config, device, findings["machine"]["memory_available"])
        findings["disk"] = disk_findings(config, shape_of(config))
    except (UserError, OSError) as error:
        if str(error) not in "".join(problems):
            findings["warnings"].append(f"memory is not predicted: {error}")
        return
    findings["memory"] = prediction
    if seen is not None:
        available = findings["machine"]["memory_available"]
        prediction["longest"] = with_longest(config, seen, lambda other: predict_memory(other, device, available))
    if problem := too_little_disk(findings["disk"], config.run_dir):
        problems.append(f"{draft.place(('run_dir',))}: {problem}")
    if prediction["peak"] > prediction["available"]:
        problems.append(_too_large(prediction))
    if config.model.dtype == "bfloat16" and device.get("bfloat16") is False and "dtypes" not in device:
        findings["warnings"].append(f"{device['device']} computes bfloat16 slowly: it has no instructions for it")


def _examine_rows(findings: dict[str, Any], config: AnyConfig, show: int) -> Survey:
    """Describe the rows, which have been checked, and the tokens that they become; returns the check of those to train on."""
    tokenizer, surveys = open_tokenizer(config), surveys_of(config)
    findings["prompts"] = describe_prompts(config)
    findings["data"] = [str(survey) for survey in surveys]
    embedded = embedding_rows(find_folder(config.model.path))
    if embedded is not None and tokenizer.vocab_size > embedded:
        findings["warnings"].append(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model embeddings for {embedded}; the data has none of "
            "the others"
        )
    references = score_references(config, tokenizer) if isinstance(config, RunConfig) else []
    if references:
        findings["references"] = [scores.text for scores in references]
    if show:
        findings["rows"] = shown_rows(config, show, references)
    return surveys[0]


def describe_prompts(config: AnyConfig) -> str:
    """Describe how prompts become tokens: by a chat template, or as plain text with or without BOS."""
    tokenizer = open_tokenizer(config)
    if tokenizer.has_chat_template and config.data.chat_template != "none":
        return "in the chat template, which writes its own BOS if it has one"
    if not tokenizer.prefix_ids:
        return "plain text; the tokenizer puts no BOS before it"
    marks = " ".join(tokenizer.piece(token) for token in tokenizer.prefix_ids)
    if config.data.rendered.bos == "never":
        return f"plain text without the tokenizer's BOS {marks} (data.rendering.bos: never)"
    return f"plain text after the tokenizer's BOS {marks} (data.rendering.bos: never leaves it out)"


def select_device(config: AnyConfig, backends: Sequence[BackendState]) -> tuple[dict[str, Any], str]:
    """Return the device a run would compute on, and the problem with the one it names (empty if none)."""
    state = next((backend for backend in backends if backend.name == config.backend), None)
    devices = state.devices if state is not None else []
    if not devices:
        return {"device": "cpu"}, ""
    requested = config.model.device
    kinds = [str(device["device"]).split(":")[0] for device in devices]
    if requested == "auto":
        return devices[0], ""
    if requested in kinds:
        return devices[kinds.index(requested)], ""
    reason = state.absent.get(requested, "") if state is not None else ""
    present = ", ".join(dict.fromkeys(kinds))
    return devices[-1], f"model.device: {requested!r} is not here; found: {present}{f'. {reason}' if reason else ''}"


def predict_memory(config: AnyConfig, device: Mapping[str, Any], host_available: int) -> dict[str, Any]:
    """Predict the bytes of each phase and of its parts on a device, beside the memory that is free there.

    Raises:
        UserError: the model does not exist, a file is broken, or config.json lacks a size.
    """
    shape = shape_of(config)
    on_host = device["device"] == "cpu"
    ranks = int(os.environ.get("WORLD_SIZE", fewest_slices(config)))
    scorer, _ = largest_scorer(config, count_weights)
    prediction = predict(config, shape, layout_of(config, ranks), "host" if on_host else "accelerator", scorer=scorer)
    return {
        "device": device["device"],
        "available": host_available if on_host else int(device["free"]),
        "parameters": shape.parameters,
        "phases": prediction.phases,
        "peak": prediction.peak,
        "peak_phase": prediction.phase,
    }


def shape_of(config: AnyConfig) -> ModelShape:
    """The sizes of the policy, from the headers of its files; raises as :func:`predict_memory`."""
    folder = find_folder(config.model.path)
    shapes = read_shapes(folder)
    if not shapes:
        raise FileNotFoundError(f"{folder} has no safetensors files here; download the weights first")
    frozen = config.model.freeze.prefixes if config.model.freeze else ()
    return model_shape(nearest_architecture(read_model_config(folder)), shapes, frozen)


def count_weights(path: str) -> int:
    """Count the weights of a model folder from the headers of its files."""
    folder = find_folder(path)
    return model_shape(nearest_architecture(read_model_config(folder)), read_shapes(folder)).parameters


def with_longest(
    config: AnyConfig, survey: Survey, predict: Callable[[AnyConfig], Mapping[str, Any]]
) -> dict[str, Any] | None:
    """The peak with the limit that the rows need; None where the configured limit is not larger.

    Returns:
        ``tokens`` of the longest row, how many were ``checked`` of how many ``rows``, the ``setting`` that fits it, and
        its ``peak`` in bytes.
    """
    name = "max_prompt_tokens" if isinstance(config, RunConfig) else "max_tokens"
    needed = -(-survey.longest // MULTIPLE) * MULTIPLE
    if needed >= getattr(config.data, name):
        return None
    smaller = config.model_copy(update={"data": config.data.model_copy(update={name: needed})})
    return {
        "tokens": survey.longest, "checked": survey.checked, "rows": survey.rows, "setting": f"data.{name}={needed}",
        "peak": predict(smaller)["peak"],
    }  # fmt: skip


def _too_large(prediction: Mapping[str, Any]) -> str:
    phase = prediction["peak_phase"]
    parts = prediction["phases"][phase]
    largest = max(parts, key=lambda part: parts[part])
    remedies = {
        "activations": "lower train.tokens_per_micro_batch, or set model.recompute=true",
        "KV cache": "lower rollout.slots, rollout.max_tokens or data.max_prompt_tokens",
        "optimizer": "set model.lora_rank, or take a smaller model",
        "reference": "set algorithm.kl_coef=0, or model.lora_rank",
    }
    return (
        f"phase {phase} needs about {prediction['peak'] / GIB:.1f} GiB on {prediction['device']}, "
        f"{prediction['available'] / GIB:.1f} GiB are free; the largest part is {largest} "
        f"({parts[largest] / GIB:.1f} GiB): {remedies.get(largest, 'set model.dtype=bfloat16, or take a smaller model')}"
        f"{_with_longest(prediction)}"
    )


def _with_longest(prediction: Mapping[str, Any]) -> str:
    """What the peak would be with the limit that the rows need, as the end of a sentence."""
    longest = prediction.get("longest")
    return f"; {longest['setting']} would be {longest['peak'] / GIB:.1f} GiB" if longest else ""


# ---- as text


def as_text(findings: Mapping[str, Any]) -> str:
    """Format the findings for people."""
    return "\n".join(_lines(findings))


def _lines(findings: Mapping[str, Any]) -> Iterator[str]:
    yield "Versions"
    for name, version in findings["versions"].items():
        yield f"  {name:<16}{version or '-'}"
    machine = findings["machine"]
    free, total = machine["memory_available"] / GIB, machine["memory_total"] / GIB
    yield "Machine"
    yield f"  {machine['cores']} cores, {free:.1f} of {total:.1f} GiB memory free"
    yield "Backends"
    for backend in findings["backends"]:
        yield f"  {backend['name']:<12}{'ready' if backend['usable'] else 'no':<7}{backend['text']}"
        for device in backend["devices"]:
            yield f"  {'':<19}{_device(device)}"
        if backend["kernels"]:
            yield f"  {'':<19}kernels: {', '.join(f'{name} {kernel}' for name, kernel in backend['kernels'].items())}"
    if "prompts" in findings:
        yield f"Prompts\n  {findings['prompts']}"
    if "data" in findings:
        yield "\n  ".join(["Data", *findings["data"]])
    if findings.get("references"):
        yield "References of the data, scored by the rewards"
        yield from (f"  {line}" for line in findings["references"])
    if "rows" in findings:
        yield from as_lines(findings["rows"])
    if "memory" in findings:
        yield from _memory(findings["memory"])
    if "disk" in findings:
        disk = findings["disk"]
        yield (
            f"Checkpoints\n  {disk['checkpoint'] / GIB:.2f} GiB each, {disk['count']} at once; {disk['free'] / GIB:.1f} GiB "
            "free on the disk of run_dir"
        )
    for warning in findings["warnings"]:
        yield f"warning: {warning}"
    for problem in findings["problems"]:
        yield f"problem: {problem}"
    yield "Ready." if findings["ok"] else "Not ready."


def _device(device: Mapping[str, Any]) -> str:
    memory = f", {device['free'] / GIB:.1f} of {device['total'] / GIB:.1f} GiB free" if device.get("total") else ""
    return f"{device['device']}: {device['name']}{memory}{'' if device.get('bfloat16', True) else ', no bfloat16 instructions'}"


def _memory(memory: Mapping[str, Any]) -> Iterator[str]:
    available = memory["available"] / GIB
    yield (
        f"Predicted peak memory on {memory['device']}, per rank ({memory['parameters'] / 1e6:.0f} M parameters; "
        f"{available:.1f} GiB free)"
    )
    for phase, parts in memory["phases"].items():
        total = peak(parts)
        named = ", ".join(f"{part} {size / GIB:.2f}" for part, size in parts.items() if size >= GIB / 200)
        mark = "!" if total > memory["available"] else " "
        yield f" {mark}{phase:<12}{total / GIB:7.2f} GiB   {named}"
    longest = memory.get("longest")
    if longest:
        what = "row" if longest["setting"].startswith("data.max_tokens") else "prompt"
        among = "" if longest["checked"] == longest["rows"] else f" (of the first {longest['checked']:,} drawn)"
        yield (
            f"  longest {what} {longest['tokens']:,} tokens{among}: {longest['setting']} would be "
            f"{longest['peak'] / GIB:.2f} GiB"
        )
