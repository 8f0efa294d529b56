"""The house's three rules: two packages that do not know each other, floors without circles, figures without torch."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import measured
import vae

ROOTS = {"vae": Path(vae.__file__).parent, "measured": Path(measured.__file__).parent}
FILES = {
    ".".join((name, *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__"): path
    for name, root in ROOTS.items()
    for path in sorted(root.rglob("*.py"))
}
PACKAGES = {module for module, path in FILES.items() if path.name == "__init__.py"}
FLOORS = {  # by rooms, from the ground up; a room may not be built yet
    "vae": [
        {"gaussian", "noise", "check", "device", "environment"},
        {"exact", "data"},
        {"models"},
        {"train", "inference"},
        {"diagnostics"},
        {"checkup"},
    ],
    "measured": [
        {"config", "project", "notebook", "tables"},
        {"record", "quantity", "figures"},
        {"claims", "pieces"},
        {"experiment"},
        {"reruns", "cluster"},
        {"cli"},
        {"__main__"},
    ],
}


def imported(path: Path) -> set[str]:
    """What a file imports, wherever in it: modules, and names of a module as module.name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; write the whole path"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module_of(path: str) -> str | None:
    """The module of the two packages that an import reads: the longest that there is."""
    while path and path not in FILES:
        path = path.rpartition(".")[0]
    return path or None


GRAPH = {
    module: {inner for each in imported(path) if (inner := module_of(each)) and inner != module}
    for module, path in FILES.items()
}


def room(module: str) -> str:
    return (module.split(".") + [""])[1]


def floor(module: str) -> int:
    floors = FLOORS[module.partition(".")[0]]
    known = [i for i, rooms in enumerate(floors) if room(module) in rooms]
    assert known, f"{module} is a new room; give it a floor here and in the page on the house, or a place in a room"
    return known[0]


@pytest.mark.parametrize("module", FILES)
def test_the_science_knows_no_machinery_and_the_machinery_no_science(module):
    others = {"vae": "measured", "measured": "vae"}[module.partition(".")[0]]
    assert not {each for each in imported(FILES[module]) if each.partition(".")[0] == others}


@pytest.mark.parametrize("module", [module for module in FILES if module not in ROOTS])
def test_a_room_imports_from_its_own_floor_or_lower_ones(module):
    high = {each for each in GRAPH[module] if floor(each) > floor(module)}
    assert not high, f"{module} is on floor {floor(module)} and imports {high} from above"


@pytest.mark.parametrize("module", FILES)
def test_whoever_is_inside_imports_the_defining_module(module):
    """A package's `__init__` collects names for users."""
    collected = {each for each in imported(FILES[module]) if module_of(each) in PACKAGES and module_of(each) != module}
    assert not collected, f"{module} imports {collected} from an __init__; import them from where they are defined"


def circle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_circle_of_modules():
    assert not circle(GRAPH)


def test_no_circle_of_rooms():
    rooms: dict[str, set[str]] = {}
    for module, others in GRAPH.items():
        if module not in ROOTS:
            name = ".".join(module.split(".")[:2])
            rooms.setdefault(name, set()).update(".".join(each.split(".")[:2]) for each in others)
            rooms[name].discard(name)
    assert not circle(rooms)


def test_records_know_no_claims_and_claims_no_experiments():
    above = {"record": {"claims", "quantity", "experiment", "reruns", "cli"}, "claims": {"experiment", "reruns", "cli"}}
    for below, unknown in above.items():
        reached, queue = set(), [module for module in FILES if module.split(".")[:2] == ["measured", below]]
        while queue:
            module = queue.pop()
            reached.add(module)
            queue += GRAPH[module] - reached
        assert not {room(module) for module in reached} & unknown, below


@pytest.mark.parametrize("start", [module for module in FILES if room(module) == "figures"])
def test_figures_never_import_torch(start):
    reached, queue = set(), [start]
    while queue:
        module = queue.pop()
        reached.add(module)
        queue += GRAPH[module] - reached
        outside = {each.partition(".")[0] for each in imported(FILES[module])}
        assert not outside & {"torch", "safetensors"}, f"{module}, which {start} reaches"


def test_the_machinery_needs_no_torch():
    """It gives a tensor back where it was handed one."""
    users = {module for module in FILES if module.startswith("measured") and "torch" in imported(FILES[module])}
    assert users <= {"measured.pieces"}
