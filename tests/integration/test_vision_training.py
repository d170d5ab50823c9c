"""GRPO on rows with and without images, from a file to a checkpoint that transformers loads."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from mindrlhf_grpo.config.run import RunConfig
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.run.checkpoint import verify
from mindrlhf_grpo.run.export import export
from mindrlhf_grpo.trainers.online import train
from mindrlhf_grpo.trainers.preflight import check, problems_of
from mindrlhf_grpo.types import Sampling
from tests.support import tiny
from tests.support.tiny_vision import FAMILIES, TOWER, prepare, settings

pytestmark = pytest.mark.trains


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp(family), family)


def run(folder: Path, family: str, name: str, **sections: Any) -> Path:
    """The folder of a finished run."""
    config = RunConfig.model_validate(settings(folder, family, run_dir=folder / name, **sections))
    check(config)
    train(config)
    return folder / name


@pytest.fixture(scope="module")
def free(folder: Path, family: str) -> Path:
    return run(folder, family, "free")


def moved(folder: Path, family: str, finished: Path, step: int = 2) -> tuple[set[str], set[str]]:
    """Names of the tower's weights that differ from the model the run began with, and of the others."""
    before = load_file(folder / family / "model.safetensors")
    after = tiny.weights(finished, step)
    assert set(before) == set(after)
    changed = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    tower = {name for name in changed if name.startswith(("visual.", "vision_tower.", "multi_modal_projector."))}
    return tower, changed - tower


@pytest.mark.row("safework", "Multimodal")
def test_two_steps_on_images_and_text_train_all_weights(folder: Path, family: str, free: Path) -> None:
    tower, others = moved(folder, family, free)
    assert tower
    assert others
    steps = tiny.metrics(free)
    assert [step["step"] for step in steps] == [1, 2]
    assert all(step["prompts"] == 6 for step in steps)
    assert all(abs(step["ratio/mean"] - 1) < 1e-4 for step in steps)
    shown = {row["prompt"] for row in tiny.rollouts(free, 1).values()}
    assert shown == {"<image>which?", "blue?", "<image><image>which of two?", "red?"}


@pytest.mark.row("safework", "Multimodal")
def test_a_frozen_vision_tower_is_bit_identical_after_training(folder: Path, family: str) -> None:
    finished = run(folder, family, "frozen", model={"freeze": {"prefixes": TOWER[family]}})
    tower, others = moved(folder, family, finished)
    assert tower == set()
    assert others
    state = load_file(finished / "checkpoints" / "step_2" / "optimizer" / "optimizer.safetensors")
    assert not [name for name in state if "visual" in name or "vision_tower" in name or "projector" in name]


def test_the_checkpoint_is_a_folder_that_transformers_loads(folder: Path, family: str, free: Path) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

    verify(free / "checkpoints" / "step_2")
    out = folder / "exported"
    assert export(free, out)["kind"] == "model"
    model = AutoModelForImageTextToText.from_pretrained(out)
    assert model.config.model_type == family
    read, own = (AutoImageProcessor.from_pretrained(path, backend="pil") for path in (out, folder / family))
    assert read.to_dict() == own.to_dict()
    assert (
        AutoTokenizer.from_pretrained(out).chat_template == AutoTokenizer.from_pretrained(folder / family).chat_template
    )


def test_a_trained_model_is_asked_about_images_from_a_file(folder: Path, family: str, free: Path) -> None:
    from mindrlhf_grpo.cli.generate import generate, model_settings, read_prompts

    rows = read_prompts([], str(folder / "rows.jsonl"))
    groups = generate(model_settings(str(free), device="cpu"), rows, Sampling(max_tokens=2, temperature=0.0))
    assert [group.prompt.text for group in groups][:3] == ["<image>which?", "blue?", "<image>which?"]
    blind = [{**row, "images": []} for row in rows[:1]]
    (without,) = generate(model_settings(str(free), device="cpu"), blind, Sampling(max_tokens=2, temperature=0.0))
    assert not np.allclose(without.rollouts[0].logps[:1], groups[0].rollouts[0].logps[:1])


