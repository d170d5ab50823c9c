"""Value heads outside a backend: files, folders, and training on embeddings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mindrlhf_grpo.errors import ConfigError, DataError
from mindrlhf_grpo.model_files.folder import read_header, weight_files
from mindrlhf_grpo.model_files.safetensors import Stored, read_tensor, write_model, write_tensors
from mindrlhf_grpo.model_files.value_head import ValueHead, body_config, load_value_head
from mindrlhf_grpo.recipes.ups_rm.head_files import merge_head, named_head, read_head, write_head
from mindrlhf_grpo.recipes.ups_rm.head_training import HeadTraining, gradients, train_head
from mindrlhf_grpo.testing.numpy_model.tiny_llama import tiny_llama_config, write_tiny_llama
from tests.support.recipes.ups_rm_files import random_head

pytestmark = pytest.mark.trains

NAMED = named_head("myrm")


@pytest.fixture
def body(tmp_path: Path) -> Path:
    return write_tiny_llama(
        tmp_path / "body", tiny_llama_config(hidden=48, heads=4, head_size=12, end_tokens=[1]), seed=0
    )


def test_a_head_by_hand() -> None:
    tensors = {
        "score.0.weight": np.array([[1.0, -1.0], [0.5, 0.5]]), "score.0.bias": np.array([0.0, -3.0]),
        "score.2.weight": np.array([[2.0, 100.0]]), "score.2.bias": np.array([0.25]),
    }  # fmt: skip
    hidden = np.array([[3.0, 1.0]])  # 2 and -1, which leaks to -0.01
    leaky = ValueHead(tensors=tensors, activation="leaky_relu")
    assert leaky.apply(hidden).tolist() == [pytest.approx(2 * 2 + 100 * -0.01 + 0.25)]
    assert ValueHead(tensors=tensors).apply(hidden).tolist() == [4.25]
    assert ValueHead(tensors={"score.weight": np.array([[1.0, 2.0]])}).apply(hidden).tolist() == [5.0]


@pytest.mark.parametrize("widths", [(), (8,), (8, 4, 3)])
def test_a_merged_head_lies_in_a_file_of_its_own_and_is_read_back(
    body: Path, tmp_path: Path, widths: tuple[int, ...]
) -> None:
    head = random_head(widths)
    write_head(tmp_path / "head.safetensors", head, NAMED)
    names = {f"myscore.layers.{i}.{part}" for i in range(len(widths)) for part in ("weight", "bias")}
    assert set(read_header(tmp_path / "head.safetensors")) == names | {
        "myscore.output_layer.weight",
        "myscore.output_layer.bias",
    }
    out = tmp_path / "merged"
    merge_head(str(body), read_head(tmp_path / "head.safetensors", NAMED), "myrm", out, {"auto_map": {"x": "y"}})
    config = json.loads((out / "config.json").read_text())
    assert (config["model_type"], config["hidden_dim_str"]) == ("myrm", ",".join(map(str, widths)))
    assert [path.name for path in weight_files(out)] == ["body.safetensors", "myrm.safetensors"]
    index = json.loads((out / "model.safetensors.index.json").read_text())
    files = [
        json.loads(json.dumps(read_header(path), default=lambda info: info.end - info.start))
        for path in weight_files(out)
    ]
    assert index["metadata"]["total_size"] == sum(size for file in files for size in file.values())
    found = load_value_head(out, 48, seed=0)
    assert found.activation == "leaky_relu"
    assert all(np.array_equal(found.tensors[name], head.tensors[name]) for name in head.tensors)
    back = body_config(config)
    assert (back["model_type"], back["architectures"]) == ("llama", ["LlamaForSequenceClassification"])
    assert not {"auto_map", "hidden_dim_str"} & set(back)


def test_a_body_in_several_files_keeps_them_and_one_that_is_not_whole_is_refused(body: Path, tmp_path: Path) -> None:
    headers = read_header(body / "model.safetensors")
    plan = {name: Stored("BF16", info.shape) for name, info in headers.items()}
    values = ((name, read_tensor(body / "model.safetensors", info)) for name, info in headers.items())
    write_model(body, plan, values, shard_bytes=30_000)
    (body / "model.safetensors").unlink()
    merge_head(str(body), random_head(), "myrm", tmp_path / "merged", {})
    files = [path.name for path in weight_files(tmp_path / "merged")]
    assert files == [*(path.name for path in weight_files(body)), "myrm.safetensors"]
    assert len(files) > 2
    (body / files[0]).unlink()
    with pytest.raises(
        ConfigError, match=r"body/model-00001-of-00004\.safetensors is missing, but the index .* names it; download it"
    ):
        merge_head(str(body), random_head(), "myrm", tmp_path / "other", {})


def test_a_body_of_the_hub_whose_weights_are_not_in_the_cache_is_refused(
    body: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program may have fetched its config.json alone."""
    snapshot = tmp_path / "hub/models--owner--body/snapshots/0123"
    snapshot.mkdir(parents=True)
    (body / "config.json").rename(snapshot / "config.json")
    (tmp_path / "hub/models--owner--body/refs").mkdir()
    (tmp_path / "hub/models--owner--body/refs/main").write_text("0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ConfigError, match=r"0123 lacks weights \(\*\.safetensors\); fetch the whole model first"):
        merge_head("owner/body", random_head(), "myrm", tmp_path / "other", {})


def test_names_of_a_head_file_may_lack_the_heads_own(tmp_path: Path) -> None:
    head = random_head((8,))
    write_head(tmp_path / "head.safetensors", head, NAMED)
    short = {"layers.0.weight": head.tensors["score.0.weight"], "layers.0.bias": head.tensors["score.0.bias"],
             "output_layer.weight": head.tensors["score.2.weight"], "output_layer.bias": head.tensors["score.2.bias"]}  # fmt: skip
    write_tensors(tmp_path / "short.safetensors", short)
    assert read_head(tmp_path / "short.safetensors", NAMED).layers == ("score.0", "score.2")
    write_tensors(tmp_path / "cut.safetensors", {name: short[name] for name in list(short)[:3]})
    with pytest.raises(
        ConfigError, match=r"is no head myscore: myscore.output_layer does not fit; the file has layers.0.bias \[8\]"
    ):
        read_head(tmp_path / "cut.safetensors", NAMED)
    write_tensors(tmp_path / "more.safetensors", {**short, "lm_head.weight": np.zeros((2, 2))})
    with pytest.raises(ConfigError, match="is no head myscore of one number: it has"):
        read_head(tmp_path / "more.safetensors", NAMED)


def test_a_head_is_merged_into_a_body_that_it_fits_and_a_new_folder(body: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the head reads 32 numbers, .* has a hidden size of 48"):
        merge_head(str(body), random_head(hidden=32), "myrm", tmp_path / "x", {})
    with pytest.raises(ConfigError, match="is there already; merge into a new folder"):
        merge_head(str(body), random_head(), "myrm", body, {})
    with pytest.raises(ConfigError, match=r"model_type 'myrn' has no head of its own \(did you mean 'myrm'\?\)"):
        named_head("myrn")
    config = json.loads((body / "config.json").read_text())
    (body / "config.json").write_text(json.dumps({**config, "model_type": "qwen2"}))
    with pytest.raises(ConfigError, match="is a model of type 'qwen2'; a myrm has a body of type 'llama'"):
        merge_head(str(body), random_head(), "myrm", tmp_path / "x", {})


def test_gradients_of_the_head_are_those_of_differences() -> None:
    draw = np.random.default_rng(0)
    layers = [
        (draw.standard_normal((4, 3)), draw.standard_normal(4)),
        (draw.standard_normal((1, 4)), draw.standard_normal(1)),
    ]
    x, y = draw.standard_normal((6, 3)), np.array([0, 1, 1, 0, 1, 0.0])

    def loss() -> float:
        inner = x @ layers[0][0].T + layers[0][1]
        values = (np.maximum(inner, 0.01 * inner) @ layers[1][0].T + layers[1][1])[:, 0]
        return float((np.logaddexp(0, values) - y * values).mean())

    for part, gradient in zip([part for layer in layers for part in layer], gradients(layers, x, y), strict=True):
        place = tuple(0 for _ in part.shape)
        kept, part[place] = part[place], part[place] + 1e-6
        above = loss()
        part[place] = kept - 1e-6
        below = loss()
        part[place] = kept
        assert gradient[place] == pytest.approx((above - below) / 2e-6, abs=1e-8)


def test_a_head_learns_what_is_in_the_embeddings_and_is_the_same_each_time() -> None:
    draw = np.random.default_rng(0)
    x = draw.standard_normal((400, 6)) * 3 + 5
    y = (np.abs(x[:, 0] - 5) > 2).astype(float)  # no linear layer can tell
    found = [train_head(x, y, HeadTraining(widths=[16], epochs=80, learning_rate=0.01)) for _ in range(2)]
    assert found[0].figures == found[1].figures
    assert found[0].figures["held_out/rows"] == 40
    assert found[0].figures["held_out/accuracy"] >= 0.9
    assert np.abs(found[0].head.apply(x)).max() > 2
    with pytest.raises(DataError, match=r"labels must be 0 and 1, both of them there; found \{'0.0': 400\}"):
        train_head(x, 0 * y, HeadTraining())
    with pytest.raises(DataError, match="not finite"):
        train_head(np.where(x > 7, np.nan, x), y, HeadTraining())
