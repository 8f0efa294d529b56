"""What a record's key sees of the project's package: the definitions that are reached, by content, and nothing else."""

import importlib
import itertools
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from keyed import NUMBERS, cell_key

import measured
from measured.record.code import digest

PYPROJECT = """
[project]
name = "toy"

[tool.measured]
package = "{package}"
command = "vae"
not_in_key = {left_out}
"""
STAMPS = itertools.count(10**9)  # of files: each another, and older than this Python


class Package:
    """A package in place of ours; `write` a module of it, `key` that of a notebook which uses it."""

    def __init__(self, root: Path, name: str, left_out: str) -> None:
        self.root, self.name = root, name
        (root / name).mkdir(parents=True)
        (root / "pyproject.toml").write_text(PYPROJECT.format(package=name, left_out=left_out.replace("PKG", name)))
        self.write(__init__="")

    def write(self, **modules: str) -> "Package":
        """Modules by name, `a__b` for a.b; PKG stands for the package's name."""
        for module, source in modules.items():
            stem = module if module == "__init__" else module.replace("__", "/", 1)
            path = self.root / self.name / f"{stem}.py"
            path.parent.mkdir(exist_ok=True)
            for folder in (path.parent, self.root / self.name):
                if not (folder / "__init__.py").exists():
                    (folder / "__init__.py").touch()
                    os.utime(folder / "__init__.py", (10**9,) * 2)
            path.write_text(textwrap.dedent(source).replace("PKG", self.name))
            os.utime(path, (next(STAMPS),) * 2)
        return self

    def key(self, imports: str = "from PKG.a import f", body: str = "f(config.x)") -> str:
        for module in [m for m in sys.modules if m.partition(".")[0] == self.name]:
            del sys.modules[module]
        importlib.invalidate_caches()
        source = f"{imports}\ndef compute(config):\n    return {body}\n".replace("PKG", self.name)
        return cell_key(source)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """package(a="...", b="..."): a project with that package, in a folder of its own, which is where we are."""
    made = []

    def make(left_out: str = "[]", **modules: str) -> Package:
        name = f"package{next(NUMBERS)}"
        made.append(Package(tmp_path / name, name, left_out).write(**modules))
        monkeypatch.chdir(made[-1].root)
        monkeypatch.syspath_prepend(made[-1].root)
        return made[-1]

    yield make
    for one in made:
        for module in [m for m in sys.modules if m.partition(".")[0] == one.name]:
            del sys.modules[module]


CHAIN = {
    "a": "from PKG import b\nN = 3\ndef f(x, y=1):\n    return b.g(x) + N\n",
    "b": "def g(x):\n    from PKG.c.d import h\n    if x is None:\n        raise ValueError(f'x is {x}; pass one')\n"
    "    return h(x)\n",
    "c__d": "from PKG.e import Base\nclass h(Base):\n    field: int = 1\n    def m(self):\n        return 1\n",
    "e": "class Base:\n    def n(self):\n        return 2\n\nidle = 3\n",
}


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("a", "N = 3", "N = 4"),
        ("a", "y=1", "y=2"),
        ("a", "def f(x, y=1)", "def f(x, *, y=1)"),
        ("a", "+ N", "- N"),
        ("b", "return h(x)", "return h(x) or 1"),
        ("b", "ValueError", "KeyError"),
        ("b", "is None", "is True"),
        ("c__d", "return 1", "return 3"),
        ("c__d", "field: int = 1", "field: int = 2"),
        ("c__d", "field: int = 1", "field = 1"),
        ("c__d", "(Base)", ""),
        ("e", "return 2", "return 3"),
    ],
)
def test_what_is_reached_counts(package, module, old, new):
    there = package(**CHAIN)
    before = there.key()
    assert old in CHAIN[module]
    assert there.write(**{module: CHAIN[module].replace(old, new)}).key() != before
    assert there.write(**CHAIN).key() == before


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("e", "idle = 3", "idle = 4"),
        ("e", "idle = 3", "def more():\n    return 1\n"),
        ("a", "def f(x, y=1):", '"""Doc."""\n\n# why\ndef f(x: int, y: "float" = 1) -> int:\n    """Doc."""\n'),
        ("a", "N = 3", "from typing import Final\nN: Final = 3"),
        ("a", "from PKG import b\n", "import PKG.b\nfrom PKG import b\nimport math\n"),
        ("b", "x is {x}; pass one", "it is missing"),
        ("b", "raise ValueError(f'x is {x}; pass one')", "raise ValueError('a' + str(x)) from None"),
        ("c__d", "field: int", "field: float"),
        ("c__d", "from PKG.e import Base", "from typing import TYPE_CHECKING\nfrom PKG.e import Base\n"
         "if TYPE_CHECKING:\n    import pandas as pd\n"),
    ],
)  # fmt: skip
def test_what_changes_no_result_does_not_count(package, module, old, new):
    there = package(**CHAIN)
    before = there.key()
    assert old in CHAIN[module]
    assert there.write(**{module: CHAIN[module].replace(old, new)}).key() == before


