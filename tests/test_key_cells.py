"""What a record's key sees of a notebook's cells: what `compute` reaches, by content, and nothing else."""

import linecache

import pytest
from keyed import cell, cell_key

from measured.config import Config as Parameters
from measured.record import code_key
from measured.record.keys import identity

PLAIN = "def compute(config):\n    return config.rate * 2\n"


@pytest.mark.parametrize(
    "source",
    [
        "def compute(config):\n    # why\n    return config.rate   *   2\n",
        'def compute(config):\n    """What."""\n    return (config.rate * 2)\n',
        "def compute(config: object) -> float:\n    return config.rate * 2\n",
        "\n\nN = 3\n\n" + PLAIN,
        "import numpy as np\nclass Config: pass\n" + PLAIN,
    ],
)
def test_comments_docstrings_annotations_layout_and_what_is_not_reached_do_not_count(source):
    assert cell_key(source) == cell_key(PLAIN)


HELPED = "def helper(x):\n    return x + 1\n\ndef compute(config):\n    return [helper(x) for x in config.rates]\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x + 1", "x + 1.0"),
        ("x + 1", "x - 1"),
        ("config.rates", "config.other"),
        ("def helper(x):", "def helper(x, y=1):"),
        ("def helper(x):", "import functools\n@functools.cache\ndef helper(x):"),
    ],
)
def test_code_counts_that_compute_reaches(old, new):
    assert old in HELPED
    assert cell_key(HELPED.replace(old, new)) != cell_key(HELPED)


def test_a_helper_redefined_in_a_later_cell_counts():
    notebook = cell(HELPED)
    before = code_key(notebook["compute"])
    cell("def helper(x):\n    return x + 2\n", notebook)
    assert code_key(notebook["compute"]) != before
    cell("def helper(x):\n    return x + 1\n", notebook)
    assert code_key(notebook["compute"]) == before


CLASSY = (
    "from typing import NamedTuple\nfrom dataclasses import dataclass\nimport torch\n\n"
    "class Net(torch.nn.Linear):\n    def twice(self, x):\n        return self(x) * 2\n\n"
    "class Pair(NamedTuple):\n    a: int = 3\n\n@dataclass(frozen=True)\nclass Box:\n    b: int\n    c: int\n\n"
    "def compute(config):\n    return Net(2, 2), Pair(), Box(1, 2)\n"
)


@pytest.mark.parametrize(
    ("old", "new"),
    [("* 2", "* 3"), ("a: int = 3", "a: int = 4"), ("b: int\n    c: int", "c: int\n    b: int"), ("frozen", "eq")],
)
def test_classes_of_the_notebook_count(old, new):
    assert old in CLASSY
    assert cell_key(CLASSY.replace(old, new)) != cell_key(CLASSY)
    assert cell_key(CLASSY) == cell_key(CLASSY.replace("class Net", "# a comment\nclass Net"))


WRAPPED = (
    "import torch\ndef f(x):\n    return x * 2\n\ndef g(x):\n    return x * 5\n\nmapped = torch.vmap(f, in_dims=0)\n\n"
    "def compute(config):\n    return mapped(config.x)\n"
)


@pytest.mark.parametrize(("old", "new"), [("x * 2", "x * 3"), ("in_dims=0", "in_dims=1"), ("vmap(f", "vmap(g")])
def test_a_function_wrapped_by_a_library_counts_and_so_does_how(old, new):
    assert cell_key(WRAPPED.replace(old, new)) != cell_key(WRAPPED)
    assert cell_key(WRAPPED.replace("x * 5", "x * 6")) == cell_key(WRAPPED)
    renamed = WRAPPED.replace("mapped = ", "f = ").replace("mapped(config", "f(config")
    assert cell_key(renamed.replace(old, new)) != cell_key(renamed)


