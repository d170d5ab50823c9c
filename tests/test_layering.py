"""Imports run one way: recipes -> core <- backends. The core never touches a framework."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mindrlhf_grpo.algorithms.plan import ALGORITHMS
from mindrlhf_grpo.algorithms.task import ALIASES, OBJECTIVES
from mindrlhf_grpo.losses import POLICY_LOSSES
from tests.support.repository import ROOT, python_files, tree

CORE = "mindrlhf_grpo"
FRAMEWORKS = {"torch", "torch_npu", "mindspore", "peft", "accelerate", "vllm"}
BACKENDS = sorted({path.parts[1] for path in python_files("backends")})
# Slow to import: only inside the functions that use them, so that the command line answers at once.
HEAVY = {"transformers", "datasets", "pyarrow", "plotly", "math_verify", "reasoning_gym", "wandb", "tensorboard"}


def modules(path: Path, nodes: list[ast.AST]) -> set[str]:
    """Absolute names of the modules that these import statements load."""
    parts = path.with_suffix("").parts
    package = parts[1:-1] if parts[0] == "backends" else parts[:-1]
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found.update({module, *(f"{module}.{alias.name}" for alias in node.names)})
    return found


def imported(path: Path) -> set[str]:
    """Everything a file imports, wherever the statement stands."""
    return modules(path, list(ast.walk(tree(path))))


def imported_at_start(path: Path) -> set[str]:
    """What importing the file imports: statements outside functions and outside ``if TYPE_CHECKING``."""
    nodes: list[ast.AST] = []
    waiting: list[ast.AST] = list(tree(path).body)
    while waiting:
        node = waiting.pop()
        guarded = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if guarded or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        nodes.append(node)
        waiting.extend(ast.iter_child_nodes(node))
    return modules(path, nodes)


def top(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", python_files(CORE), ids=str)
def test_core_imports_no_framework_and_no_backend(path: Path) -> None:
    assert not top(imported(path)) & {*FRAMEWORKS, *BACKENDS}


@pytest.mark.parametrize("path", python_files(CORE), ids=str)
def test_core_imports_no_recipe(path: Path) -> None:
    if path.parts[1] != "recipes":
        assert not {name for name in imported(path) if name.startswith(f"{CORE}.recipes")}


@pytest.mark.parametrize("path", python_files(CORE), ids=str)
def test_core_imports_heavy_libraries_inside_functions_only(path: Path) -> None:
    assert not top(imported_at_start(path)) & HEAVY


@pytest.mark.parametrize("path", python_files("backends"), ids=str)
def test_a_backend_imports_no_other_backend_no_trainer_and_no_recipe(path: Path) -> None:
    names = imported(path)
    assert not top(names) & (set(BACKENDS) - {path.parts[1]})
    assert not {name for name in names if name.startswith((f"{CORE}.trainers", f"{CORE}.recipes"))}


def test_importing_the_package_loads_no_framework() -> None:
    check = "import mindrlhf_grpo, sys; assert not {'torch', 'mindspore'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=ROOT)


def test_importing_every_core_module_loads_neither_framework_nor_heavy_library() -> None:
    names = [".".join(path.with_suffix("").parts) for path in python_files(CORE) if path.name != "__main__.py"]
    check = f"""
import importlib, sys
for name in {names!r}:
    importlib.import_module(name.removesuffix(".__init__"))
    found = {sorted(FRAMEWORKS | HEAVY)!r}
    loaded = [module for module in found if module in sys.modules]
    assert not loaded, f"{{name}} loads {{loaded}}"
"""
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def spoken(path: Path) -> list[str]:
    """The texts in a file's code, without docstrings."""
    whole = tree(path)
    documented = {
        id(node.body[0].value)
        for node in ast.walk(whole)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    texts = [node for node in ast.walk(whole) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [str(node.value) for node in texts if id(node) not in documented]


BLIND = [path for path in python_files(CORE, "backends") if "trainers" in path.parts or path.parts[0] == "backends"]


@pytest.mark.parametrize("path", BLIND, ids=str)
def test_trainers_and_backends_know_no_algorithm(path: Path) -> None:
    names = {*ALGORITHMS, *POLICY_LOSSES, *OBJECTIVES, *ALIASES} - {"item", "sigmoid"}  # of a list; of a gate
    words = {word for text in spoken(path) for word in re.findall(r"[\w-]+", text)}
    assert words & names == set()


def test_the_loop_stays_as_short_as_it_was_with_one_algorithm() -> None:
    """314 lines when GRPO was all there was; at most a fifth more with everything since."""
    assert len((ROOT / "mindrlhf_grpo/trainers/online.py").read_text().splitlines()) <= 314 * 1.2
    assert len((ROOT / "mindrlhf_grpo/trainers/experience.py").read_text().splitlines()) <= 291 * 1.2