def test_names_of_modules_and_ways_of_importing_do_not_count(package):
    key = package(**CHAIN).key()
    moved = {name: source.replace("PKG.c.d", "PKG.deep.other") for name, source in CHAIN.items()}
    moved["deep__other"] = moved.pop("c__d")
    assert package(**moved).key() == key
    assert package(**CHAIN).key("import PKG.a", "PKG.a.f(config.x)") == key
    assert package(**CHAIN).key("import PKG.a as m", "m.f(config.x)") == key
    assert package(**CHAIN).key("from PKG import a", "a.f(config.x)") == key
    assert package(**CHAIN).key("from PKG.a import f as other", "other(config.x)") == key
    assert package(**CHAIN, __init__="from PKG.a import f").key("from PKG import f") == key
    assert package(**CHAIN, __init__="from PKG.a import f as g").key("from PKG import g", "g(config.x)") == key
    for style, call in {
        "from PKG.b import g": "g", "from PKG.b import g as q": "q", "import PKG.b": "PKG.b.g",
        "from . import b": "b.g", "from .b import g": "g", "import PKG.b as other": "other.g",
    }.items():  # fmt: skip
        source = CHAIN["a"].replace("from PKG import b", style).replace("b.g(x)", f"{call}(x)")
        assert package(**CHAIN | {"a": source}).key() == key, style
        inner = CHAIN["a"].replace("from PKG import b\n", "").replace("b.g(x)", f"{call}(x)")
        inner = inner.replace("    return", f"    {style}\n    return")
        assert package(**CHAIN | {"a": inner}).key() == key, style
    renamed = CHAIN | {"a": CHAIN["a"].replace("import b", "import z").replace("b.g", "z.g"), "z": CHAIN["b"]}
    del renamed["b"]
    assert package(**renamed).key() == key
    one = "class Base:\n    def n(self):\n        return 2\n\n" + CHAIN["c__d"].replace("from PKG.e import Base\n", "")
    one += CHAIN["b"].replace("    from PKG.c.d import h\n", "") + CHAIN["a"].replace(
        "from PKG import b\n", ""
    ).replace("b.g", "g")
    assert package(a=one).key() == key, "all in one module"


def test_a_definition_moved_to_another_module_is_the_same(package):
    there = {"a": "from PKG.b import g\ndef f(x):\n    return g(x)\n", "b": "M = 2\ndef g(x):\n    return x * M\n"}
    here = {"a": "from PKG.b import M\ndef g(x):\n    return x * M\n\ndef f(x):\n    return g(x)\n", "b": "M = 2\n"}
    assert package(**there).key() == package(**here).key()


# false "same"


def differ(package, imports="from PKG.a import f", body="f(config.x)", **modules):
    """Two versions of some modules, each a pair."""
    keys = [package(**{name: pair[i] for name, pair in modules.items()}).key(imports, body) for i in (0, 1)]
    return keys[0] != keys[1]


def both(source: str) -> tuple[str, str]:
    return source, source