def test_a_function_counts_that_a_library_closes_over():
    library = {"__name__": "library", "In": []}
    cell("def apply(f):\n    def inner(x):\n        return f(x)\n    return inner\n", library)

    def key_with(term: str) -> str:
        notebook = cell(f"def f(x):\n    return x {term}\n")
        notebook["mapped"] = library["apply"](notebook["f"])
        return code_key(cell("def compute(config):\n    return mapped(config.x)\n", notebook)["compute"])

    assert key_with("* 2") == key_with("* 2")
    assert key_with("* 2") != key_with("* 3")


ALIASED = "def a(x):\n    return x + 1\n\ndef b(x):\n    return x + 2\n\n"
CALLS = "def compute(config):\n    return f(1), g(2)\n"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("f, g = a, b\n", "f, g = b, a\n"),
        ("f = a\ng = b\n", "g = a\nf = b\n"),
        ("f = lambda x: x + 1\ng = lambda x: x + 2\n", "f = lambda x: x + 2\ng = lambda x: x + 1\n"),
        ("from math import sin as f, cos as g\n", "from math import cos as f, sin as g\n"),
        ("from math import sin as f, cos as g\n", "from numpy import sin as f, cos as g\n"),
    ],
)
def test_which_is_which_counts(first, second):
    assert cell_key(ALIASED + first + CALLS) != cell_key(ALIASED + second + CALLS)


def test_a_function_that_an_alias_still_holds_counts():
    first = "def g(x):\n    return {}\n\nf = g\n"
    keys = {cell_key(first.format(body), "def g(x):\n    return 2\n", CALLS) for body in ("1", "3")}
    assert len(keys) == 2


def test_which_class_method_counts():
    source = "class A:\n    @classmethod\n    def a(cls): pass\n    @classmethod\n    def b(cls): pass\nf = g = A.a\n"
    assert cell_key(source + CALLS) != cell_key(source.replace("A.a", "A.b") + CALLS)


def test_a_decorator_of_the_notebook_counts_and_what_it_decorates():
    source = "def twice(f):\n    def inner(x):\n        return 2 * f(x)\n    return inner\n\n"
    source += "@twice\ndef g(x):\n    return x\n"
    key = cell_key(source, "f = g\n" + CALLS)
    assert cell_key(source.replace("2 * f", "3 * f"), "f = g\n" + CALLS) != key
    assert cell_key(source.replace("return x\n", "return -x\n"), "f = g\n" + CALLS) != key


@pytest.mark.parametrize(
    ("name", "style", "call"),
    [
        ("numpy.exp", "import numpy as np\n", "np.exp"),
        ("numpy.exp", "from numpy import exp\n", "exp"),
        ("numpy.exp", "from numpy import exp as e\n", "e"),
        ("torch.nn.functional.relu", "import torch\n", "torch.nn.functional.relu"),
        ("torch.nn.functional.relu", "from torch.nn import functional as F\n", "F.relu"),
        ("torch.nn.functional.relu", "from torch.nn.functional import relu\n", "relu"),
        ("measured.Result", "from measured.record import Result\n", "Result"),
        ("measured.Result", "from measured import record\n", "record.Result"),
        ("measured.Result", "import measured.record.result as r\n", "r.Result"),
        ("math.pi", "from math import pi\n", "pi"),
        ("math.pi", "import math\n", "math.pi"),
    ],
)
def test_how_something_is_imported_does_not_count(name, style, call):
    usual = {
        "numpy.exp": "import numpy\ndef compute(config):\n    return numpy.exp(config.x)\n",
        "torch.nn.functional.relu": "import torch.nn.functional\ndef compute(config):\n"
        "    return torch.nn.functional.relu(config.x)\n",
        "measured.Result": "from measured.record.result import Result\n"
        "def compute(config):\n    return Result(config.x)\n",
        "math.pi": "def compute(config):\n    from math import pi\n    return pi(config.x)\n",
    }[name]
    assert cell_key(f"{style}def compute(config):\n    return {call}(config.x)\n") == cell_key(usual)
    assert cell_key(f"def compute(config):\n    {style}    return {call}(config.x)\n") == cell_key(usual)