def test_a_resumed_run_ends_in_the_same_weights(folder: Path, family: str, free: Path) -> None:
    if family == "internvl":
        pytest.skip("the same code")
    run(folder, family, "resumed", train={"steps": 1})
    finished = run(folder, family, "resumed")
    whole, parts = tiny.weights(free, 2), tiny.weights(finished, 2)
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)


def test_merged_adapters_give_the_log_probs_of_the_adapted_model(folder: Path, family: str) -> None:
    torch = pytest.importorskip("torch")
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    finished = run(folder, family, "adapted", model={"lora_rank": 2}, train={"learning_rate": 0.1})
    export(finished, folder / "merged", merge=True)
    merged = AutoModelForImageTextToText.from_pretrained(folder / "merged").eval()
    base = AutoModelForImageTextToText.from_pretrained(folder / family).eval()
    ids = torch.tensor([[30, 15, 16, 10, 15, 34]])
    plain = base(input_ids=ids).logits
    adapted = PeftModel.from_pretrained(base, finished / "checkpoints" / "step_2" / "policy").eval()
    torch.testing.assert_close(merged(input_ids=ids).logits, adapted(input_ids=ids).logits, atol=1e-4, rtol=1e-4)
    assert (merged(input_ids=ids).logits - plain).abs().max() > 0.01
    assert (folder / "merged" / "preprocessor_config.json").is_file()


def test_mindspore_refuses_the_family_before_weights_are_read(folder: Path, family: str) -> None:
    if find_spec("mindspore") is None:  # it is not imported for this
        pytest.skip("MindSpore is not installed")
    (problem,) = problems_of(RunConfig.model_validate(settings(folder, family, backend="mindspore")))
    assert f"the mindspore backend has no model family '{family}'" in problem[1]


def test_images_with_a_model_that_reads_text_only_are_one_problem(folder: Path, family: str, tmp_path: Path) -> None:
    tiny.write_model(tmp_path / "text")
    config = settings(
        folder, family, model={"path": str(tmp_path / "text")}, eval={"source": str(folder / "rows.jsonl")}
    )
    with pytest.raises(ConfigError, match=r"^data.images needs a model that reads images; [^\n]*$"):
        check(RunConfig.model_validate(config))


def test_models_that_would_read_an_images_tokens_as_text_are_refused(folder: Path, family: str) -> None:
    reads_ids = [{"function": f"model:{folder / family}", "arguments": {"tokens": "same"}}]
    found = problems_of(RunConfig.model_validate(settings(folder, family, rewards=reads_ids)))
    assert any("tokens: same gives the reward model the tokens of images" in text for _, text in found)
    ppo = settings(folder, family, algorithm={"name": "ppo"}, critic={})
    assert any("critic reads text only" in text for _, text in problems_of(RunConfig.model_validate(ppo)))


@pytest.mark.slow
def test_shards_of_ranks_with_and_without_images_end_in_one_processs_weights(folder: Path, family: str) -> None:
    if family == "internvl":
        pytest.skip("the same code")
    train_section = {"steps": 2, "prompts_per_step": 2, "learning_rate": 1e-3}
    ends = []
    for name, processes, sections in (("alone", 1, {}), ("shared", 2, {"parallel": {"strategy": "fsdp"}})):
        config = settings(folder, family, run_dir=str(folder / name), train=train_section, **sections)
        config |= {"backend": "torch"}
        config["data"]["shuffle"] = False  # a prompt with an image on the first rank, text on the second
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config))
        tiny.train(path, processes=processes)
        ends.append(tiny.weights(folder / name, 2))
    for name, weight in ends[0].items():
        np.testing.assert_allclose(ends[1][name], weight, atol=1e-5, err_msg=name)
