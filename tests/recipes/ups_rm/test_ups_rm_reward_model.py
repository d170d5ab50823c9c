"""The reward model on torch: every shape of scores, padding, templates, its own code, head trainer, merge and check."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.config.run import ModelConfig, TrainConfig
from mindrlhf_grpo.errors import ConfigError, DataError, RunFailed
from mindrlhf_grpo.recipes.ups_rm.reward_model import backend_config, scorer_settings
from mindrlhf_grpo.rewards.models.reward_model import Scorer, ScorerSettings
from mindrlhf_grpo.rewards.models.score_shapes import last_valid, sequence_scores
from mindrlhf_grpo.rewards.models.written_answers import written_group
from mindrlhf_grpo.rewards.sources import RewardModelSource
from mindrlhf_grpo.tokenizers.tokenizer import load_tokenizer
from mindrlhf_grpo.types import FinishReason, Prompt, Rollout, RolloutGroup
from tests.support.recipes import ups_rm_files

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

MODEL = {"backend": "torch", "device": "cpu", "dtype": "float32"}
QUESTION, ANSWERS = "how do you make a cake", ("bad help", "good kind moon river stone", "train", "moon bad")
MASK = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]])


def backend(folder: Path) -> Any:
    from mindrlhf_grpo_torch import build

    return build(backend_config(str(folder), MODEL))


def scores(folder: Path, **settings: Any) -> np.ndarray:
    found = Scorer(scorer_settings(str(folder), {**MODEL, **settings}), backend(folder)).score(
        [written_group(0, QUESTION, ANSWERS)]
    )
    return np.asarray(found)


@pytest.fixture(scope="module")
def native(raw: Path) -> np.ndarray:
    return scores(raw / "rm")


@pytest.mark.row("ups_rm", "RM shapes", backend="none")
def test_four_shapes_of_scores_are_one_number_a_sequence() -> None:
    tokens = np.arange(12.0).reshape(3, 4)
    expected = [2.0, 7.0, 8.0]
    assert sequence_scores(np.array(expected), MASK).tolist() == expected
    assert sequence_scores(np.array(expected)[:, None], MASK).tolist() == expected
    assert sequence_scores(tokens, MASK).tolist() == expected
    assert sequence_scores(tokens[:, :, None], MASK).tolist() == expected
    assert sequence_scores(tokens[:, :1], MASK[:, :1]).tolist() == [0.0, 4.0, 8.0]  # T = 1: both readings are one
    with pytest.raises(ConfigError, match=r"for 3 sequences of 4 tokens has the shape \[3, 4, 2\]; accepted: \[3\]"):
        sequence_scores(np.zeros((3, 4, 2)), MASK)


@pytest.mark.row("ups_rm", "RM shapes", backend="none")
def test_the_last_valid_token_is_found_with_padding_on_either_side() -> None:
    assert last_valid(MASK).tolist() == [2, 3, 0]
    tokens, padding = np.arange(12.0).reshape(3, 4), [1, 0, 3]
    left, mask = (
        np.stack([np.roll(row, by) for row, by in zip(rows, padding, strict=True)]) for rows in (tokens, MASK)
    )
    assert mask.tolist() == [[0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]]
    assert last_valid(mask).tolist() == [3, 3, 3]  # sum - 1 would say 2, 3, 0
    assert sequence_scores(left, mask).tolist() == sequence_scores(tokens, MASK).tolist() == [2.0, 7.0, 8.0]
    with pytest.raises(ValueError, match="a 1 in every row"):
        last_valid(np.zeros((1, 2)))


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (
            "raise RuntimeError('my bug')",
            r"the code of reward model '.*' failed: RuntimeError: my bug \(.*/rm/modeling_myrm.py:\d+\)",
        ),
        (
            "states = states * float('nan')",
            r"reward model '.*' gave none of 4 completions a value: the first has the value nan",
        ),
    ],
)
def test_the_folders_own_code_that_fails_is_named_with_its_line(
    raw: Path, tmp_path: Path, broken: str, problem: str
) -> None:
    """Finding F12: an exception was called a bug of ours, and NaN skipped every step with exit code 0."""
    folder = tmp_path / "rm"
    shutil.copytree(raw / "rm", folder)
    code = (folder / "modeling_myrm.py").read_text().splitlines(keepends=True)
    at = next(place for place, line in enumerate(code) if "self.myscore(states[" in line)
    indent = code[at][: len(code[at]) - len(code[at].lstrip())]
    (folder / "modeling_myrm.py").write_text("".join([*code[:at], f"{indent}{broken}\n", *code[at:]]))
    settings = scorer_settings(str(folder), {**MODEL, "trust_remote_code": True})
    source = RewardModelSource(scorer=Scorer(settings, backend(folder)))
    with pytest.raises(RunFailed, match=problem) as raised:
        source.score([written_group(0, QUESTION, ANSWERS)], {})
    if "modeling" in problem:
        assert f"modeling_myrm.py:{at + 1})" in str(raised.value)


@pytest.mark.row("ups_rm", "RM shapes")
@pytest.mark.parametrize("shape", ["[B, 1]", "[B]", "[B, T]", "[B, T, 1]"])
def test_the_folders_own_code_gives_the_native_score_in_every_shape(
    raw: Path, tmp_path: Path, native: np.ndarray, shape: str
) -> None:
    """The folder's code runs only on request; native reading needs none."""
    folder = tmp_path / f"rm{shape.count(',')}{'T' in shape}"
    shutil.copytree(raw / "rm", folder)
    code = (folder / "modeling_myrm.py").read_text()
    picked = "self.myscore(states[torch.arange(size[0], device=states.device), last])"
    assert picked in code
    other = {
        "[B, 1]": picked,
        "[B]": f"{picked}[:, 0]",
        "[B, T]": "self.myscore(states)[..., 0]",
        "[B, T, 1]": "self.myscore(states)",
    }
    (folder / "modeling_myrm.py").write_text(code.replace(picked, other[shape]))
    assert np.abs(scores(folder, trust_remote_code=True, tokens_per_micro_batch=40) - native).max() < 1e-5
    (folder / "modeling_myrm.py").write_text("raise SystemExit('this code is not to be run')")
    assert np.array_equal(scores(folder), native)


