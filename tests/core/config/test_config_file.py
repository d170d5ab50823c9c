"""Configuration files: values, overrides, and messages that name the place and what is accepted there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindrlhf_grpo.config import yaml_source
from mindrlhf_grpo.config.file import dump, json_schema, load_config
from mindrlhf_grpo.config.keys import Key, catalogue
from mindrlhf_grpo.config.offline import OfflineConfig
from mindrlhf_grpo.config.run import RunConfig
from mindrlhf_grpo.errors import ConfigError

MINIMAL = """\
model:
  path: m
data:
  source: rows.jsonl
rewards:
  - function: exact_match
"""
REPOSITORY = Path(__file__).parents[3]


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str, *overrides: str) -> RunConfig:
    return load_config(write(folder, text), overrides)


def refused(folder: Path, text: str, *overrides: str) -> str:
    """The message, with the folder's name left out."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text, *overrides)
    return str(caught.value).replace(f"{folder}/", "")


# ---- values


def test_minimal_file_takes_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL)
    assert (config.model.path, config.rollout.group_size, config.train.learning_rate) == ("m", 8, 1e-6)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-5", 1e-5), ("1E-5", 1e-5), ("1.0e-5", 1e-5), ("5", 5.0), (".5", 0.5), ("'1e-3'", 1e-3), ("+2e+1", 20.0)],
)
def test_numbers_are_read_as_people_write_them(tmp_path: Path, text: str, value: float) -> None:
    assert load(tmp_path, f"{MINIMAL}train:\n  learning_rate: {text}\n").train.learning_rate == value


@pytest.mark.parametrize(
    ("text", "value"), [("on", True), ("off", False), ("yes", True), ("No", False), ("true", True)]
)
def test_booleans_accept_words(tmp_path: Path, text: str, value: bool) -> None:
    assert (
        load(tmp_path, f"{MINIMAL}checkpoint:\n  keep_last: 1\ntrain:\n", f"model.recompute={text}").model.recompute
        is value
    )


def test_words_for_text_stay_text(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL.replace("rows.jsonl", "rows.jsonl\n  system_prompt: no"))
    assert config.data.system_prompt == "no"


def test_leading_zero_is_decimal_and_colons_are_no_sexagesimals(tmp_path: Path) -> None:
    assert load(tmp_path, f"{MINIMAL}seed: 010\n").seed == 10
    assert load(tmp_path, MINIMAL, "data.source=reasoning_gym:12:30").data.source == "reasoning_gym:12:30"


def test_aliases_and_merges(tmp_path: Path) -> None:
    text = MINIMAL.replace("source: rows.jsonl", "source: &rows\n    name: a.jsonl\n    split: train")
    config = load(tmp_path, f"{text}eval:\n  source:\n    <<: *rows\n    split: test\n")
    assert config.eval.source == {"name": "a.jsonl", "split": "test"}


def test_empty_sections_take_their_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, f"{MINIMAL}train:\neval: ~\n").train.steps == 100


def test_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
    assert load_config(path, []).model.path == "m"


# ---- overrides


def test_overrides_replace_add_and_index(tmp_path: Path) -> None:
    config = load(
        tmp_path, MINIMAL, "train.steps=3", "train.steps=4", "rewards.0.weight=2", "rewards.1.function=length",
        "rewards.1.arguments.target=4", "data.source.name=x.jsonl", "rollout.stop=[a, 'b']", "algorithm.preset=null",
    )  # fmt: skip
    assert config.train.steps == 4
    assert [(r.function, r.weight) for r in config.rewards] == [("exact_match", 2.0), ("length", 1.0)]
    assert config.rewards[1].arguments == {"target": 4}
    assert (config.data.source, config.rollout.stop, config.algorithm.preset) == ({"name": "x.jsonl"}, ["a", "b"], None)


