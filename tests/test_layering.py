"""Imports run one way: recipes -> core <- backends, and inside the core from higher packages to lower ones.

The core never imports a framework. ``ORDER`` is the only list: a new package takes its place in it.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.repository import ROOT, files, python_files, tree

CORE = "mindrlhf_grpo"
# From low to high: a package or module of the core imports only what stands before it. Each backend stands at
# "backends", each recipe at "recipes".
ORDER = (
    "errors", "types", "json_lines", "user_functions", "config", "compat", "model_files", "parallel", "tokenizers",
    "backend", "losses", "advantages", "chat", "data", "batches", "generation", "environments", "rewards", "algorithms", "backends",
    "run", "metrics", "report", "capacity", "testing", "trainers", "cli", "__main__", "recipes",
)  # fmt: skip
ENTRIES = 30  # of the core's folder
MODULES = 20  # of any folder
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
    """Return the modules that importing the file imports: statements outside functions and outside ``if TYPE_CHECKING``."""
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


def place(module: str) -> str | None:
    """The entry of ``ORDER`` at which a module stands; None for other projects' modules and the core's own ``__init__``."""
    parts = module.split(".")
    if parts[0] in BACKENDS:
        return "backends"
    return parts[1] if parts[0] == CORE and len(parts) > 1 and parts[1] != "__init__" else None


def module_name(path: Path) -> str:
    """The name under which a file is imported."""
    parts = path.with_suffix("").parts
    return ".".join(parts[1:] if parts[0] == "backends" else parts).removesuffix(".__init__")


LAYERED = [path for path in python_files(CORE, "backends") if place(module_name(path)) is not None]


def arrows(path: Path) -> set[str]:
    """The other places of ``ORDER`` that a file imports from."""
    return {to for to in map(place, imported(path)) if to in ORDER} - {place(module_name(path))}


def test_every_package_has_its_place_in_the_order() -> None:
    here = {place(module_name(path)) for path in LAYERED}
    assert sorted(ORDER) == sorted(filter(None, here)), "each package once, and no package that is gone"


@pytest.mark.parametrize("path", LAYERED, ids=str)
def test_no_import_runs_upward(path: Path) -> None:
    """A total order without upward arrows also means that the packages have no import circle."""
    height = ORDER.index(str(place(module_name(path))))
    assert {name for name in arrows(path) if ORDER.index(name) >= height} == set()


@pytest.mark.parametrize("package", [CORE, *BACKENDS])
def test_modules_of_a_package_have_no_import_circle(package: str) -> None:
    paths = {module_name(path): path for path in python_files(CORE, "backends") if package in path.parts[:2]}
    graph = {}
    for name, path in paths.items():
        names = imported_at_start(path) & paths.keys()
        within = {one for one in names if any(other.startswith(f"{one}.") for other in names)}  # their packages
        graph[name] = sorted(names - within - {name})
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


@pytest.mark.parametrize(
    "name", sorted({path.parts[2] for path in python_files(CORE) if path.parts[1] == "recipes" and len(path.parts) > 3})
)
def test_a_recipe_imports_no_other_recipe(name: str) -> None:
    within = f"{CORE}.recipes.{name}"
    names = {name for path in python_files(CORE) if module_name(path).startswith(within) for name in imported(path)}
    others = {name for name in names if name.startswith(f"{CORE}.recipes.")}
    assert {name for name in others if not name.startswith(within)} == set()


def test_the_core_has_few_entries_and_no_folder_many_modules() -> None:
    entries = {path.parts[1] for path in files() if path.parts[0] == CORE}
    assert len(entries) <= ENTRIES
    modules_of = Counter(path.parent for path in python_files() if path.name != "__init__.py")
    assert {str(folder): count for folder, count in modules_of.items() if count > MODULES} == {}


# What documents, configurations and users' own files import. Removing a name breaks them.
PUBLIC = {
    "": ["__version__"],
    "advantages": ["EstimatorInputs", "WHITENINGS", "centre", "estimate", "gae", "unscored_to_zero"],
    "algorithms.algorithm": ["Algorithm"],
    "algorithms.objective": ["Objective"],
    "algorithms.registry": ["ALGORITHMS", "OBJECTIVES", "POLICY_LOSSES"],
    "backend": ["Backend", "Comm", "Policy", "RolloutEngine", "WeightSync", "load_backend"],
    "cli.main": ["main"],
    "config": ["OfflineConfig", "RunConfig", "load_config"],
    "errors": ["ConfigError", "RunFailed"],
    "losses": ["KL_ESTIMATORS", "PolicyLoss", "ValueLoss"],
    "report": ["render"],
    "rewards": ["RewardFunction", "RewardTable", "Rewards"],
    "testing.conformance": ["CHECKS"],
    "trainers": ["train"],
    "types": ["Batch", "Prompt", "Rollout", "RolloutGroup", "Sampling"],
}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names_are_there(module: str) -> None:
    loaded = importlib.import_module(f"{CORE}.{module}".rstrip("."))
    assert [name for name in PUBLIC[module] if not hasattr(loaded, name)] == []


def documented_imports() -> dict[str, ast.stmt]:
    """The import statements of our packages in the Python blocks of the documents, each once."""
    blocks = [block for path in files() if path.suffix == ".md"
              for block in re.findall(r"^```python\n(.*?)^```", (ROOT / path).read_text(), re.M | re.S)]  # fmt: skip
    statements = [node for block in blocks for node in ast.walk(ast.parse(block))]
    ours = [node for node in statements if isinstance(node, ast.Import | ast.ImportFrom)]
    return {text: node for node in ours if CORE in (text := ast.unparse(node))}


@pytest.mark.parametrize("statement", sorted(documented_imports()))
def test_imports_in_documents_work(statement: str) -> None:
    pytest.importorskip("mindspore" if "mindspore" in statement else "numpy")
    exec(statement, {})


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