@pytest.mark.row("ups_rm", "RM shapes")
def test_the_score_does_not_depend_on_padding_or_on_its_side(raw: Path, native: np.ndarray) -> None:
    model = transformers.AutoModelForTokenClassification.from_pretrained(raw / "rm", trust_remote_code=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(raw / "rm", trust_remote_code=True)
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": answer}], tokenize=False
        )
        for answer in ANSWERS
    ]
    for side in ("left", "right"):
        tokenizer.padding_side = side
        inputs = tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
        assert inputs["attention_mask"].sum(1).unique().numel() > 1
        with torch.no_grad():
            logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        assert logits.shape == (4, 1)
        assert np.abs(logits[:, 0].numpy() - native).max() < 1e-5
    for row, answer in enumerate(ANSWERS):
        one = Scorer(scorer_settings(str(raw / "rm"), MODEL), backend(raw / "rm")).score(
            [written_group(0, QUESTION, [answer])]
        )
        assert one[0] == pytest.approx(native[row], abs=1e-5)


@pytest.mark.row("ups_rm", "Template switch")
def test_the_answer_goes_from_the_policys_tokens_to_the_reward_models_template(raw: Path) -> None:
    policy, seen = load_tokenizer(str(raw / "policy")), load_tokenizer(str(raw / "rm"))
    ids = np.asarray([*policy.encode("good bad"), policy.eos_ids[0]])
    rollout = Rollout(
        sample=0, ids=ids, logps=np.zeros(3, np.float32), finish=FinishReason.STOP, text=policy.decode(ids.tolist())
    )
    asked = [{"role": "user", "content": QUESTION}]
    prompt = Prompt(uid=0, ids=np.asarray(policy.chat(asked)), text=QUESTION, messages=tuple(asked))
    scorer = Scorer(ScorerSettings(model=str(raw / "rm"), end="template"), backend(raw / "rm"))
    (given, start) = scorer.sequence(prompt, rollout)
    text = " ".join(seen.piece(token).strip() for token in given)
    assert text == "[begin] [Q] how do you make a cake [end] [A] good bad [end]"  # <end> of the policy is gone
    assert start == 9
    assert policy.chat(asked) != given[:9]
    short = Scorer(ScorerSettings(model=str(raw / "rm"), end="template", max_tokens=11), backend(raw / "rm"))
    assert short.sequence(prompt, rollout)[0] == given[:11]


@pytest.mark.row("ups_rm", "Template switch")
def test_with_the_policys_own_tokenizer_nothing_is_switched(raw: Path, tmp_path: Path) -> None:
    """The reward model gets the ids as they were sampled."""
    shutil.copytree(raw / "rm", tmp_path / "rm")
    for path in (raw / "policy").glob("tokenizer*"):
        shutil.copy(path, tmp_path / "rm" / path.name)
    settings = ScorerSettings(model=str(tmp_path / "rm"), tokens="same")
    scorer = Scorer(settings, backend(tmp_path / "rm"), policy_tokenizer=raw / "policy")
    group = written_group(0, "x", ["whatever"])
    assert scorer.sequence(group.prompt, group.rollouts[0]) == ([0, 0], 1)
    with pytest.raises(ConfigError, match=r"tokens: same needs the policy's tokenizer, but tokenizer\.json differs"):
        Scorer(
            ScorerSettings(model=str(raw / "rm"), tokens="same"), backend(raw / "rm"), policy_tokenizer=raw / "policy"
        )


