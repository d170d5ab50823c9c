"""Use of a model outside training: the configuration, prompts and completions of ``generate`` and ``evaluate``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ..backend import load_backend
from ..config.file import Draft
from ..config.offline import OfflineConfig
from ..config.rendering import RenderingConfig
from ..config.run import DataConfig, ModelConfig, RewardConfig, RolloutConfig, RunConfig
from ..config.vision import ImagesConfig
from ..data.image_prompts import ImagePrompts
from ..data.images import absolute_path, image_list
from ..data.prompts import encode_row
from ..data.sources import BadRow, read_rows, source_folder
from ..errors import ConfigError, DataError
from ..model_files.checkpoint_folders import LATEST, PREFIX
from ..model_files.folder import find_folder, read_model_config
from ..run.export import find_policy
from ..tokenizers.tokenizer import Tokenizer, load_tokenizer
from ..trainers.preflight import check, check_device
from ..trainers.session import leaving
from ..types import FinishReason, Prompt, RolloutGroup, Sampling

UNUSED = "none"  # generation needs neither data nor rewards, which a run configuration must name
IMAGES = ImagesConfig()  # names the column of images in rows to generate from
LONGEST = 1 << 20  # tokens of a prompt; the model's own limit is reached first


def resolve_model(path: str, checkpoint: str = LATEST) -> str:
    """Return the model folder of a run, a checkpoint, an adapter (over its base), a model folder, or a hub id.

    Args:
        checkpoint: which of a run's: ``latest``, ``best``, ``step_N``.
    """
    named = Path(path).expanduser()
    if not named.is_dir() and checkpoint == LATEST:
        find_folder(path)
        return path
    return str(find_folder(str(find_policy(named, checkpoint))))


def model_settings(path: str, *, checkpoint: str = LATEST, dtype: str = "auto", device: str = "auto") -> ModelConfig:
    """Return the model section for a run, checkpoint, folder or hub id; dtype ``auto`` is the type of the stored weights.

    Raises:
        ConfigError: the dtype or device is not accepted, or the model does not exist.
    """
    if dtype not in ("auto", "float32", "bfloat16"):
        raise ConfigError(f"--dtype {dtype} is not accepted; it takes auto, float32 or bfloat16")
    check_device(device)
    folder = resolve_model(path, checkpoint)
    return ModelConfig(path=folder, dtype=stored_dtype(folder) if dtype == "auto" else dtype, device=device)  # type: ignore[arg-type]


def evaluation_config(
    arguments: Sequence[str],
    *,
    model: str | None,
    source: str | None,
    rewards: Sequence[str],
    max_tokens: int | None = None,
    checkpoint: str = LATEST,
) -> RunConfig | OfflineConfig:
    """Build the configuration of an evaluation from a file and overrides, then the options.

    A configuration with an objective keeps its model, which is the reference; its held-out rows are the source.

    Raises:
        ConfigError: something is missing or wrong, here or on this machine.
    """
    files = [text for text in arguments if "=" not in text]
    if not files and not source and not any(text.startswith(("data.source=", "eval.source=")) for text in arguments):
        raise ConfigError(
            "there are no problems to evaluate on: give --source FILE, with --model and --reward, or a configuration that names them"
        )
    if len(files) > 1:
        raise ConfigError(f"one configuration file at most; got {', '.join(files)}")
    draft = Draft.from_file(Path(files[0])) if files else Draft({})
    draft.with_overrides([text for text in arguments if "=" in text])
    if draft.offline:
        if source:
            draft.put(("eval", "source"), source, "--source")
        offline = draft.validated()
        check(offline, draft)
        return offline
    if model is not None:
        folder = resolve_model(model, checkpoint)
        draft.put(("model", "path"), folder, "--model")
        if not files:
            draft.put(("model", "dtype"), stored_dtype(folder), "--model")
    held_out = draft.values.get("eval")
    chosen = source or (held_out.get("source") if isinstance(held_out, dict) else None)
    if chosen:
        draft.put(("data", "source"), chosen, "--source" if source else "eval.source")
    if rewards:
        draft.put(("rewards",), [{"function": name} for name in rewards], "--reward")
    if max_tokens is not None:  # the check asks whether prompts have room beside a completion
        draft.put(("rollout", "max_tokens"), max_tokens, "--max-tokens")
    config = draft.validated()
    check(config, draft)
    return config


def resolve_checkpoint(path: str | None, checkpoint: str = LATEST) -> Path | None:
    """Return the checkpoint of a run, or of a folder ``step_N`` or its policy; None for None.

    Raises:
        ConfigError: the path is neither.
    """
    if path is None:
        return None
    folder = find_policy(Path(path).expanduser(), checkpoint).resolve().parent
    if not folder.name.startswith(PREFIX):
        raise ConfigError(
            f"--model {path} is neither a run nor a checkpoint; a configuration with an objective evaluates only these"
        )
    return folder


def stored_dtype(path: str) -> Literal["float32", "bfloat16"]:
    """Return the type to compute in: bfloat16 where the weights are stored in 16 bits."""
    config = read_model_config(find_folder(path))
    return "bfloat16" if config.get("dtype", config.get("torch_dtype")) in ("bfloat16", "float16") else "float32"


def read_prompts(texts: Sequence[str], file: str | None) -> list[dict[str, Any]]:
    """Read rows to generate from: texts, then the lines of a .txt file or of standard input (-), or a data source's rows.

    Raises:
        DataError: there is no prompt, the file cannot be read, or a row is bad.
    """
    rows: list[dict[str, Any]] = [{"prompt": text} for text in texts]
    if file is not None and (file == "-" or file.endswith(".txt")):
        try:
            lines = (sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file} cannot be read: {error}") from None
        rows += [{"prompt": line} for line in lines if line.strip()]
    elif file is not None:
        source = read_rows(file)
        for index in range(len(source)):
            row = source[index]
            if isinstance(row, BadRow):
                raise DataError(str(row))
            if row.get(IMAGES.column):
                row = {
                    **row,
                    IMAGES.column: [
                        absolute_path(image, source_folder(file)) for image in image_list(row[IMAGES.column])
                    ],
                }
            rows.append(row)
    if not rows:
        raise DataError(
            "no prompt: give texts, or a file (.txt with one per line, .jsonl, .parquet, - for standard input)"
        )
    return rows


def parse_template_kwargs(text: str | None) -> dict[str, Any]:
    """Read ``--template-kwargs``; raises ConfigError unless it is a JSON object."""
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--template-kwargs {text!r} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f'--template-kwargs {text!r} is no JSON object, such as {{"enable_thinking": false}}')
    return value


def encode_prompts(rows: Sequence[Mapping[str, Any]], data: DataConfig, tokenizer: Tokenizer) -> list[Prompt]:
    """Encode rows as prompts, numbered in order, with their images where a row has any."""
    with_images = None
    if any(row.get(IMAGES.column) for row in rows):
        with_images = ImagePrompts(data, IMAGES, tokenizer, Path())
    prompts = []
    for number, row in enumerate(rows):
        try:
            encoded = encode_row(row, data, tokenizer) if with_images is None else with_images.encode(row)
        except DataError as error:
            raise DataError(f"prompt {number + 1}: {error}") from None
        prompts.append(
            Prompt(
                uid=number, row=number, ids=encoded.ids, text=encoded.text, columns=encoded.columns,
                features=encoded.features,
            )
        )  # fmt: skip
    return prompts


def generate(
    model: ModelConfig,
    rows: Sequence[Mapping[str, Any]],
    sampling: Sampling,
    *,
    samples: int = 1,
    backend: str = "torch",
    system_prompt: str | None = None,
    chat_template: str = "auto",
    template_kwargs: Mapping[str, Any] | None = None,
) -> list[RolloutGroup]:
    """Generate ``samples`` completions for each row, in order.

    ``template_kwargs`` are names that the chat template reads; a row's column ``chat_template_kwargs`` goes before.

    Raises:
        UserError: the model, a row or the backend cannot be used.
    """
    data = DataConfig(
        source=UNUSED, system_prompt=system_prompt, chat_template=chat_template, max_prompt_tokens=LONGEST,
        rendering=RenderingConfig(chat_template_kwargs=dict(template_kwargs or {})),
    )  # fmt: skip
    tokenizer = load_tokenizer(model.path, chat_template=chat_template, trust_remote_code=model.trust_remote_code)
    prompts = encode_prompts(rows, data, tokenizer)
    longest = max(len(prompt.ids) for prompt in prompts)
    check_context(model.path, longest + sampling.max_tokens)
    config = RunConfig(
        backend=backend,
        seed=sampling.seed,
        model=model,
        data=data.model_copy(update={"max_prompt_tokens": longest}),
        rewards=[RewardConfig(function=UNUSED)],
        rollout=RolloutConfig(max_tokens=sampling.max_tokens, slots=min(64, len(prompts) * samples)),
    )
    built = load_backend(config)
    with leaving(built.comm):
        return built.load_engine(None, tokenizer).generate(prompts, sampling, group_size=samples)


def greedy_answers(
    model: str, rows: Sequence[Mapping[str, Any]], *, max_tokens: int, backend: str = "torch", device: str = "auto"
) -> list[str]:
    """Return the text of the greedy completion of each row, in order; raises UserError as ``generate`` does."""
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0)
    groups = generate(model_settings(model, device=device), rows, sampling, backend=backend)
    return [group.rollouts[0].text for group in groups]


def as_json(group: RolloutGroup) -> dict[str, Any]:
    """Return a prompt with its completions as plain values."""
    completions = [{"text": r.text, "finish": r.finish.value, "tokens": len(r.ids)} for r in group.rollouts]
    return {"prompt": group.prompt.text, "completions": completions}


def show_completions(group: RolloutGroup, *, with_prompt: bool) -> None:
    """Print completions to stdout and notes about them to stderr."""
    if with_prompt:
        print(f"> {group.prompt.text}")
    for rollout in group.rollouts:
        print(rollout.text, flush=True)
        if rollout.finish is FinishReason.LENGTH:
            print(f"[cut at {len(rollout.ids)} tokens]", file=sys.stderr)


def check_context(path: str, tokens: int) -> None:
    """Raise ConfigError if a sequence exceeds the model's number of positions."""
    limit = read_model_config(find_folder(path)).get("max_position_embeddings")
    if isinstance(limit, int) and tokens > limit:
        raise ConfigError(f"prompt and completion take up to {tokens} tokens; {path} knows {limit} positions")
