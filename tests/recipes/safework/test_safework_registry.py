"""The registry of judges, and the routing of labels to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.recipes.safework.registry import (
    JudgeEntry,
    check_labels,
    guess_type,
    package_data,
    read_registry,
    read_routing,
)

PATHS = {"safety": "m/SafeWork-RM-Safety-7B", "value": "m/SafeWork-RM-Value-72B", "knowledge": "m/rm-Knowledge"}
FORMS: dict[str, Any] = {
    "json": json.dumps(PATHS),
    "pairs": ",".join(f"{name}:{path}" for name, path in PATHS.items()),
    "paths": ",".join(PATHS.values()),
    "json paths": json.dumps(list(PATHS.values())),
    "dicts": [{"type": name, "path": path} for name, path in PATHS.items()],
    "mapping": {name: {"path": path, "weight": 1.0} for name, path in PATHS.items()},
}
EXPECTED = {name: JudgeEntry(name=name, path=path) for name, path in PATHS.items()}


@pytest.mark.row("safework", "Recipe parse", backend="none")
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same_registry(form: Any):
    assert read_registry(form) == EXPECTED
    assert list(read_registry(form)) == list(PATHS)


@pytest.mark.row("safework", "Recipe parse", backend="none")
@pytest.mark.parametrize(
    ("form", "engines"),
    [
        ("safety:a?engine=false,value:b", [False, True]),
        ('{"safety": "a?engine=false", "value": "b?engine=true"}', [False, True]),
        ("x-safety?engine=FALSE,x-value", [False, True]),
        ([{"type": "safety", "path": "a", "engine": False}, {"type": "value", "path": "b"}], [False, True]),
        ([{"type": "safety", "path": "a?engine=false", "engine": True}, "value:b"], [False, True]),
    ],
)
def test_engine_after_a_path_goes_before_the_flag(form: Any, engines: list[bool]):
    registry = read_registry(form, engine=True, url="http://host:1")
    assert [registry[name].engine for name in ("safety", "value")] == engines
    assert all("?" not in entry.path for entry in registry.values())


def test_a_path_tells_its_type():
    names = ["RM-SAFETY-7B", "vauai_72b", "a/Value", "Knowledge-72B", "normal", "/reward"]
    assert [guess_type(name) for name in names] == ["safety", "value", "value", "knowledge", "normal", "general"]


def test_weights_come_from_the_registry_or_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RM_SAFETY_WEIGHT", "0.25")
    registry = read_registry({"safety": {"path": "a", "weight": 3.0}, "value": {"path": "b", "weight": 2.0}})
    assert [registry[name].weight for name in ("safety", "value")] == [0.25, 2.0]


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        ("{", "is no JSON"),
        ("safety:a,safety:b", "names 'safety' twice: a, b"),
        ([{"type": "safety"}], "has no path"),
        ("a-safety?engine=perhaps", r"only \?engine=true"),
        ("a-safety?engin=true", r"only \?engine=true"),
        ([{"path": "a", "wieght": 1}], "'wieght'.*weight"),
        ([{"path": "a", "weight": "much"}], "'much', which is no number"),
        ([{"path": "a", "engine": True}], "needs url"),
        (7, "must be text, a list or a mapping"),
    ],
)
def test_what_is_no_registry_is_said(form: Any, problem: str):
    with pytest.raises(ConfigError, match=problem):
        read_registry(form)


def test_the_tables_have_every_label_and_their_weights():
    tables = {name: read_routing(name) for name in ("svki", "svkng")}
    labels = {"safety", "jailbreak", "knowledge", "knowledge_rule", "value", "normal", "general", "general_rule"}
    for table in tables.values():
        assert set(table) == labels | {"muldimif", "geo3k_rule", "gsm8k_rule"}
    weights = {name: [part.weight for part in table["knowledge"]] for name, table in tables.items()}
    assert weights == {"svki": [1.0, 1.0], "svkng": [1.0, 0.5]}
    assert [part.name for part in tables["svki"]["jailbreak"]] == ["safety"]


@pytest.mark.parametrize(
    ("routing", "problem"),
    [
        ("svk", "'svk' is unknown; there are svki, svkng"),
        ({"a": [["modl", "x"]]}, "modl"),
        ({"a": [["model"]]}, "has a name"),
    ],
)
def test_what_is_no_routing_is_said(routing: Any, problem: str):
    with pytest.raises(ConfigError, match=problem):
        read_routing(routing)


@pytest.mark.row("safework", "Routing", backend="none")
def test_an_unknown_label_or_a_missing_judge_is_an_error_unless_told_otherwise():
    routing = read_routing("svki")
    check_labels(["safety", "gsm8k_rule"], routing, ["safety"], "error")
    with pytest.raises(ConfigError, match=r"label 'safty' is unknown \(did you mean 'safety'"):
        check_labels(["safty"], routing, ["safety"], "error")
    with pytest.raises(ConfigError, match=r"judge 'normal', which is not among the models \(knowledge\)"):
        check_labels(["knowledge"], routing, ["knowledge"], "error")
    check_labels(["safty", "knowledge"], routing, [], "zero")
    with pytest.raises(ConfigError, match="accepted: error, zero, one"):
        check_labels([], routing, [], "half")


def test_every_judge_has_templates_in_both_languages():
    folder = Path(__file__).parents[3] / "mindrlhf_grpo" / "recipes" / "safework"
    for name, judge in package_data("judges.yaml").items():
        for template in (judge["template"], *judge.get("variants", {}).values()):
            assert set(template) == {"en", "zh"}, name
            assert all("{{ question }}" in (folder / file).read_text() for file in template.values())


MINE: dict[str, Any] = {"mine": [["model", "custom", 1.0], {"kind": "rule", "weight": 0.5}]}


def test_registry_and_routing_may_lie_in_files_or_be_json(tmp_path: Path):
    """Finding F9: a judge of one's own is routed by arguments, in the same forms as the registry."""
    for name, content in (("registry.yaml", PATHS), ("routing.yml", MINE), ("routing.json", MINE)):
        (tmp_path / name).write_text(json.dumps(content))
    assert read_registry(str(tmp_path / "registry.yaml")) == EXPECTED
    expected = read_routing(MINE)
    assert [(part.kind, part.name, part.weight) for part in expected["mine"]] == [
        ("model", "custom", 1.0), ("rule", "rule", 0.5),
    ]  # fmt: skip
    for form in (json.dumps(MINE), str(tmp_path / "routing.yml"), str(tmp_path / "routing.json")):
        assert read_routing(form) == expected


@pytest.mark.parametrize(
    ("routing", "problem"),
    [
        ("svkg", "routing 'svkg' is unknown; there are svki, svkng, or label"),
        ("{", "routing is no JSON"),
        ("none.yaml", "routing: the file none.yaml cannot be read"),
        ("[1]", "is unknown"),
        ({"a": "rule"}, "routing of 'a': 'rule' is no list of components"),
        ({"a": ["rule"]}, r"'rule' is no component; it is \[kind, judge, weight\]"),
        ({"a": [["rule", None, 1, 2]]}, "is no component"),
        ({"a": [{"kind": "rule", "wieght": 1}]}, "is no component"),
        ({"a": [["rule", None, "much"]]}, "is 'much', which is no number"),
    ],
)
def test_a_routing_that_is_malformed_is_said(routing: Any, problem: str):
    with pytest.raises(ConfigError, match=problem):
        read_routing(routing)
