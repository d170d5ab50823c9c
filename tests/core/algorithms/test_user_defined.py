"""A user's algorithm, loss or objective by reference: what is accepted, and one clear error for what is not."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.algorithms import references
from mindrlhf_grpo.algorithms.plan import Plan, resolve
from mindrlhf_grpo.algorithms.task import Task, resolve_objective
from mindrlhf_grpo.config.offline import OfflineConfig
from mindrlhf_grpo.config.run import AlgorithmConfig
from mindrlhf_grpo.errors import ConfigError, UserError
from mindrlhf_grpo.losses.xp import NUMPY
from mindrlhf_grpo.trainers.preflight import Findings
from tests.support.loss_cases import ADVANTAGES, LOGPS, OLD, ONES

VALUES = np.array([1.0, 0.0, 0.25, np.nan])[:, None, None]
ONE, GROUP = np.ones(1), np.zeros(4, np.int64)

ESTIMATORS = """
import numpy as np
from mindrlhf_grpo.algorithms.algorithm import Algorithm

def above_median(rewards, groups):
    result = np.zeros_like(rewards)
    for group in np.unique(groups):
        rows = groups == group
        result[rows] = rewards[rows] - np.nanmedian(rewards[rows])
    return result

RECORD = Algorithm(name="above_median", estimator=above_median, group_size=3, prescribes={"aggregation": "constant"})

def greedy(rewards, baselines):
    return rewards - baselines[:, None]

def plain_mean(rewards):
    return rewards - rewards.mean()

def flat(rewards):
    return rewards[:, 0]

def unknown_input(rewards, temperature):
    return rewards

def broken(rewards):
    return rewards / missing

def inside_numpy(rewards):
    return np.stack([rewards, rewards[:1]])

WRONG_SETTING = Algorithm(name="w", estimator=above_median, prescribes={"learning_rate": 1})
NOTHING = 7
"""


@pytest.fixture
def code(tmp_path: Path) -> Any:
    """Write a file of user code, and refer to things in it."""

    def write(text: str) -> Any:
        path = tmp_path / "mine.py"
        path.write_text(text)
        return lambda name: f"{path}:{name}"

    return write


def plan(**keys: Any) -> Plan:
    return resolve(AlgorithmConfig(**keys))


def test_an_estimator_function_is_an_algorithm(code: Any) -> None:
    own = plan(name=code(ESTIMATORS)("above_median"))
    # median of 1, 0, .25; the completion without a reward gets 0
    assert own.advantages(VALUES, ONE, GROUP).ravel().tolist() == [0.75, -0.25, 0.0, 0.0]
    assert type(own.loss) is type(plan().loss)
    assert own.settings == plan().settings
    assert own.needs == frozenset()


def test_a_record_is_an_algorithm(code: Any) -> None:
    own = plan(name=code(ESTIMATORS)("RECORD"))
    assert own.settings.aggregation == "constant"
    with pytest.raises(ConfigError, match=r"group_size is 2.*mine\.py:RECORD.*needs at least 3"):
        own.check(2)


def test_what_an_estimator_reads_is_computed_for_it(code: Any) -> None:
    assert plan(name=code(ESTIMATORS)("greedy")).needs == {"greedy"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("plain_mean", r"plain_mean \(.*mine\.py:17\) returned nan for a completion with a reward.*np.nanmean"),
        ("flat", r"flat \(.*mine\.py:20\) must return advantages \[N, K\] = \[6, 1\], not \[6\]"),
        ("unknown_input", r"mine\.py:23\): parameter temperature is no input of an estimator; it can read rewards, "),
        ("broken", r"broken failed: NameError: name 'missing' is not defined \(.*mine\.py:27\)$"),
        ("inside_numpy", r"inside_numpy failed: ValueError: .* \(.*mine\.py:30\)$"),
        ("WRONG_SETTING", "prescribes learning_rate, which is no setting of an algorithm"),
        ("NOTHING", "is a int; it must be an Algorithm or an estimator function"),
        ("above_medium", r"has no function 'above_medium' \(did you mean 'above_median'\?\)"),
    ],
)
def test_a_wrong_algorithm_is_refused_with_its_line(code: Any, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        plan(name=code(ESTIMATORS)(name))
    assert str(caught.value).startswith("algorithm.name '")


def test_preflight_reports_it_under_its_key(code: Any) -> None:
    found = Findings()
    found.attempt("algorithm", lambda: plan(name=code(ESTIMATORS)("flat")))
    assert [key for key, _ in found.problems] == ["algorithm.name"]


def test_what_fails_later_is_an_error_of_the_user(code: Any) -> None:
    own = plan(name=code("def f(rewards):\n    return rewards / (len(rewards) == 6)\n")("f"))
    with np.errstate(divide="ignore", invalid="ignore"), pytest.raises(UserError, match=r"f \(.*mine\.py:1\) returned"):
        own.advantages(VALUES, ONE, GROUP)


def test_user_code_cannot_change_the_rewards(code: Any) -> None:
    values = VALUES.copy()
    plan(name=code("def f(values):\n    values[:] = 0\n    return values[:, 0]\n")("f")).advantages(values, ONE, GROUP)
    np.testing.assert_array_equal(values, VALUES)


LOSSES = """
from __future__ import annotations
from dataclasses import dataclass
from typing import ClassVar
from mindrlhf_grpo.losses import PolicyLoss