def test_private_functions_of_one_name_in_two_modules_are_told_apart(package):
    user = "def _scale(x):\n    return x * {}\n\ndef {}(x):\n    return _scale(x)\n"
    assert differ(
        package,
        a=both("from PKG.b import g\nfrom PKG.c import h\ndef f(x):\n    return g(x) - h(x)\n"),
        b=(user.format(2, "g"), user.format(3, "g")),
        c=(user.format(3, "h"), user.format(2, "h")),
    )


def test_recursion_counts_and_ends(package):
    source = (
        "def f(x):\n    return x if x < N else g(x - 1)\n\ndef g(x):\n    return f(x - STEP) if x else f(x)\n\n"
        "N, STEP = 1, 2\ndef h(x):\n    return h(x - 1) if x else 0\n"
    )
    for old, new in (("x - STEP", "x + STEP"), ("STEP = 1, 2", "STEP = 1, 3"), ("else g(x", "else f(x")):
        assert differ(package, a=(source, source.replace(old, new))), old
    assert not differ(package, a=(source, source.replace("h(x - 1)", "h(x - 2)")))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("TABLE['b'] = 2", "TABLE['b'] = 3"),
        ("TABLE.update(c=3)", "TABLE.update(c=4)"),
        ("TABLE[k] = k", "TABLE[k] = -k"),
        ("TABLE |= {'e': 5}", "TABLE |= {'e': 6}"),
        ("del TABLE['e']", "pass"),
        ("return 11", "return 12"),
        ("return 21", "return 22"),
        ("register(later)", "register(later, 3)"),
    ],
)
def test_a_table_counts_with_all_that_alters_it(package, old, new):
    source = """
    TABLE = {'a': 1}
    TABLE['b'] = 2
    TABLE.update(c=3)
    for k in range(3):
        TABLE[k] = k
    TABLE |= {'e': 5}
    del TABLE['e']

    def register(f, *more):
        TABLE[f.__name__] = f
        return f

    @register
    def one():
        return 11

    def later():
        return 21

    register(later)

    def f(x):
        return TABLE[x]
    """
    assert old in source
    assert differ(package, a=(source, source.replace(old, new)))


def test_a_registry_that_an_imported_module_fills_counts(package):
    registry = (
        "TABLE = {}\ndef register(f):\n    TABLE[f.__name__] = f\n    return f\n\ndef f(x):\n    return TABLE[x]()\n"
    )
    filled = "from PKG.b import register\n@register\ndef one():\n    return 1\n"
    called = "from PKG.b import register\ndef one():\n    return 1\n\nregister(one)\n"
    for source in (filled, called):
        modules = {"b": both(registry), "c": (source, source.replace("return 1", "return 2"))}
        assert differ(package, a=both("from PKG import c\nfrom PKG.b import f\n"), **modules)
        assert differ(package, "from PKG.b import f\nimport PKG.c", **modules)
        assert differ(package, "from PKG.b import f", __init__=both("from PKG import c"), **modules)
        assert not differ(package, "from PKG.b import f", **modules)  # nobody imports it


def test_a_decorator_that_keeps_nothing_brings_no_others_along(package):
    decorator = "def twice(f):\n    return lambda x: 2 * f(x)\n\n"
    one = "@twice\ndef f(x):\n    return x\n\n@twice\ndef g(x):\n    return {}\n"
    assert not differ(package, a=tuple(decorator + one.format(number) for number in (1, 2)))
    for style in ("from PKG.b import twice\n", "from PKG import b\ntwice = b.twice\n"):
        versions = tuple(style + one.format(number) for number in (1, 2))
        assert not differ(package, a=versions, b=both(decorator))
        assert differ(package, a=both(style + one), b=(decorator, decorator.replace("2 *", "3 *")))


