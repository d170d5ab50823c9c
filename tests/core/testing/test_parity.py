"""Comparing measurements, sketches, perturbations, bundles on disk, and the page: without any framework."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mindrlhf_grpo.errors import BundleError, ConfigError
from mindrlhf_grpo.model_files.families import read_architecture
from mindrlhf_grpo.model_files.folder import read_header
from mindrlhf_grpo.model_files.safetensors import read_tensor
from mindrlhf_grpo.testing.numpy_model.tiny_llama import random_weights, tiny_llama_config, write_tiny_llama
from mindrlhf_grpo.testing.parity.bundle import INPUTS, MANIFEST, Bundle, create, open_bundle, write_arrays
from mindrlhf_grpo.testing.parity.check import Result
from mindrlhf_grpo.testing.parity.deviation import Finding, compare, leaving_out, rounding_in_gradients
from mindrlhf_grpo.testing.parity.page import html_of
from mindrlhf_grpo.testing.parity.perturbation import Perturbation, parse, perturbed_copy
from mindrlhf_grpo.testing.parity.quantities import (
    QUANTITIES,
    SKETCH,
    Measurement,
    by_layer,
    log_prob_rounding,
    sketch,
    sketched,
    tolerances,
)
from mindrlhf_grpo.testing.parity.summary import places, rows, verdict
from mindrlhf_grpo.testing.parity.workload import (
    BATCH_ARRAYS,
    BATCHES,
    Workload,
    pack,
    random_batch,
    random_prompts,
    unpack,
    with_old_logps,
)

Arrays = dict[str, np.ndarray]


def finding(
    quantity: str, measured: Arrays, expected: Arrays, tolerance: float = 1e-4, rounding: float = 0.0
) -> Finding:
    measurement = Measurement(quantity=quantity, group="g", arrays=measured)
    return compare(QUANTITIES[quantity], measurement, expected, tolerance=tolerance, rounding=rounding)


def test_first_deviating_layer_row_and_token_are_named() -> None:
    expected = np.zeros((4, 2, 3))
    measured = expected.copy()
    measured[2, 1, 0], measured[3, 0, 2] = 2e-4, -5e-4
    found = finding("layer_logps", {"all": measured}, {"all": expected})
    assert (found.passed, found.first_layer) == (False, 2)
    assert found.first == "model.layers.1, row 1, token 0"
    assert found.where == "model.layers.2, row 0, token 2"
    assert found.deviation == pytest.approx(5e-4)
    assert [value for _, value in found.profile] == pytest.approx([0, 0, 2e-4, 5e-4])


def test_a_deviation_at_the_tolerance_passes_and_one_above_fails() -> None:
    assert finding("losses", {"all": np.array([1.5])}, {"all": np.array([1.0])}, tolerance=0.5).passed
    assert not finding("losses", {"all": np.array([1.5])}, {"all": np.array([1.0])}, tolerance=0.49).passed


def test_rounding_of_a_log_prob_follows_from_the_widths_and_depths_of_the_model() -> None:
    tiny = read_architecture(tiny_llama_config())  # 3 layers, widest 48: 2^-24 sqrt(2 * 48 * 13)
    assert log_prob_rounding(tiny) == pytest.approx(2.1057e-6, rel=1e-4)
    smollm2 = tiny_llama_config(hidden=576, intermediate=1536, layers=30, heads=9, kv_heads=3, head_size=64)
    assert log_prob_rounding(read_architecture(smollm2)) == pytest.approx(3.6341e-5, rel=1e-4)  # sqrt(2 * 1536 * 121)


def test_a_log_prob_may_deviate_by_its_own_rounding_where_that_is_above_the_tolerance() -> None:
    expected = np.array([[-0.5, -2.0, -20.0]])
    measured = expected + np.array([[9e-5, 9e-5, 7e-4]])
    found = finding("logps", {"all": measured}, {"all": expected}, rounding=3.6e-5)
    assert (found.passed, found.where) == (True, "row 0, token 2")
    assert found.deviation == pytest.approx(7e-4 / (20 * 0.36))  # 0.36 = 3.6e-5 / 1e-4
    assert finding("logps", {"all": measured}, {"all": expected}).first == "row 0, token 2"
    assert not finding("logps", {"all": expected + 1.1e-4}, {"all": expected}, rounding=3.6e-5).passed  # at -0.5
    tokens = np.zeros((1, 3))
    pair = [{"tokens": tokens, "logps": values} for values in (measured, expected)]
    assert finding("token_logps", *pair, rounding=3.6e-5).passed
    assert not finding("entropy", {"all": measured}, {"all": expected}, rounding=3.6e-5).passed


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_a_number_never_passes(bad: float) -> None:
    for quantity in ("losses", "weights", "layer_logps"):
        found = finding(quantity, {"all": np.array([[[bad]]])}, {"all": np.array([[[0.5]]])}, tolerance=1e9)
        assert (found.passed, found.deviation) == (False, np.inf)


def test_gradients_are_looked_through_from_the_head_and_relative_to_each_norm() -> None:
    names = ("model.embed_tokens.weight", "model.layers.0.w", "model.layers.10.w", "model.layers.2.w", "lm_head.weight")
    expected = {name: np.full(4, 100.0) for name in names}
    measured = dict(expected)
    measured["model.layers.0.w"] = expected["model.layers.0.w"] + 1.0
    measured["model.layers.2.w"] = expected["model.layers.2.w"] + 0.5
    found = finding("gradients", measured, expected)
    assert found.deviation == pytest.approx(0.01)
    assert (found.where, found.first) == ("model.layers.0.w", "model.layers.2.w")


def test_a_gradient_that_is_rounding_beside_the_others_is_not_blown_up() -> None:
    expected = {"large": np.full(4, 1.0), "zero": np.full(4, 1e-12)}
    assert finding("gradients", {"large": np.full(4, 1.0), "zero": np.full(4, -1e-12)}, expected).passed


def test_vector_elements_without_a_gradient_are_left_out_after_training() -> None:
    masks = rounding_in_gradients({"matrix": np.array([[1.0, 1e-9]]), "bias": np.array([0.5, 1e-9, 0.0])})
    assert set(masks) == {"bias"}
    assert masks["bias"].tolist() == [False, True, True]
    expected = {"matrix": np.ones((1, 2)), "bias": np.ones(3)}
    measured = {"matrix": np.full((1, 2), 2.0), "bias": np.array([3.0, 4.0, 5.0])}
    kept = leaving_out(measured, expected, masks)
    assert kept["bias"].tolist() == [3.0, 1.0, 1.0]
    assert kept["matrix"].tolist() == [[2.0, 2.0]]


def test_missing_and_misshapen_arrays_are_named() -> None:
    found = finding("weights", {"a": np.zeros(2)}, {"a": np.zeros(3), "b": np.zeros(2)}, tolerance=0.0)
    assert found.first == "a (shape [2], recorded [3])"
    assert [name for name, _ in found.profile] == ["a (shape [2], recorded [3])", "b (missing here)"]


def test_tokens_count_by_share_and_log_probs_end_where_tokens_part() -> None:
    expected = {"tokens": np.array([[1, 2, 3, -1], [4, 5, 6, 7]]), "logps": np.zeros((2, 4))}
    measured = {"tokens": np.array([[1, 2, 3, -1], [4, 9, 6, 7]]), "logps": np.zeros((2, 4))}
    found = finding("tokens", {"all": measured["tokens"]}, {"all": expected["tokens"]}, tolerance=0.0)
    assert (found.deviation, found.first) == (1 / 8, "row 1, token 1")
    measured["logps"][1, 1:] = 3.0
    assert finding("token_logps", measured, expected).deviation == 0.0
    measured["logps"][1, 0] = 0.25
    assert finding("token_logps", measured, expected).first == "row 1, token 0"


def test_names_are_in_the_order_of_computation() -> None:
    names = [
        "lm_head.weight",
        "model.norm.weight",
        "model.layers.10.a",
        "model.layers.9.b",
        "model.embed_tokens.weight",
    ]
    assert by_layer(names) == [names[4], names[3], names[2], names[1], names[0]]
    assert by_layer(["step 10", "step 9"]) == ["step 9", "step 10"]


def test_a_sketch_keeps_norms_of_differences_and_sees_every_entry() -> None:
    random = np.random.default_rng(0)
    one = random.normal(size=(300, 500)).astype(np.float32)
    other = one + 1e-3 * random.normal(size=one.shape).astype(np.float32)
    exact = np.linalg.norm(one - other)
    assert np.linalg.norm(sketch(one) - sketch(other)) == pytest.approx(exact, rel=0.05)
    column = one.copy()
    column[:, 7] += 1.0
    assert np.linalg.norm(sketch(column) - sketch(one)) == pytest.approx(np.sqrt(300), rel=0.1)
    entry = one.copy()
    entry[299, 499] += 1.0
    assert np.abs(sketch(entry) - sketch(one)).sum() == pytest.approx(1.0, rel=1e-6)
    assert sketched({"small": one[:2]})["small"].shape == (2, 500)
    assert sketched({"large": one})["large"].shape == (SKETCH,)


def test_tolerances_of_sixteen_bits_are_numbers_of_roundings() -> None:
    wide = tolerances([], "bfloat16")
    assert (wide["weights"], wide["logps"], wide["gradients"], wide["tokens"]) == (0.0, 0.25, 0.25, 1.0)
    assert tolerances(["logps=1e-3"], "float16")["logps"] == 1e-3
    assert tolerances([], "float16")["entropy"] == 64 / 2048


def test_tolerances_are_replaced_by_name_and_mistakes_answered() -> None:
    assert tolerances(["logps=1e-3"])["logps"] == 1e-3
    assert tolerances([])["tokens"] == 0.0
    with pytest.raises(ConfigError, match=r"no quantity 'logp' .did you mean 'logps'"):
        tolerances(["logp=1"])
    with pytest.raises(ConfigError, match="'much' is no number"):
        tolerances(["logps=much"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b.weight=0.01", Perturbation(name="a.b.weight", value=0.01)),
        ("a.b.weight[3, 5]=-1e-2", Perturbation(name="a.b.weight", value=-0.01, place=(3, 5))),
    ],
)
def test_perturbations_are_read(text: str, expected: Perturbation) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["a.b", "a.b=", "a.b=much", "a[1.5]=1", "=1"])
def test_a_perturbation_written_otherwise_is_answered_with_how(text: str) -> None:
    with pytest.raises(ConfigError, match=r"written NAME=0\.01"):
        parse(text)


def test_a_perturbed_copy_differs_in_one_weight_and_the_original_stays(tmp_path: Path) -> None:
    config, name = tiny_llama_config(layers=1), "model.layers.0.mlp.up_proj.weight"
    model = write_tiny_llama(tmp_path / "model", config, seed=0)
    copy = perturbed_copy(model, tmp_path / "all", Perturbation(name=name, value=0.5)) / "model.safetensors"
    single = perturbed_copy(model, tmp_path / "one", Perturbation(name=name, value=0.5, place=(3, 4)))
    header, weights = read_header(copy), random_weights(read_architecture(config), seed=0)
    assert read_tensor(copy, header[name]) == pytest.approx(weights[name] + 0.5)
    assert read_tensor(copy, header["lm_head.weight"]) == pytest.approx(weights["lm_head.weight"])
    changed = read_tensor(single / "model.safetensors", header[name]) - weights[name]
    assert (np.count_nonzero(changed), changed[3, 4]) == (1, pytest.approx(0.5))
    assert np.array_equal(read_tensor(model / "model.safetensors", header[name]), weights[name])


def test_a_perturbation_of_no_weight_or_no_element_is_refused(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model", tiny_llama_config(layers=1), seed=0)
    with pytest.raises(ConfigError, match=r"no weight 'lm_hed\.weight' .did you mean 'lm_head\.weight'"):
        perturbed_copy(model, tmp_path / "copy", Perturbation(name="lm_hed.weight", value=1.0))
    with pytest.raises(ConfigError, match=r"is \[61, 32\]; it has no element \[61, 0\]"):
        perturbed_copy(model, tmp_path / "other", Perturbation(name="lm_head.weight", value=1.0, place=(61, 0)))


def test_inputs_are_packed_and_unpacked() -> None:
    random = np.random.default_rng(0)
    batches = [random_batch(random, 61) for _ in range(BATCHES)]
    batches = [with_old_logps(batch, np.zeros(batch.ids.shape, np.float32), random) for batch in batches]
    prompts = random_prompts(random, 61)
    again, prompts_again = unpack(pack(batches, prompts))
    assert [prompt.uid for prompt in prompts_again] == [102, 7, 55]
    for one, other in zip(batches, again, strict=True):
        assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in BATCH_ARRAYS)
        assert [ids.tolist() for ids in one.prompts] == [ids.tolist() for ids in other.prompts]


def bundle(folder: Path) -> Bundle:
    def fill(partial: Path) -> dict[str, object]:
        write_arrays(partial / INPUTS, {"x": np.arange(3)})
        workload = Workload(seed=0, steps=1, vocabulary=61, end_tokens=(2,))
        return {
            "backend": "torch", "versions": {}, "recipe": workload, "tolerances": tolerances([]), "groups": [],
            "layers": 3,
        }  # fmt: skip

    return create(folder, fill)


def test_a_bundle_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = bundle(tmp_path / "b")
    assert open_bundle(tmp_path / "b").manifest == made.manifest
    assert open_bundle(tmp_path / "b").inputs()["x"].tolist() == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_bundle_is_not_written_over_another(tmp_path: Path) -> None:
    bundle(tmp_path / "b")
    with pytest.raises(BundleError, match="exists"):
        bundle(tmp_path / "b")


def test_a_bundle_whose_recording_fails_leaves_nothing(tmp_path: Path) -> None:
    def fill(partial: Path) -> dict[str, object]:
        raise ConfigError("no")

    with pytest.raises(ConfigError):
        create(tmp_path / "b", fill)
    assert list(tmp_path.iterdir()) == []


def damage(folder: Path, kind: str) -> None:
    if kind == "missing":
        (folder / INPUTS).unlink()
    elif kind == "corrupt":
        data = bytearray((folder / INPUTS).read_bytes())
        data[-1] ^= 1
        (folder / INPUTS).write_bytes(bytes(data))
    elif kind == "no manifest":
        (folder / MANIFEST).unlink()
    elif kind == "not JSON":
        (folder / MANIFEST).write_text("{")
    else:
        changed = json.loads((folder / MANIFEST).read_text())
        changed.update(
            {"version": {"version": 2}, "other": {"format": "x"}, "outside": {"files": {"../x": [1, "a"]}}}[kind]
        )
        (folder / MANIFEST).write_text(json.dumps(changed))


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", r"inputs\.safetensors is missing; copy the bundle again, or record it again"),
        ("corrupt", r"inputs\.safetensors is corrupt: it differs from the manifest"),
        ("no manifest", r"is no parity bundle: there is no .*manifest\.json"),
        ("not JSON", r"manifest\.json cannot be read"),
        ("version", r"is a bundle of version 2; mindrlhf-grpo .* reads version 1"),
        ("other", "is not the manifest of a parity bundle"),
        ("outside", "outside of the bundle"),
    ],
)
def test_a_damaged_bundle_is_one_clear_error(tmp_path: Path, kind: str, says: str) -> None:
    bundle(tmp_path / "b")
    damage(tmp_path / "b", kind)
    with pytest.raises(BundleError, match=says):
        open_bundle(tmp_path / "b")


def result(*findings: Finding, perturbed: str | None = None) -> Result:
    return Result(
        bundle=Path("bundle"), recorded={"torch": "2.13"}, checked={"mindspore": "2.10"}, recorded_backend="torch",
        checked_backend="mindspore", layers=3, perturbed=perturbed, findings=findings,
    )  # fmt: skip


def test_the_verdict_names_the_first_deviating_layer() -> None:
    passed = finding("losses", {"all": np.ones(1)}, {"all": np.ones(1)})
    expected, measured = np.zeros((4, 1, 1)), np.zeros((4, 1, 1))
    measured[3] = 1.0
    failed = finding("layer_logps", {"all": measured}, {"all": expected})
    assert (
        verdict(result(passed))
        == "Passed: mindspore computes what torch recorded, within tolerance in all 1 quantities."
    )
    text = "Failed: log-probs first deviate after model.layers.2; 1 of 2 quantities are beyond their tolerance."
    assert verdict(result(passed, failed)) == text
    assert result(failed).first_layer == "model.layers.2"
    assert [row.passed for row in rows(result(passed, failed))] == [True, False]
    assert places(result(failed))[0].endswith("first beyond tolerance at model.layers.2, row 0, token 0")


def test_the_page_escapes_everything_and_loads_nothing() -> None:
    hostile = "<img src=x onerror=alert(1)>"
    failed = finding("weights", {hostile: np.ones(2), "b": np.ones(2)}, {hostile: np.zeros(2), "b": np.ones(2)})
    page = html_of(result(failed, perturbed=hostile))
    assert "<img" not in page
    assert "&lt;img" in page
    assert "<script" not in page
    assert "http://" not in page
    assert "https://" not in page
    assert "default-src &#39;none&#39;" in page
    assert " style=" not in page
