"""Data and models of the recipe's tests: four characters of the example, one per language, and a tiny model."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import yaml

from mindrlhf_grpo.recipes.raiden.languages import load_texts
from tests.support.repository import ROOT
from tests.support.seeds import shifted

EXAMPLE = ROOT / "examples" / "raiden"
CHARACTERS = ("雾灯", "ツキミ", "Brindle", "달콩")


def samples(name: str = "train") -> list[dict[str, Any]]:
    """Return the example's samples of these characters: one SBK and one CM each in ``train``, one in ``validation``."""
    every: list[dict[str, Any]] = json.loads((EXAMPLE / f"{name}.json").read_text(encoding="utf-8"))
    return [sample for sample in every if sample["character_name"] in CHARACTERS]


def tiny_model(folder: Path, data: Path) -> Path:
    """Write the example's tiny model for the keywords of a file of samples."""
    spec = importlib.util.spec_from_file_location("example_raiden_tiny_model", EXAMPLE / "tiny_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written: Path = module.write_model(folder, [data], seed=shifted())
    return written


def prepare(folder: Path, **keys: Any) -> Path:
    """Write samples, model and configuration A into ``folder``; returns the configuration's path."""
    for name in ("train", "validation"):
        (folder / f"{name}.json").write_text(json.dumps(samples(name), ensure_ascii=False), encoding="utf-8")
    if not (folder / "model").exists():
        tiny_model(folder / "model", folder / "train.json")
    config = yaml.safe_load((EXAMPLE / "tiny.yaml").read_text(encoding="utf-8"))
    config |= {
        "model_name": str(folder / "model"), "train_data": str(folder / "train.json"),
        "eval_data": str(folder / "validation.json"), "output_dir": str(folder / "outputs"),
        "batch_size": 8, "gradient_accumulation_steps": 1, "max_new_tokens": 6, "num_samples_per_prompt": 16,
    }  # fmt: skip
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config | keys, allow_unicode=True), encoding="utf-8")
    return path


def task_of(messages: list[dict[str, str]]) -> tuple[str, str]:
    """Return language and task of a request to the server, recognised by the last line of its text."""
    asked = messages[0]["content"]
    for language, groups in load_texts().content.items():
        for task, text in groups["writer"].items():
            if text.splitlines()[-1] in asked and len(text.splitlines()) > 1:
                return language, task
    raise AssertionError(f"unknown request: {asked}")


# What a server says for each task, in four languages: the profile's own words, and a fact of a visitor's.
SAID = {
    "zh": {"script_question": "你最喜欢什么？", "memory_question": "我为什么来这里？", "visitor": "我来找我的红风筝。",
           "reply": "我最喜欢桂花茶。", "remembered": "你来找红风筝。", "words": ("桂花茶", "红风筝")},
    "ja": {"script_question": "好きなものは何ですか？", "memory_question": "私はなぜ来ましたか？", "visitor": "赤い凧を探しに来ました。",
           "reply": "私はよもぎ団子が好きです。", "remembered": "あなたは赤い凧を探しています。", "words": ("よもぎ団子", "赤い凧")},
    "en": {"script_question": "What do you like?", "memory_question": "Why did I come?", "visitor": "I came to find my red kite.",
           "reply": "I like seafoam tea.", "remembered": "You came to find your red kite.", "words": ("seafoam", "kite")},
    "ko": {"script_question": "무엇을 좋아합니까?", "memory_question": "제가 왜 왔습니까?", "visitor": "빨간 연을 찾으러 왔습니다.",
           "reply": "저는 메밀묵을 좋아합니다.", "remembered": "당신은 빨간 연을 찾고 있습니다.", "words": ("메밀묵", "빨간 연")},
}  # fmt: skip


def writes(messages: list[dict[str, str]]) -> str:
    """A server that does what it is asked, with thoughts before each answer."""
    language, task = task_of(messages)
    said = SAID[language]
    if task == "keywords":
        answer = messages[0]["content"]
        words = [word for word in said["words"] if word in answer]
        return f"<think>hm</think>```json\n{json.dumps({'keywords': words}, ensure_ascii=False)}\n```"
    if task == "judge":
        return {"zh": "是", "ja": "はい", "en": "Yes.", "ko": "예"}[language]
    if task == "reply" and messages[-1]["content"].endswith(str(said["memory_question"])):
        task = "remembered"
    return f"<think>Let me think. {task}</think>\n{said[task]}"


def write_profiles(path: Path, *, each: int = 1) -> Path:
    """Write profiles of invented characters, ``each`` per language."""
    likes = {
        "zh": "最喜欢桂花茶。",
        "ja": "よもぎ団子が好きです。",
        "en": "Likes seafoam tea.",
        "ko": "메밀묵을 좋아합니다.",
    }
    blocks = [
        f"Name: {language}{number}\nGender: none\nIntroduction: …\nDetailed Description: {text}"
        for language, text in likes.items()
        for number in range(each)
    ]
    rows = [{"prompt": f"<Character Setting>\n{block}\n</Character Setting>"} for block in blocks]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