@pytest.mark.parametrize("statement", ["torch.set_default_dtype(torch.{})", "torch.it = torch.{}", "set_up(torch.{})"])
def test_what_importing_does_to_the_world_counts(package, statement):
    source = f"import torch\ndef set_up(x):\n    torch.it = x\n\n{statement}\n"
    pair = source.format("float32"), source.format("float64")
    plain = "def f(x):\n    return x\n"
    import torch

    try:
        assert differ(package, __init__=pair, a=both(plain))
        assert differ(package, settings=pair, a=both("from PKG import settings\n" + plain))
        assert differ(package, a=tuple(f"{one}{plain}" for one in pair))
        assert not differ(package, settings=pair, a=both(plain))
        assert not differ(
            package, a=both(plain), b=tuple("if __name__ == '__main__':\n    import torch\n" for _ in "ab")
        )
    finally:
        torch.set_default_dtype(torch.float32)
        vars(torch).pop("it", None)


def test_another_modules_variable_that_is_set_counts(package):
    setting = "from PKG import b\nb.N = {}\ndef f(x):\n    return b.g(x)\n"
    assert differ(package, a=(setting.format(3), setting.format(4)), b=both("N = 1\ndef g(x):\n    return N\n"))
    source = "N = 1\ndef g(x):\n    return N\n"
    assert differ(package, a=both(setting.format(3)), b=(source, source.replace("return N", "return -N")))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("from functools import partial\nf = partial(g, 2)\n", "from functools import partial\nf = partial(g, 3)\n"),
        ("f = make(2)\n", "f = make(3)\n"),
        ("import torch\nf = torch.vmap(g, in_dims=0)\n", "import torch\nf = torch.vmap(g, in_dims=1)\n"),
        ("f = lambda x: g(x, 2)\n", "f = lambda x: g(x, 3)\n"),
        ("f, other = g, make\n", "f, other = make, g\n"),
        ("@wrap(2)\ndef f(x):\n    return x\n", "@wrap(3)\ndef f(x):\n    return x\n"),
        ("if True:\n    def f(x):\n        return 1\n", "if True:\n    def f(x):\n        return 2\n"),
        ("def f(x):\n    return 1\n\nf = wrap(2)(f)\n", "def f(x):\n    return 1\n\nf = wrap(3)(f)\n"),
        ("def f(x):\n    return [g(x, y) for y in M]\n", "def f(x):\n    return [g(x, y) for y in M[1:]]\n"),
        ("def f(x):\n    global M\n    M = 3\n", "def f(x):\n    global M\n    M = 4\n"),
        ("def f(x):\n    assert x\n", "def f(x):\n    assert not x\n"),
        ("def f(x):\n    raise KeyError(x)\n", "def f(x):\n    raise KeyError(-x)\n"),
    ],
)  # fmt: skip
def test_definitions_of_every_kind_count(package, first, second):
    base = (
        "M = [1]\n__N = 1\ndef g(x, y=1):\n    return x\n\ndef make(n):\n    def inner(x):\n        return x + n\n"
        "    return inner\n\ndef wrap(n):\n    def around(f):\n        return lambda x: n * f(x)\n    return around\n"
    )
    assert differ(package, a=(base + first, base + second), body="f")
    for import_, call in (("import PKG.a as m", "m.f"), ("from PKG.a import f as q", "q")):
        if "partial" not in first:
            assert differ(package, import_, call, a=(base + first, base + second))


def test_a_private_constant_counts(package):
    source = "__N = 1\n_M = 2\ndef f(x):\n    return __N + _M\n"
    assert differ(package, a=(source, source.replace("__N = 1", "__N = 2")))


def test_a_module_used_as_a_value_counts_as_a_whole(package):
    user = "from PKG import b\ndef get(module, name):\n    return getattr(module, name)\n\n"
    user += "def f(x):\n    return get(b, x)\n"
    assert differ(package, a=both(user), b=("z = 1\n", "z = 2\n"))
    assert differ(package, a=both(user), b=both("from PKG.c import z\n"), c=("z = 1\n", "z = 2\n"))
    assert differ(package, "from PKG import b", "print(b)", b=("z = 1\n", "z = 2\n"))
    assert differ(package, "import PKG", "print(PKG)", b=("z = 1\n", "z = 2\n"))
    assert not differ(package, "import PKG.b", "PKG.b.y", b=("z = 1\ny = 1\n", "z = 2\ny = 1\n"))
    assert differ(package, "import PKG", "PKG.b.z", b=("z = 1\n", "z = 2\n"), __init__=both("from PKG import b"))