@pytest.mark.parametrize(
    ("written", "value"),
    [("5", "5"), ("Answer: yes", "Answer: yes"), ("{{x}}", "{{x}}"), ("[a", "[a"), ("'5'", "5"), ("", None)],
)
def test_overrides_of_text_need_no_quotes(tmp_path: Path, written: str, value: str | None) -> None:
    assert load(tmp_path, MINIMAL, f"data.system_prompt={written}").data.system_prompt == value


def test_a_section_can_be_replaced_whole(tmp_path: Path) -> None:
    config = load(tmp_path, f"{MINIMAL}train:\n  steps: 7\n", "train={prompts_per_step: 2}")
    assert (config.train.steps, config.train.prompts_per_step) == (100, 2)


# ---- messages


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("train:\n  learnig_rate: 1\n", "run.yaml:8: unknown key train.learnig_rate; did you mean train.learning_rate?"),
        ("train:\n  num_generations: 8\n", "run.yaml:8: unknown key train.num_generations; trl: here it is rollout.group_size"),
        ("trian:\n  steps: 8\n", "run.yaml:7: unknown key trian; did you mean train?"),
        ("steps: 8\n", "run.yaml:7: unknown key steps; did you mean train.steps?"),
        ("train:\n  every: 8\n", "run.yaml:8: unknown key train.every; did you mean eval.every or checkpoint.every?"),
        ("train:\n  group_size: 8\n", "run.yaml:8: unknown key train.group_size; did you mean rollout.group_size?"),
        ("train.steps: 8\n", "run.yaml:7: unknown key train.steps; in a file it is nested: steps under train"),
        (
            "actor_rollout_ref:\n  rollout:\n    n: 8\n  ppo_epochs: 1\n",
            "2 problems:\n  run.yaml:8: unknown key actor_rollout_ref.rollout; did you mean rollout?\n"
            "  run.yaml:10: unknown key actor_rollout_ref.ppo_epochs; verl: here it is algorithm.inner_epochs",
        ),
        (
            "checkpoint:\n  xyzzy: 8\n",
            "run.yaml:8: unknown key checkpoint.xyzzy; checkpoint has every, keep_last, keep_best, damaged",
        ),
        ("train:\n  steps: 0\n", "run.yaml:8: train.steps: 0 is not accepted; it takes a whole number, at least 1"),
        ("train:\n  steps: ten\n", "run.yaml:8: train.steps: 'ten' is not accepted; it takes a whole number, at least 1"),
        ("train:\n  steps: 1.5\n", "run.yaml:8: train.steps: 1.5 is not accepted; it takes a whole number, at least 1"),
        ("train:\n  steps: true\n", "run.yaml:8: train.steps: true is not accepted; it takes a whole number, at least 1"),
        ("train:\n  steps:\n", "run.yaml:8: train.steps: null is not accepted; it takes a whole number, at least 1"),
        ("train: 5\n", "run.yaml:7: train: 5 is not accepted; it takes a mapping with the keys steps, epochs, prompts_per_step, "),
        ("train: steps:5\n", "run.yaml:7: train: 'steps:5' is not accepted; is a space missing after the colon? it takes"),
        (
            "algorithm:\n  clip_low: 1\n",
            "run.yaml:8: algorithm.clip_low: 1 is not accepted; it takes a number, above 0 and below 1, or null",
        ),
        ("train:\n  max_grad_norm: .nan\n", "run.yaml:8: train.max_grad_norm: nan is not accepted; it takes a number, at least 0"),
        (
            "train:\n  schedule: cosin\n",
            "run.yaml:8: train.schedule: 'cosin' is not accepted; did you mean cosine? it takes one of constant, linear, cosine",
        ),
        (
            "tracking:\n  to:\n    - wandb\n    - tensorbord\n",
            "run.yaml:10: tracking.to.1: 'tensorbord' is not accepted; did you mean tensorboard? it takes a list, each item",
        ),
        ("train:\n  betas: [0.9]\n", "run.yaml:8: train.betas"),
        ("train:\n  steps: 1\n  steps: 2\n", "run.yaml:9: duplicate key train.steps, already on line 8"),
        ("train:\n\tsteps: 1\n", "run.yaml:8: invalid YAML: a tab; indent with spaces"),
        ("train: [1\n", "run.yaml:8: invalid YAML"),
        ("seed: 1: 2\n", "run.yaml:7: invalid YAML: mapping values are not allowed here (text that contains ': '"),
        ("--- \nseed: 1\n", "run.yaml:7: invalid YAML: `---` starts a second document"),
        ("seed: !!python/object:os.system x\n", "run.yaml:7: tag tag:yaml.org,2002:python/object:os.system is not accepted"),
        ("seed: !!int x\n", "run.yaml:7: 'x' is not a YAML int"),
        ("? [a]\n: 1\n", "run.yaml:7: a key must be text"),
        ("eval: &a {source: {b: *a}}\n", "run.yaml:1: invalid YAML: nested too deeply, or an alias that contains itself"),
        ("train: *nowhere\n", "run.yaml:7: invalid YAML: found undefined alias 'nowhere'"),
        ("checkpoint:\n  keep_best: true\n", "run.yaml:8: checkpoint.keep_best needs eval.source, the held-out prompts"),
        (
            "rollout:\n  min_tokens: 9\n  max_tokens: 8\n",
            "run.yaml:8: rollout.min_tokens (9) is above rollout.max_tokens (8)",
        ),
        ("train:\n  prompts_per_step: 5\nalgorithm: {updates_per_batch: 2}\n", "run.yaml:8: train.prompts_per_step (5) must be"),
    ],
)  # fmt: skip
def test_each_mistake_in_a_file_is_named_with_its_line(tmp_path: Path, added: str, message: str) -> None:
    assert refused(tmp_path, MINIMAL + added).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "run.yaml is empty; a configuration has backend, run_dir, seed, model, data, rewards"),
        ("# nothing\n", "run.yaml is empty"),
        ("- a\n", "run.yaml holds ['a'], not a mapping"),
        ("hello\n", "run.yaml holds 'hello', not a mapping"),
        (
            MINIMAL.replace("  path: m", "  dtype: float32"),
            "run.yaml:1: missing key model.path, text: Folder or hub id",
        ),
        (MINIMAL.replace("model:\n  path: m\n", ""), "run.yaml: missing section model, a mapping with the keys path, "),
        (
            MINIMAL.replace("  - function: exact_match", "  []"),
            "run.yaml:5: rewards: [] is not accepted; it takes a list",
        ),
        (MINIMAL.replace("- function", "function"), "run.yaml:5: rewards: {'function': 'exact_match'} is not accepted"),
        (MINIMAL.replace("- function: exact_match", "- weight: 1"), "run.yaml:6: missing key rewards.0.function, text"),
        (
            f"{MINIMAL}  - function: exact_match\n",
            "run.yaml:5: rewards have the same name twice: exact_match, exact_match",
        ),
        (f"{MINIMAL}    wieght: 1\n", "run.yaml:7: unknown key rewards.0.wieght; did you mean rewards.0.weight?"),
    ],
)
def test_each_mistake_in_the_shape_is_named(tmp_path: Path, text: str, message: str) -> None:
    assert refused(tmp_path, text).startswith(message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.steps=x",
            "override train.steps=x: train.steps: 'x' is not accepted; it takes a whole number, at least 1",
        ),
        ("train.stepz=1", "override train.stepz=1: unknown key train.stepz; did you mean train.steps?"),
        (
            "actor_rollout_ref.rollout.n=4",
            "override actor_rollout_ref.rollout.n=4: unknown key actor_rollout_ref.rollout.n; verl: ",
        ),
        ("beta=0", "override beta=0: unknown key beta; trl: here it is algorithm.kl_coef"),
        ("train.steps", "override train.steps: expected key=value, like train.steps=20"),
        ("=5", "override =5: expected key=value, like train.steps=20"),
        ("rewards.2.weight=1", "override rewards.2.weight=1: 2 is no item of rewards, which has 1; indices start at 0"),
        (
            "rewards.x.weight=1",
            "override rewards.x.weight=1: unknown key rewards.x.weight; did you mean rewards.N.weight?",
        ),
        ("rollout.stop=[a", "override rollout.stop=[a: invalid YAML"),
        ("seed.x=1", "override seed.x=1: unknown key seed.x; "),
    ],
)
def test_each_mistake_in_an_override_is_named_with_it(tmp_path: Path, override: str, message: str) -> None:
    assert refused(tmp_path, MINIMAL, override).startswith(message)


