"""Prompts with images: the places of the images, their tokens, and the text that readers see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.config.run import DataConfig
from mindrlhf_grpo.data.stream import PromptStream
from mindrlhf_grpo.errors import ConfigError, DataError
from mindrlhf_grpo.tokenizers.tokenizer import load_tokenizer
from tests.support.tiny_vision import FAMILIES, picture, png, write_model, write_rows

IMAGE = {"qwen2_5_vl": 4, "internvl": 5}  # id of an image's tokens
AROUND = {"qwen2_5_vl": (2, 3), "internvl": (6, 7)}
TOKENS = {"qwen2_5_vl": (4, 2), "internvl": (4, 12)}  # of an image of 16 x 16, and of 16 x 8: two tiles and a thumbnail


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for family in FAMILIES:
        write_model(root / family, family)
    write_rows(root)
    return root


def stream(folder: Path, family: str, rows: list[dict[str, Any]] | None = None, **data: Any) -> PromptStream:
    """Return prompts of the rows passed in, or of the rows on disk."""
    if rows is not None:
        path = folder / "passed.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = str(folder / ("rows.jsonl" if rows is None else "passed.jsonl"))
    config = DataConfig(**{"source": source, "shuffle": False, "images": {}, **data})
    return PromptStream(config, load_tokenizer(str(folder / family), chat_template=config.chat_template), seed=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.row("safework", "Multimodal", backend="none")
def test_each_image_is_counted_once_in_the_prompt(folder: Path, family: str) -> None:
    prompts = stream(folder, family).take(6)
    large, small = TOKENS[family]
    counts = [int((prompt.ids == IMAGE[family]).sum()) for prompt in prompts]
    assert counts == [large, 0, small, large + small, 0, small]
    before, after = AROUND[family]
    assert prompts[0].ids[: large + 2].tolist() == [before, *[IMAGE[family]] * large, after]
    assert [bool(prompt.features) for prompt in prompts] == [True, False, True, True, False, True]


def test_arrays_are_those_the_model_reads(folder: Path) -> None:
    one, _, _, two = stream(folder, "qwen2_5_vl").take(4)
    assert one.features["pixel_values"].shape == (16, 96)
    assert two.features["image_grid_thw"].tolist() == [[1, 4, 4], [1, 2, 4]]
    tiles = stream(folder, "internvl").take(4)[3].features
    assert {name: array.shape for name, array in tiles.items()} == {"pixel_values": (4, 3, 16, 16)}


def test_readers_of_text_see_a_marker(folder: Path) -> None:
    prompts = stream(folder, "qwen2_5_vl").take(6)
    texts = ["<image>which?", "blue?", "<image>which?", "<image><image>which of two?", "red?", "<image>which?"]
    assert [prompt.text for prompt in prompts] == texts
    assert [prompt.messages[0]["content"] for prompt in prompts] == texts


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_and_arrays_are_those_of_transformers_processor(
    folder: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoImageProcessor, AutoTokenizer, InternVLProcessor, Qwen2_5_VLProcessor
    from transformers.processing_utils import ProcessorMixin

    # Its part for videos needs torchvision.
    monkeypatch.setattr(ProcessorMixin, "check_argument_for_proper_class", lambda *_: None)
    tokenizer = AutoTokenizer.from_pretrained(folder / family)
    images = AutoImageProcessor.from_pretrained(folder / family, backend="pil")
    if family == "internvl":
        for name, token in {"start_image": "<img>", "end_image": "</img>", "context_image": "<IMG_CONTEXT>"}.items():
            setattr(tokenizer, f"{name}_token", token)
            setattr(tokenizer, f"{name}_token_id", tokenizer.convert_tokens_to_ids(token))
        tokenizer.video_token = "<video>"
        processor: Any = InternVLProcessor(images, tokenizer, None, image_seq_length=4)
        written = "<IMG_CONTEXT>"
    else:
        processor = Qwen2_5_VLProcessor(images, tokenizer, None)
        written = "<|vision_start|><|image_pad|><|vision_end|>"
    expected = processor(
        images=[picture(0), picture(2, 16, 8)], text=[f"{written}{written}which of two?: "], return_tensors="np"
    )
    prompt = stream(folder, family).take(4)[3]
    assert prompt.ids.tolist() == expected["input_ids"][0].tolist()
    for name, array in prompt.features.items():
        np.testing.assert_array_equal(array, expected[name])


def test_markers_can_say_where_an_image_goes(folder: Path) -> None:
    row = {"prompt": "a<image>b<image>", "images": ["pictures/first.png", "pictures/first.png"]}
    (placed,) = stream(folder, "qwen2_5_vl", [row], images={"markers": "place"}).take(1)
    (first,) = stream(folder, "qwen2_5_vl", [row]).take(1)
    assert (placed.text, first.text) == ("a<image>b<image>", "<image><image>ab")
    a, b = placed.ids[0], placed.ids[7]
    assert placed.ids.tolist() == [a, 2, 4, 4, 4, 4, 3, b, 2, 4, 4, 4, 4, 3, 35, 36]


def test_segments_of_a_message_place_images_and_literal_markers_go(folder: Path) -> None:
    content = [{"type": "text", "text": "a <image>b"}, {"type": "image"}, {"type": "text", "text": "c"}]
    conversation = [{"role": "system", "content": "be brief"}, {"role": "user", "content": content}]
    (prompt,) = stream(folder, "qwen2_5_vl", [{"prompt": conversation, "images": "pictures/first.png"}]).take(1)
    assert prompt.text == "a b<image>c"


def test_images_stand_before_the_first_user_message_after_the_system_prompt(folder: Path) -> None:
    conversation = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    row = {"prompt": conversation, "images": ["pictures/first.png"]}
    (prompt,) = stream(folder, "qwen2_5_vl", [row], system_prompt="be brief").take(1)
    assert [message["content"] for message in prompt.messages] == ["be brief", "<image>a", "b", "c"]


def test_a_row_of_text_has_the_ids_it_has_without_images(folder: Path) -> None:
    row = {"prompt": "blue?", "images": []}
    (beside,) = stream(folder, "qwen2_5_vl", [row]).take(1)
    (alone,) = stream(folder, "qwen2_5_vl", [row], images=None).take(1)
    assert beside.ids.tolist() == alone.ids.tolist()


def test_plain_text_without_a_template_gets_the_familys_placeholder(folder: Path) -> None:
    (prompt,) = stream(folder, "qwen2_5_vl", chat_template="none").take(1)
    assert prompt.ids[:6].tolist() == [2, 4, 4, 4, 4, 3]
    assert len(prompt.ids) == 6 + len("which?")


def test_settings_of_the_processor_change_the_tokens_of_an_image(folder: Path) -> None:
    (small,) = stream(folder, "qwen2_5_vl", images={"processor": {"max_pixels": 64}}).take(1)
    assert int((small.ids == 4).sum()) == 1
    (uncut,) = stream(
        folder, "internvl", [{"prompt": "a", "images": "pictures/first.png"}], images={"processor": {"max_patches": 1}}
    ).take(1)
    assert int((uncut.ids == 5).sum()) == 4


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "images": ["none.png"]}, r"passed.jsonl:1: image 1 of 1 is not there"),
        (
            {"prompt": "a<|image_pad|>", "images": ["pictures/first.png"]},
            "the special token .<.image_pad.>.",
        ),
        ({"prompt": "a<|image_pad|>", "images": []}, "the special token .<.image_pad.>."),
        (
            {"prompt": [{"role": "user", "content": "red?", "reasoning_content": "Look at it."}], "images": []},
            "writes nothing of 'reasoning_content'",  # finding D8
        ),
        ({"prompt": [{"role": "user", "content": [{"type": "image"}]}], "images": []}, "1 image segments for 0 images"),
        ({"prompt": [{"role": "user", "content": [{"type": "video"}]}], "images": []}, "segment of type 'video'"),
        ({"prompt": [{"role": "system", "content": "a"}], "images": ["pictures/first.png"]}, "no user message"),
        ({"prompt": "a", "images": ["pictures/first.png"] * 3}, "3 images; data.images.limit is 2"),
        ({"prompt": "a", "images": ["pictures/thin.png"]}, "the image processor refuses the images: .*aspect ratio"),
    ],
)
def test_a_bad_row_stops_the_run_or_is_counted(folder: Path, row: dict[str, Any], reason: str) -> None:
    (folder / "pictures" / "thin.png").write_bytes(png(picture(0, 801, 2)))
    good = {"prompt": "red?", "images": []}
    with pytest.raises(DataError, match=reason):
        stream(folder, "qwen2_5_vl", [row, good], images={"limit": 2}).take(2)
    skipping = stream(folder, "qwen2_5_vl", [row, good], images={"limit": 2}, bad_rows="skip")
    assert [prompt.text for prompt in skipping.take(1)] == ["red?"]
    assert skipping.counts["skipped"] == 1


def test_markers_that_do_not_fit_the_images_are_an_error(folder: Path) -> None:
    row = {"prompt": "a", "images": ["pictures/first.png"]}
    with pytest.raises(DataError, match="the prompt has 0 <image> in its text for 1 images in column 'images'"):
        stream(folder, "qwen2_5_vl", [row], images={"markers": "place"}).take(1)


def test_a_prompt_with_images_is_never_cut(folder: Path) -> None:
    rows = [{"prompt": "which?", "images": "pictures/first.png"}, {"prompt": "red?", "images": []}]
    cutting = stream(folder, "qwen2_5_vl", rows, max_prompt_tokens=8, overlong="truncate")
    assert [prompt.text for prompt in cutting.take(1)] == ["red?"]
    assert cutting.counts["dropped"] == 1
    with pytest.raises(
        DataError, match=r"has 14 tokens with its images \(data.images.processor can make them smaller\)"
    ):
        stream(folder, "qwen2_5_vl", rows, max_prompt_tokens=8).take(1)


@pytest.mark.parametrize(
    "row",
    [
        {"imges": []},
        {"image_path": None},
        {"photo": "pictures/first.JPG"},
        {"photo": ["data:image/png;base64,"]},
    ],
)
def test_another_column_that_looks_like_images_is_an_error(folder: Path, row: dict[str, Any]) -> None:
    (name,) = row
    with pytest.raises(DataError, match=f"no row has a column 'images'; perhaps {name}"):
        stream(folder, "qwen2_5_vl", [{"prompt": "a", **row}])


def test_rows_of_text_alone_need_no_column(folder: Path) -> None:
    assert stream(folder, "qwen2_5_vl", [{"prompt": "red?", "answer": "r"}]).take(1)[0].text == "red?"


def test_rows_of_parquet_hold_bytes(folder: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"prompt": "a", "images": [{"bytes": png(picture(0)), "path": "x.png"}]}, {"prompt": "b", "images": []}]
    parquet.write_table(arrow.Table.from_pylist(rows), folder / "rows.parquet")
    prompts = stream(folder, "qwen2_5_vl", source=str(folder / "rows.parquet")).take(2)
    assert [len(prompt.features) for prompt in prompts] == [2, 0]


def test_a_model_that_reads_text_only_is_refused(folder: Path) -> None:
    (folder / "text").mkdir(exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "text" / name).write_bytes((folder / "qwen2_5_vl" / name).read_bytes())
    (folder / "text" / "config.json").write_text('{"model_type": "qwen2", "eos_token_id": 1}')
    with pytest.raises(
        ConfigError, match=r"data.images needs a model that reads images; .*text has no image processor"
    ):
        stream(folder, "text")
    (folder / "text" / "preprocessor_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="models of type 'qwen2' are not known here; accepted: qwen2_vl, qwen2_5_vl"):
        stream(folder, "text")


def test_an_unknown_setting_of_the_processor_is_an_error(folder: Path) -> None:
    with pytest.raises(
        DataError, match=r"data.images.processor: setting 'max_pixel' is unknown \(did you mean 'max_pixels'"
    ):
        stream(folder, "qwen2_5_vl", images={"processor": {"max_pixel": 4}})


def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "mindrlhf_grpo.data.image_processor.find_spec", lambda module: None if module == "PIL" else True
    )
    with pytest.raises(ConfigError, match=r"data\.images needs pillow: pip install pillow"):
        stream(folder, "qwen2_5_vl")


def test_an_image_that_is_not_there_is_found_before_the_run_and_named_by_its_line(folder: Path) -> None:
    """Finding F24: rows with images were named in shuffled order and without a file, after the model was loaded."""
    rows = [{"prompt": "<image>which?", "images": ["red.png"]}, {"prompt": "<image>which?", "images": ["absent.png"]}]
    (folder / "red.png").write_bytes(png(picture(1)))
    with pytest.raises(
        DataError, match=r"1 of 2 rows of \S+ stops the run: 1 bad, first \S+passed\.jsonl:2: .*absent\.png"
    ):
        stream(folder, "qwen2_5_vl", rows, shuffle=True).check()


def test_paths_of_images_start_from_the_file_of_their_own_source(folder: Path) -> None:
    for name, seed in (("one", 1), ("two", 2)):
        (folder / name).mkdir()
        (folder / name / "picture.png").write_bytes(png(picture(seed)))
        row = {"prompt": "<image>which?", "images": ["picture.png"]}
        (folder / name / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    source = [str(folder / name / f"{name}.jsonl") for name in ("one", "two")]
    first, second = stream(folder, "qwen2_5_vl", source=source).take(2)
    assert [first.source, second.source] == ["one", "two"]
    assert not np.array_equal(first.features["pixel_values"], second.features["pixel_values"])