@pytest.mark.parametrize(
    "source",
    [
        "N = 3\ndef compute(config):\n    return N\n",
        "N = 3\ndef compute(config, n=N):\n    return n\n",
        "N = 3\ndef helper():\n    return [N for _ in range(3)]\n\ndef compute(config):\n    return helper()\n",
        "N = 3\nclass Net:\n    size = N\n\ndef compute(config):\n    return Net()\n",
        "import numpy as np\nN = np.random.default_rng(0).normal\ndef compute(config):\n    return N()\n",
        "import functools\nN = functools.partial(print, 3)\ndef compute(config):\n    return N()\n",
        "from types import SimpleNamespace\nN = SimpleNamespace(a=3)\ndef compute(config):\n    return N.a\n",
        "def make(N):\n    def compute(config):\n        return N\n    return compute\n\ncompute = make(3)\n",
        "N = 3\ndef make(n):\n    def f(x):\n        return x + n\n    return f\n\nf = make(N)\n"
        "def compute(config):\n    return f(1)\n",
        "from math import pi as N\nN = 3\ndef compute(config):\n    return N\n",
    ],
)
def test_a_variable_of_the_notebook_is_refused_by_name(source):
    with pytest.raises(ValueError, match="reads the variable 'N' of the notebook.*through config"):
        cell_key(source)


def test_modules_functions_classes_and_type_hints_are_fine():
    cell_key("""
import math
import numpy as np
import torch
from functools import partial
from typing import TypeVar
from numpy import exp
from torch.nn.functional import softplus
import measured

class Config(measured.Config):
    rate: float

Alias = list[int] | None
T = TypeVar("T")

def compute(config: Config, x: Alias = None) -> torch.Tensor:
    x: T = np.sum(exp(config.table))        # `table` is an attribute here, whatever the notebook calls so
    return partial(max, len([math.log(y) for y in x])), softplus(x), torch.Tensor, __name__, Config

table = 3
""")


def test_cells_with_magic_or_errors_in_them_are_no_obstacle():
    notebook = cell("def compute(config):\n    return 1\n")
    notebook["In"].append("%matplotlib inline\n!ls\n")
    code_key(notebook["compute"])


CONFIGURED = """
import functools
import measured
from pydantic import model_validator

class Config(measured.Config):
    rate: float

    @property
    def half(self):
        return self.quarter() * 2

    def quarter(self):
        return self.rate / 4

    def idle(self):
        return 5

    @model_validator(mode="after")
    def fits(self):
        print(self.fits)
        return self

def compute(config: Config):
    return config.half
"""


def configured(old: str = "", new: str = "") -> str:
    notebook = cell(CONFIGURED.replace(old, new))
    return identity("toy/sum", notebook["Config"](rate=1), notebook["compute"])["code"]


def test_the_config_class_counts_by_its_values_and_by_the_methods_that_are_called():
    assert configured("rate: float", "rate: int") == configured()
    assert configured("return 5", "return 6") == configured()
    assert configured("print(self.fits)", "pass") == configured()
    assert configured("/ 4", "/ 5") != configured()
    assert configured("* 2", "* 3") != configured()


@pytest.mark.parametrize("bad", [lambda config: 1, print, Parameters, 3])
def test_compute_must_be_a_plain_function(bad):
    with pytest.raises(ValueError, match="compute must be a function written with def"):
        code_key(bad)


def test_an_imported_constant_is_known_to_a_kernel_that_stores_no_history():
    """nbval's kernel has an empty `In`: a constant of the package is known by its module, another variable is not."""
    gaps = pytest.importorskip("vae.diagnostics.gaps")
    source = "def compute(config):\n    return GAPS\n"
    namespace: dict = {"__name__": "__main__", "In": [""], "GAPS": gaps.GAPS}
    linecache.cache["<no history>"] = (len(source), None, source.splitlines(keepends=True), "<no history>")
    exec(compile(source, "<no history>", "exec"), namespace)
    assert code_key(namespace["compute"])
    namespace["GAPS"] = ("something", "else")
    with pytest.raises(ValueError, match="reads the variable 'GAPS'"):
        code_key(namespace["compute"])