def test_all_problems_are_listed_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = f"{MINIMAL}train:\n  steps: 0\n  stepz: 1\nrollout:\n  top_p: 2\n"
    lines = refused(tmp_path, text, "seed=-1").splitlines()
    assert lines[0] == "4 problems:"
    assert [line.strip().split(": ")[0] for line in lines[1:]] == [
        "run.yaml:8",
        "run.yaml:9",
        "run.yaml:11",
        "override seed=-1",
    ]


def test_a_mended_key_is_no_problem(tmp_path: Path) -> None:
    assert load(tmp_path, f"{MINIMAL}train:\n  steps: 0\n", "train.steps=2").train.steps == 2


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path, MINIMAL)
    with pytest.raises(ConfigError, match=r"rum\.yaml does not exist; did you mean .*run\.yaml\?"):
        load_config(tmp_path / "rum.yaml", [])
    with pytest.raises(ConfigError, match="there is no folder"):
        load_config(tmp_path / "no" / "run.yaml", [])
    with pytest.raises(ConfigError, match=r"is a folder; give the configuration file in it \(run\.yaml\)"):
        load_config(tmp_path, [])
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(f"{MINIMAL}# caf\u00e9\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml:7: byte 0xe9 is not UTF-8"):
        load_config(latin, [])
    with pytest.raises(ConfigError, match=r"run\.yaml:7: invalid YAML: character '.x00' is not allowed"):
        load(tmp_path, f"{MINIMAL}\0")


