"""The house has floors: a module imports from its own floor or from lower ones, and never in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(vae.__file__).parent
FLOORS = {
    0: {
        "gaussian",
        "linear_gaussian",
        "factor_analysis",
        "shannon",
        "lbfgs",
        "noise",
        "config",
        "environment",
        "checkpoint",
        "pieces",
    },
    1: {"data", "scores", "models", "decoders", "multirate"},
    2: {"objectives", "ensemble", "log_joint", "pruning"},
    3: {"train", "local", "annealing", "evidence", "fixed_decoder"},
    4: {"diagnostics", "claims", "record", "experiment", "fragility", "figures", "chooser"},
    5: {"cli", "__main__"},
}
FLOOR = {noun: floor for floor, nouns in FLOORS.items() for noun in nouns}


def noun(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The package's nouns that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively; write vae.{node.module}"
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "vae" else [node.module]
        found |= {name.split(".")[1] for name in names if name.startswith("vae.")}
    return found


FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_from_its_own_floor_or_lower_ones(path):
    floor = FLOOR[noun(path)]
    high = {name for name in imports(path) - {"Config"} if FLOOR[name] > floor}
    assert not high, f"{path.name} is on floor {floor} and imports {high} from above"


def test_no_circles():
    graph: dict[str, set[str]] = {}
    for path in FILES:
        graph.setdefault(noun(path), set()).update(imports(path) - {noun(path), "Config"})
    assert set(TopologicalSorter(graph).static_order()) >= set(graph)  # a circle raises CycleError


@pytest.mark.parametrize("path", [p for p in FILES if noun(p) in ("figures", "chooser")], ids=lambda p: p.stem)
def test_figures_never_import_torch(path):
    tree = ast.parse(path.read_text())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert "torch" not in {n.split(".")[0] for n in names}
    assert imports(path) <= {"figures", "chooser"}