@pytest.mark.row("ups_rm", "Sign")
def test_a_response_without_tokens_has_no_score(raw: Path) -> None:
    empty = Rollout(
        sample=1, ids=np.zeros(0, np.int64), logps=np.zeros(0, np.float32), finish=FinishReason.STOP, text=""
    )
    group = written_group(0, QUESTION, ANSWERS[:1])
    groups = [RolloutGroup(prompt=group.prompt, rollouts=(*group.rollouts, empty))]
    settings = scorer_settings(str(raw / "rm"), {**MODEL, "squash": "sigmoid_neg"})
    found = Scorer(settings, backend(raw / "rm")).score(groups)
    assert 0 < found[0] < 1
    assert np.isnan(found[1])


def test_the_head_reads_what_numpy_says_it_does(raw: Path, native: np.ndarray) -> None:
    scorer = Scorer(scorer_settings(str(raw / "rm"), MODEL), backend(raw / "rm"))
    embeddings = scorer.embeddings([written_group(0, QUESTION, ANSWERS)])
    assert embeddings.shape == (4, 48)
    assert np.abs(ups_rm_files.random_head().apply(embeddings) - native).max() < 1e-5
    assert np.ptp(native) > 0.1


def test_a_critic_or_further_training_can_start_from_it(raw: Path, tmp_path: Path) -> None:
    model = ModelConfig(path=str(raw / "rm"), device="cpu")
    made = backend(raw / "rm").load_value_model(model, TrainConfig(), read_at="token")
    assert sorted(made.stored_head.tensors)[:2] == ["score.0.bias", "score.0.weight"]
    made.save_model(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (config["model_type"], config["score_activation"]) == ("llama", "leaky_relu")
    again = backend(raw / "rm").load_value_model(
        ModelConfig(path=str(tmp_path / "saved"), device="cpu"), TrainConfig(), read_at="token"
    )
    assert again.fingerprint() == made.fingerprint()


@pytest.mark.row("ups_rm", "Check scripts")
def test_a_reward_model_is_checked_against_its_own_code(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ups_rm_files.run("check-rm", "--model_path", raw / "rm", "--prompt", QUESTION, "--response", "bad", "--response", "good", "--own-code", "--device", "cpu")  # fmt: skip
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["model_type"], report["hidden_dim_str"]) == ("myrm", "8,4")
    assert report["own_code_differs_by"] < 1e-5
    for scored in report["scores"]:
        assert scored["safe"] == pytest.approx(1 / (1 + np.exp(scored["logit"])))


@pytest.mark.row("ups_rm", "Check scripts", backend="none")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "is a model of type 'llama'; a reward model of this recipe has 'myrm'"),
        (
            {"hidden_dim_str": "8"},
            r"does not fit hidden_dim_str '8' over 48 numbers: myscore.output_layer.weight \[1, 4\]",
        ),
        ({"hidden_dim_str": "8,4,2"}, "myscore.layers.2.weight is missing"),
        ({"hidden_dim_str": "8;4"}, "hidden_dim_str in config.json is '8;4'; accepted: widths like '256,64'"),
    ],
)
def test_another_model_type_or_a_head_that_does_not_fit_fails(
    raw: Path, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    shutil.copytree(raw / "rm", tmp_path / "rm")
    config = json.loads((tmp_path / "rm" / "config.json").read_text())
    (tmp_path / "rm" / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ConfigError, match=message):
        ups_rm_files.run("check-rm", "--model_path", tmp_path / "rm", "--device", "cpu")


def test_a_folder_without_a_head_is_no_reward_model(raw: Path) -> None:
    with pytest.raises(ConfigError, match="has no head of one number, only a language model's weights"):
        Scorer(ScorerSettings(model=str(raw / "body")), backend(raw / "body"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"prompt": "x"}'], r"pairs\.jsonl:1: prompt and response_0 must be text"),
        (["{"], "invalid JSON"),
        ([{"response_0": "good", "response_1": "kind"}], "0 rows are too few"),
        ([{"response_0": "good", "response_1": "kind", "is_response_0_safe": True, "is_response_1_safe": True}], "both of them there"),
    ],
)  # fmt: skip
def test_pairs_that_a_head_cannot_learn_from_are_named(
    raw: Path, tmp_path: Path, lines: Sequence[Any], message: str
) -> None:
    texts = [line if isinstance(line, str) else json.dumps({"prompt": QUESTION, **line}) for line in lines]
    (tmp_path / "pairs.jsonl").write_text("".join(text + "\n" for text in texts))
    with pytest.raises(DataError, match=message):
        ups_rm_files.run(
            "train-head", raw / "body", tmp_path / "pairs.jsonl", "--out", tmp_path / "head", "--device", "cpu"
        )
