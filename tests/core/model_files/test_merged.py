"""A run, a checkpoint and a LoRA adapter stand for a model folder; a head beside an adapter goes with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mindrlhf_grpo.errors import UserError
from mindrlhf_grpo.model_files.checkpoint_folders import find_checkpoint, policy_folder, steps
from mindrlhf_grpo.model_files.folder import find_folder, loadable, read_headers
from mindrlhf_grpo.model_files.lora import merge_adapter
from mindrlhf_grpo.model_files.value_head import load_value_head
from mindrlhf_grpo.run import checkpoint
from mindrlhf_grpo.tokenizers.tokenizer_files import find_tokenizer
from tests.support.tiny_run import HIDDEN, LAYERS, tensors, write_model

SETTINGS = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "bias": "none", "target_modules": ["q_proj"]}


def random_model(folder: Path) -> Path:
    """A model folder with weights that are not all zero."""
    base, random = write_model(folder), np.random.default_rng(1)
    weights = {name: random.normal(size=zeros.shape).astype(np.float32) for name, zeros in tensors().items()}
    save_file(weights, base / "model.safetensors")
    return base


def write_adapter(folder: Path, base: Path, *, seed: int = 0, head: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """An adapter on every q_proj; returns the change that it makes to each weight."""
    folder.mkdir(parents=True, exist_ok=True)
    random, parts, change = np.random.default_rng(seed), {}, {}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}.self_attn.q_proj"
        a, b = (random.normal(size=shape).astype(np.float32) for shape in ((2, HIDDEN), (HIDDEN, 2)))
        parts |= {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
        change[f"{name}.weight"] = (b @ a) * np.float32(3.0)
    settings = {**SETTINGS, "base_model_name_or_path": str(base)}
    if head is not None:
        parts["base_model.model.score.weight"] = head
        settings |= {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
    save_file(parts, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return change


def write_lora_run(run: Path, base: Path, *, best: int | None = None) -> dict[str, np.ndarray]:
    """A run with two checkpoints of an adapter and the links beside them; returns the change of the newer one."""
    changes = []
    for step in (2, 4):
        checkpoint.save(
            run / "checkpoints",
            step,
            {"best_step": best},
            lambda folder, step=step: changes.append(write_adapter(folder / "policy", base, seed=step)),  # type: ignore[misc]
        )
    checkpoint.link(run / "checkpoints", "latest", 4)
    checkpoint.link(run / "checkpoints", "best", best)
    return changes[-1]


def test_an_adapter_stands_for_the_model_that_it_makes_of_its_base(tmp_path: Path) -> None:
    """Finding P2 (LoRA runs): every command refused a LoRA run until it was exported with --merge."""
    base, run = random_model(tmp_path / "base"), tmp_path / "run"
    change, before = write_lora_run(run, base), load_file(base / "model.safetensors")
    policy = run / "checkpoints" / "step_4" / "policy"
    for path in (run, run / "checkpoints", run / "checkpoints" / "latest", policy.parent, policy):
        found = find_folder(str(path))
        assert found.samefile(policy.with_name("policy.merged"))
    after = load_file(found / "model.safetensors")
    assert after.keys() == before.keys()
    for name, weight in before.items():
        np.testing.assert_array_equal(after[name], weight + change.get(name, np.float32(0)))
    assert loadable(str(run)) == str(policy.with_name("policy.merged"))
    assert loadable("owner/name") == "owner/name"
    assert find_tokenizer(str(policy)).folder == policy.with_name("policy.merged")  # the adapter has none of its own
    checkpoint.verify(policy.parent)  # the merged model is no part of the checkpoint


def test_a_merged_model_is_made_once_and_again_for_another_adapter(tmp_path: Path) -> None:
    base, adapter = random_model(tmp_path / "base"), tmp_path / "adapter"
    write_adapter(adapter, base)
    merged = find_folder(str(adapter))
    first = (merged / "model.safetensors").stat()
    assert find_folder(str(adapter)) == find_folder(str(merged)) == merged
    assert (merged / "model.safetensors").stat().st_ino == first.st_ino
    change = write_adapter(adapter, base, seed=7)
    name = "model.layers.0.self_attn.q_proj.weight"
    expected = load_file(base / "model.safetensors")[name] + change[name]
    np.testing.assert_array_equal(load_file(find_folder(str(adapter)) / "model.safetensors")[name], expected)
    for file in merged.iterdir():
        file.unlink()
    merged.rmdir()
    assert find_folder(str(merged)) == merged  # an adapter trained over it names this folder


def test_an_adapter_over_an_adapter_is_merged_over_both(tmp_path: Path) -> None:
    base = random_model(tmp_path / "base")
    first = write_adapter(tmp_path / "first", base)
    second = write_adapter(tmp_path / "second", tmp_path / "first", seed=1)
    name = "model.layers.1.self_attn.q_proj.weight"
    before, after = (
        load_file(base / "model.safetensors"),
        load_file(find_folder(str(tmp_path / "second")) / "model.safetensors"),
    )
    np.testing.assert_array_equal(after[name], before[name] + first[name] + second[name])


def test_an_adapter_whose_base_is_gone_is_named(tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter", tmp_path / "nowhere")
    with pytest.raises(
        UserError, match=r"the base model of the LoRA adapter '.*adapter': there is no folder '.*nowhere'"
    ):
        find_folder(str(tmp_path / "adapter"))


@pytest.mark.parametrize("base_has_head", [False, True])
def test_the_head_of_a_reward_model_is_merged_too(tmp_path: Path, base_has_head: bool) -> None:
    base, head = random_model(tmp_path / "base"), np.full((1, HIDDEN), 0.5, np.float32)
    if base_has_head:
        zeros = np.zeros((1, HIDDEN), np.float32)
        save_file({**load_file(base / "model.safetensors"), "score.weight": zeros}, base / "model.safetensors")
    write_adapter(tmp_path / "adapter", base, head=head)
    merged = find_folder(str(tmp_path / "adapter"))
    np.testing.assert_array_equal(load_value_head(merged, HIDDEN, seed=0).tensors["score.weight"], head)
    assert set(read_headers(merged)) == {*tensors(), "score.weight"}
    assert json.loads((merged / "config.json").read_text())["architectures"] == ["LlamaForSequenceClassification"]


def test_transformers_reads_the_merged_reward_model(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    base, head = random_model(tmp_path / "base"), np.full((1, HIDDEN), 0.5, np.float32)
    write_adapter(tmp_path / "adapter", base, head=head)
    (tmp_path / "out").mkdir()
    merge_adapter(tmp_path / "adapter", base, tmp_path / "out")
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert torch.equal(loaded.score.weight, torch.full((1, HIDDEN), 0.5))


def test_a_run_gives_its_latest_best_or_named_checkpoint(tmp_path: Path) -> None:
    base, run = random_model(tmp_path / "base"), tmp_path / "run"
    write_lora_run(run, base, best=2)
    folder = run / "checkpoints"
    assert steps(folder) == [2, 4]
    assert [find_checkpoint(run, which).name for which in ("latest", "best", "step_2", "4")] == [
        "step_4", "step_2", "step_2", "step_4"
    ]  # fmt: skip
    assert policy_folder(folder / "best").samefile(folder / "step_2" / "policy")
    with pytest.raises(UserError, match="has no checkpoint 'step_3'; accepted: latest, best, step_2, step_4"):
        find_checkpoint(run, "step_3")
    checkpoint.prune(folder, keep_last=1, protected=[])
    checkpoint.link(folder, "best", 2)
    assert not (folder / "best").exists()
    with pytest.raises(UserError, match=r"which checkpoint\.keep_best would have kept"):
        find_checkpoint(run, "best")