def test_aliases_that_multiply_are_refused(tmp_path: Path) -> None:
    bomb = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10) if n else 'x'}]\n" for n in range(9))
    assert "expand to more than" in refused(tmp_path, bomb)


# ---- back to text


def test_dump_round_trips_every_example() -> None:
    for path in sorted((REPOSITORY / "examples").rglob("*.yaml")):
        if not isinstance(yaml_source.parse(path.read_text()).value.get("model"), dict):
            continue  # a chain of runs, or another system's settings that a recipe reads
        config = load_config(path, [])
        document = yaml_source.parse(dump(config))
        assert not document.problems
        assert type(config).model_validate(document.value) == config


def test_dump_round_trips_hard_text(tmp_path: Path) -> None:
    hard = [
        "1e-5",
        "on",
        "null",
        "~",
        "0o17",
        "1_000",
        "12:30",
        "2024-01-01",
        "<<",
        "=",
        " a",
        "a: b",
        "é\n\tx",
        "",
        "- x",
    ]
    config = load(tmp_path, MINIMAL).model_copy(deep=True)
    config = config.model_copy(update={"rollout": config.rollout.model_copy(update={"stop": hard})})
    assert load(tmp_path, dump(config)) == config


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(values)
def test_yaml_written_here_reads_back_unchanged(value: Any) -> None:
    document = yaml_source.parse(yaml_source.dump({"key": value}))
    assert not document.problems
    assert document.value == {"key": value}


@pytest.mark.parametrize(("name", "root"), [("config.schema.json", None), ("offline.schema.json", OfflineConfig)])
def test_schema_files_have_the_keys_of_the_code(name: str, root: type[OfflineConfig] | None) -> None:
    committed, ours = json.loads((REPOSITORY / "docs" / name).read_text(encoding="utf-8")), json_schema(root)
    assert facts(committed) == facts(ours), "run: make docs"