def reinforce(xp, ratio, log_ratio, advantages, logps):
    return -advantages * logps

@dataclass(frozen=True, slots=True, kw_only=True)
class Bounded(PolicyLoss):
    bound: float = 2.0
    unused = ("clip_low", "clip_high", "dual_clip", "delta")

    def surrogate(self, xp, ratio, log_ratio, advantages, logps):
        return -xp.stop_gradient(xp.clip(ratio, None, self.bound)) * advantages * logps

@dataclass(frozen=True)
class Bare:
    scale: float = 1.0
    reads_entropy: ClassVar[bool] = False
    reads_values: ClassVar[bool] = False

    def __call__(self, xp, logps, tensors):
        trained = tensors["mask"] > 0
        return -self.scale * xp.sum(xp.where(trained, tensors["weights"] * tensors["advantages"] * logps, 0.0)), {}

def too_few(xp, ratio):
    return ratio

def outside_the_namespace(xp, ratio, log_ratio, advantages, logps):
    return xp.einsum("nt,nt->nt", ratio, advantages)

@dataclass(frozen=True)
class Leaks(Bare):
    def __call__(self, xp, logps, tensors):
        return -xp.sum(tensors["advantages"] * logps), {}

@dataclass(frozen=True)
class NoSums(Bare):
    def __call__(self, xp, logps, tensors):
        return xp.sum(xp.where(tensors["mask"] > 0, logps, 0.0))

@dataclass(frozen=True)
class PerToken(Bare):
    def __call__(self, xp, logps, tensors):
        return tensors["mask"] * logps, {}

@dataclass
class Changeable:
    reads_entropy: ClassVar[bool] = False
    reads_values: ClassVar[bool] = False

    def __call__(self, xp, logps, tensors):
        return xp.sum(logps), {}

class Plain:
    pass

@dataclass(frozen=True)
class Unread:
    pass
"""
TENSORS = {"mask": ONES, "weights": ONES, "advantages": ADVANTAGES, "old_logps": OLD}


def test_a_loss_is_a_function_or_a_dataclass(code: Any) -> None:
    reference = code(LOSSES)
    reinforce = plan(loss=reference("reinforce")).loss
    value, sums = reinforce(NUMPY, LOGPS, TENSORS)
    assert value == pytest.approx(-(ADVANTAGES * LOGPS).sum())
    assert (sums["clip_low"], sums["clip_high"]) == (0, 0)
    bounded: Any = plan(loss={"name": reference("Bounded"), "bound": 3.0}, kl_coef=0.1).loss
    assert (bounded.bound, bounded.kl_coef) == (3.0, 0.1)
    assert bounded(NUMPY, LOGPS, TENSORS | {"ref_logps": LOGPS})[0] == pytest.approx(
        -(np.minimum([[1.5, 1.1, 0.5], [1.5, 0.5, 4.0]], 3.0) * ADVANTAGES * LOGPS).sum()
    )
    bare = plan(loss={"name": reference("Bare"), "scale": 2}).loss
    assert bare(NUMPY, LOGPS, TENSORS)[0] == pytest.approx(-2 * (ADVANTAGES * LOGPS).sum())
    assert plan(loss=reference("reinforce")).loss == reinforce  # compiled steps are kept by it


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("too_few", r"mine\.py:\d+\) takes \(xp, ratio\); a loss function takes \(xp, ratio, log_ratio, "),
        ("outside_the_namespace", r"failed on literal rows: AttributeError: .*'einsum' \(.*mine\.py:32\)$"),
        ("Leaks", r"Leaks' \(.*mine\.py:\d+\) depends on tokens outside tensors\['mask'\]"),
        ("NoSums", "must return the loss and a dict of sums"),
        ("PerToken", "the loss must be one finite number"),
        ("Changeable", "must be a dataclass with frozen=True"),
        ("Plain", "must be a dataclass, whose fields are its settings"),
        ("Unread", "lacks reads_entropy"),
        ({"name": "Bounded", "bond": 3.0}, r"bond is unknown \(did you mean 'bound'\?\)"),
        ({"name": "Bounded", "clip_low": 0.1}, "clip_low has no effect"),
        ({"name": "Bounded", "bound": "x"}, "bound must be a number, not 'x'"),
    ],
)
def test_a_wrong_loss_is_refused_with_its_line(code: Any, loss: Any, message: str) -> None:
    reference = code(LOSSES)
    named = reference(loss) if isinstance(loss, str) else {**loss, "name": reference(loss["name"])}
    with pytest.raises(ConfigError, match=message) as caught:
        plan(loss=named)
    assert str(caught.value).startswith("algorithm.loss ")


def test_a_key_that_a_loss_would_ignore_is_refused(code: Any) -> None:
    reference = code(LOSSES)("Bare")
    with pytest.raises(ConfigError, match=r"algorithm.kl_coef is 0.1, which algorithm.loss .* does not read"):
        plan(loss=reference, kl_coef=0.1)
    with pytest.raises(ConfigError, match=r"algorithm.entropy.coef is 0.2, which algorithm.loss .* does not read"):
        plan(loss=reference, entropy={"coef": 0.2})
    with pytest.raises(ConfigError, match="clip_low is unknown"):
        plan(loss=reference, clip_low=0.1)


def test_an_algorithm_brings_its_own_loss(code: Any) -> None:
    text = ESTIMATORS + LOSSES.replace("from __future__ import annotations\n", "")
    text += '\nBOTH = Algorithm(name="both", estimator=above_median, loss=reinforce)\n'
    own = plan(name=code(text)("BOTH"))
    assert own.loss(NUMPY, LOGPS, TENSORS)[0] == pytest.approx(-(ADVANTAGES * LOGPS).sum())


OBJECTIVES = """
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from mindrlhf_grpo.algorithms.objective import Objective
from mindrlhf_grpo.losses.preference import Sigmoid