def test_a_function_that_hides_a_module_of_its_name_counts(package):
    modules = {"__init__": both("from PKG.b import b"), "b": ("def b(x):\n    return 1\n", "def b(x):\n    return 2\n")}
    assert differ(package, "from PKG import b", "b(1)", **modules)


def test_two_imports_of_one_name_both_count(package):
    """Two methods that each import another `load`; an import that depends."""
    a = (
        "class f:\n    def m(self):\n        from PKG.b import load\n        return load()\n\n"
        "    def n(self):\n        from PKG.c import load\n        return load()\n"
    )
    versions = ("def load():\n    return 1\n", "def load():\n    return 2\n")
    assert differ(package, a=both(a), b=versions, c=both(versions[0]))
    assert differ(package, a=both(a), c=versions, b=both(versions[0]))
    depends = "try:\n    from PKG.b import load\nexcept ImportError:\n    from PKG.c import load\n\nf = load\n"
    assert differ(package, a=both(depends), b=versions, c=both(versions[0]), body="f")
    assert differ(package, a=both(depends), c=versions, b=both(versions[0]), body="f")
    absent = "try:\n    from PKG import b\nexcept ImportError:\n    b = None\n\ndef f(x):\n    return b.load(x)\n"
    assert differ(package, a=both(absent), b=versions)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("import numpy as lib\n", "import torch as lib\n"),
        ("from numpy import exp\n", "from torch import exp\n"),
        ("from numpy import exp as g\n", "from numpy import log as g\n"),
    ],
)
def test_what_is_imported_from_elsewhere_counts(package, first, second):
    name = first.split()[-1]
    body = f"def f(x):\n    return {name + '.exp' if name == 'lib' else name}(x)\n"
    assert differ(package, a=(first + body, second + body))


def test_inheritance_and_class_attributes_count(package):
    a = "from PKG.b import B\nclass f(B):\n    size = N\n"
    assert differ(package, a=both("N = 1\n" + a), b=("class B:\n    x = 1\n", "class B:\n    x = 2\n"), body="f")
    assert differ(package, a=("N = 1\n" + a, "N = 2\n" + a), b=both("class B: pass\n"), body="f")
    named = "from typing import NamedTuple\nclass f(NamedTuple):\n    a: int\n    b: int = 2\n"
    assert differ(package, a=(named, named.replace("= 2", "= 3")), body="f")
    assert differ(package, a=(named, named.replace("a: int", "c: int")), body="f")
    enum = "import enum\nclass f(enum.Enum):\n    A = enum.auto()\n    B = enum.auto()\n"
    assert differ(package, a=(enum, enum.replace("    A = enum.auto()\n", "")), body="f")


def test_a_generic_function_counts_with_what_is_registered(package):
    source = (
        "from functools import singledispatch\n@singledispatch\ndef f(x):\n    return 1\n\n"
        "@f.register\ndef _(x: int):\n    return 2\n\n@f.register\ndef _(x: str):\n    return 3\n"
    )
    for number in "123":
        assert differ(package, a=(source, source.replace(f"return {number}", "return 9")))


# the rest


def test_a_constant_of_the_package_may_be_read_in_a_notebook(package):
    assert differ(package, "from PKG.a import N", "N", a=("N = 3\n", "N = 4\n"))


def test_what_is_left_out_must_be_there(package):
    source = "import os\nSOURCES = {'a': 1}\ndef f(x):\n    return SOURCES[x]\n"
    for use in (("from PKG.a import f", "f(1)"), ("from PKG.b import g", "g(1)")):
        found = [
            package("['PKG.a:SOURCES']", a=a, b="from PKG import a\ndef g(x):\n    return a\n").key(*use)
            for a in (source, source.replace("1", "2"), source.replace("return SOURCES", "return -SOURCES"))
        ]
        assert found[0] == found[1] != found[2]
    for entry in ("PKG.a:ABSENT", "PKG.absent:SOURCES", "PKG.a", "elsewhere:SOURCES"):
        with pytest.raises(
            ValueError, match=r"not_in_key in pyproject.toml names '.*', which is not there; write module:NAME"
        ):
            package(f"['{entry}']", a=source).key()