def facts(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Default, limits and choices of every key of every section."""
    sections = {"": schema, **schema["$defs"]}
    return {
        f"{section}.{name}": {kind: value for kind, value in entry.items() if kind not in ("description", "peers")}
        for section, content in sections.items()
        for name, entry in content.get("properties", {}).items()
    }


def test_schema_refuses_unknown_keys_and_describes_known_ones() -> None:
    schema = json_schema()
    json.dumps(schema)
    assert schema["$defs"]["TrainConfig"]["additionalProperties"] is False
    assert schema["$defs"]["RolloutConfig"]["properties"]["group_size"]["description"] == "Completions per prompt (G)."
    assert schema["$defs"]["RunConfig"]["required"] == ["model", "data", "rewards"]


def test_the_schema_fits_both_kinds_of_file() -> None:
    """Finding "Docs": config.schema.json was for online runs only, and editors marked every other file as wrong."""
    schema = json_schema()
    assert schema["if"] == {"required": ["objective"]}
    assert schema["then"] == {"$ref": "#/$defs/OfflineConfig"}
    assert schema["else"] == {"$ref": "#/$defs/RunConfig"}
    assert "objective" in schema["$defs"]["OfflineConfig"]["properties"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            f"{MINIMAL}objective: {{name: dpo}}\n",
            "rewards belongs to an online run, and objective to training on a fixed",
        ),
        (
            "model: {path: m}\ndata: {source: d}\nobjective: {name: dpo}\nrollout: {group_size: 4}\n",
            "rollout belongs to",
        ),
        (f"{MINIMAL}nonsense: {{xyzzy: 1}}\n", "unknown key nonsense; a configuration has backend, run_dir"),
        (f"{MINIMAL}train: {{xyzzy: 1}}\n", "unknown key train.xyzzy; train has steps"),
    ],
)
def test_an_unknown_section_is_answered_with_the_names_of_its_own_place(tmp_path: Path, text: str, said: str) -> None:
    """Finding P4: ``unknown key rollout.group_size; rollout has backend, run_dir, ...``."""
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, text)
    assert said in str(refused.value)
    assert "rollout has backend" not in str(refused.value)


# ---- the catalogue


def always_there() -> list[Key]:
    """The keys outside sections that are null unless asked for."""
    optional = [key.path for key in catalogue().records.values() if key.optional]
    return [key for key in catalogue().leaves() if not any(key.path.startswith(f"{section}.") for section in optional)]


def test_each_key_is_described_in_words() -> None:
    keys = catalogue().leaves()
    assert [key.path for key in keys if len(key.description) < 10] == []
    assert [key.path for key in keys if "class" in key.accepted or "typing" in key.accepted] == []


def test_every_default_is_accepted_as_written(tmp_path: Path) -> None:
    keys = always_there()
    given_defaults = [f"{key.path.replace('.N.', '.0.')}={key.default}" for key in keys if key.default is not None]
    assert load(tmp_path, MINIMAL, *given_defaults) == load(tmp_path, MINIMAL)
    assert len(given_defaults) == len(keys) - 3  # model.path, data.source, rewards.N.function


def test_a_section_that_may_be_absent_stays_so_and_takes_its_defaults_when_empty(tmp_path: Path) -> None:
    absent = load(tmp_path, MINIMAL, "critic=null")
    assert absent.critic is None
    assert load(tmp_path, dump(absent)).critic is None
    present = load(tmp_path, MINIMAL + "critic: {}\n").critic
    assert present is not None
    assert (present.value_clip, present.warmup_steps) == (0.2, 0)
    assert "critic: a mapping" not in refused(tmp_path, MINIMAL + "critic: {value_clop: 1}\n")
    assert "did you mean critic.value_clip?" in refused(tmp_path, MINIMAL + "critic: {value_clop: 1}\n")


def test_ranges_are_told_in_words() -> None:
    told = {path: key.accepted for path, key in catalogue().records.items()}
    assert told["rollout.top_p"] == "a number, above 0 and at most 1"
    assert told["train.betas"] == "a list of 2, each a number, at least 0 and below 1"
    assert told["data.source"] == "text or a mapping or a list, each item text or a mapping"
    assert told["algorithm.std_ddof"] == "one of 0, 1, or null"