@dataclass(frozen=True, slots=True, kw_only=True)
class Squared(Sigmoid):
    gamma: float = 1.0

    def losses(self, xp, chosen, rejected, tensors):
        return xp.square(chosen - rejected - self.gamma)

@dataclass(frozen=True, slots=True, kw_only=True)
class Typo(Sigmoid):
    def losses(self, xp, chosen, rejected, tensors):
        return xp.sqare(chosen)

@dataclass(frozen=True, slots=True, kw_only=True)
class Uncounted(Sigmoid):
    counted_by: ClassVar[str] = "words"

@dataclass(frozen=True, slots=True, kw_only=True)
class Shifted(Sigmoid):
    def losses(self, xp, chosen, rejected, tensors):
        return chosen - tensors["shift"][0::2, 0]

def shift(before):
    return {"shift": np.zeros(len(before.batch))}

def no_shift(before):
    return {"shift": np.zeros(3)}

SQUARED = Objective(name="squared", loss=Squared)
SHIFTED = Objective(name="shifted", loss=Shifted, prepare=shift)
TYPO = Objective(name="typo", loss=Typo)
UNCOUNTED = Objective(name="uncounted", loss=Uncounted)
UNPREPARED = Objective(name="unprepared", loss=Shifted, prepare=no_shift)
ROWS = Objective(name="rows", loss=Squared, rows="triples")
"""


def task(**objective: Any) -> Task:
    return resolve_objective(
        OfflineConfig.model_validate({"model": {"path": "m"}, "data": {"source": "d"}, "objective": objective})
    )


def test_an_objective_is_a_record(code: Any) -> None:
    reference = code(OBJECTIVES)
    squared = task(name=reference("SQUARED"), gamma=2.0, beta=0.5)
    assert (squared.loss.gamma, squared.loss.beta) == (2.0, 0.5)
    assert squared.needs_reference
    assert task(name=reference("SHIFTED")).pairs


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("TYPO", r"TYPO' \(.*mine\.py:\d+\) failed on literal rows: AttributeError: .* \(.*mine\.py:18\)$"),
        ("UNCOUNTED", "counted_by is 'words'; it must name one of the sums pairs, accuracy"),
        ("UNPREPARED", r"prepare failed: ValueError"),
        ("ROWS", "rows must be one of conversations, pairs, labelled"),
        ("Squared", "is a type; it must be an Objective"),
    ],
)
def test_a_wrong_objective_is_refused_with_its_line(code: Any, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        task(name=code(OBJECTIVES)(name))
    assert str(caught.value).startswith("objective.name '")


def test_another_package_adds_names(code: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code(ESTIMATORS)
    (tmp_path / "mine.py").rename(tmp_path / "added_algorithms.py")
    monkeypatch.syspath_prepend(tmp_path)
    points = {
        "mindrlhf_grpo.algorithms": [
            EntryPoint("median", "added_algorithms:above_median", "mindrlhf_grpo.algorithms"),
            EntryPoint("lost", "added_algorithms:lost", "mindrlhf_grpo.algorithms"),
        ]
    }
    monkeypatch.setattr(references, "entry_points", lambda group: points.get(group, []))
    assert plan(name="median").advantages(VALUES, ONE, GROUP).ravel().tolist() == [0.75, -0.25, 0.0, 0.0]
    with pytest.raises(
        ConfigError, match=r"'medain' is unknown \(did you mean 'median'\?\); there are .*, lost, median$"
    ):
        plan(name="medain")
    with pytest.raises(ConfigError, match="'lost': added_algorithms:lost of the installed package cannot be loaded"):
        plan(name="lost")