def test_another_mirror_of_the_data_changes_no_key(tmp_path, monkeypatch):
    """In a copy of this project's own package."""
    root = Path(measured.__file__).parents[1]
    shutil.copytree(root / "vae", tmp_path / "vae", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "pyproject.toml", tmp_path)
    source = "from vae.data import load\ndef compute(config):\n    return load(config.dataset)\n"
    program = f"""
import linecache
source = {source!r}
linecache.cache["<cell>"] = (1, None, source.splitlines(True), "<cell>")
space = {{"__name__": "notebook", "In": [source]}}
exec(compile(source, "<cell>", "exec"), space)
from measured.record import code_key
print(code_key(space["compute"]))
"""

    def key() -> str:
        done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout

    before, file = key(), tmp_path / "vae" / "data" / "images.py"
    text = file.read_text()
    assert "https://" in text
    file.write_text(text.replace("https://", "https://mirror.", 1))
    assert key() == before
    file.write_text(text.replace("def load(", "N = 3\ndef load(").replace("levels", "grey_levels"))
    assert key() != before


def test_a_star_hides_and_a_lost_name_is_refused(package):
    with pytest.raises(ValueError, match=r"`from package\d+.b import \*` hides what is used"):
        package(a="from PKG.b import *\ndef f(x):\n    return g(x)\n", b="g = 1\n").key()
    late = "globals()['f'] = print\n"
    with pytest.raises(ValueError, match=r"\.a\.f cannot be found in its source; define it with def, class or an ass"):
        package(a=late).key()
    circle = package(a="def f(x):\n    from PKG.b import g\n    return g\n", b="from PKG.c import g\n", c="g = 1\n")
    circle.write(c="def h():\n    pass\nif False:\n    from PKG.b import g\n")
    sys.modules.pop(f"{circle.name}.c", None)
    with pytest.raises(ValueError, match="is re-exported in a circle; import it from where it is defined"):
        circle.key()


def test_a_module_beside_the_package_is_refused(package):
    there = package(a="def f(x):\n    return x\n")
    (there.root / f"beside{there.name}.py").write_text("def h(x):\n    return 1\n")
    with pytest.raises(
        ValueError, match=rf"beside{there.name}.h is in .*, which the record's key cannot see; move it into"
    ):
        there.key(f"import beside{there.name} as b", "b.h(1)")


def test_a_module_edited_after_it_was_loaded_is_refused(package):
    there = package(**CHAIN)
    there.key()
    importlib.import_module(f"{there.name}.b")
    os.utime(there.root / there.name / "b.py", (time.time() + 10,) * 2)
    source = f"from {there.name}.a import f\ndef compute(config):\n    return f(config.x)\n"
    with pytest.raises(ValueError, match=r"b\.py changed after this Python started.*restart the kernel"):
        cell_key(source)


def test_a_package_of_one_file_will_do(tmp_path, monkeypatch):
    name = f"single{next(NUMBERS)}"
    (tmp_path / "pyproject.toml").write_text(PYPROJECT.format(package=name, left_out="[]"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    keys = []
    for number in (1, 2):
        (tmp_path / f"{name}.py").write_text(f"N = {number}\ndef f(x):\n    return N\n")
        os.utime(tmp_path / f"{name}.py", (next(STAMPS),) * 2)
        keys.append(cell_key(f"import {name}\ndef compute(config):\n    return {name}.f(1)\n"))
    assert keys[0] != keys[1]


def test_a_digest_knows_no_order_of_keys():
    assert digest({"a": 1, "b": [2.5, None]}) == digest({"b": [2.5, None], "a": 1}) != digest({"a": 1, "b": [2.5, 0]})
