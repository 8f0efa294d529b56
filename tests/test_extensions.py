"""The book's own Sphinx extensions, without Sphinx, and its notebooks that show results/, without a kernel."""

import ast
import importlib
import json
import re
import shutil
from pathlib import Path

import api
import house
import nbformat
import offline
import pytest
import run_banner
import scoreboard
from matplotlib import pyplot as plt
from nbformat.v4 import new_code_cell, new_notebook, new_output
from tags import Tags

from benchmarks import factor_analysis
from benchmarks.report import BARS
from measured import figures
from measured.claims import Claim, Verdict
from measured.record import read, write
from measured.record.memo import MIME
from measured.reruns import Reruns

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ('<script src="https://unpkg.com/thebe"></script>', ["https://unpkg.com/thebe"]),
        ('<link rel="stylesheet" href="//cdn.net/a.css">', ["//cdn.net/a.css"]),
        ("<style>@font-face { src: url('https://fonts.net/a.woff') }</style>", ["https://fonts.net/a.woff"]),
        ('<img src="http://host/a.png">', ["http://host/a.png"]),
        ('<a href="https://arxiv.org">a link</a><link rel="canonical" href="https://here"><img src="a.png">', []),
    ],
)
def test_the_build_notices_what_a_page_would_load_from_elsewhere(page, found):
    assert offline.external_loads(page) == found


RECORD = {
    "part": "toy/part",
    "status": "published",
    "drifted": True,
    "commit": "0123456789abcdef",
    "dirty": False,
    "parameters": {"n": 2, "text": "<b>"},
    "versions": {"torch": "2.13.0"},
    "device": "cuda",
    "seconds": 600.0,
    "created": "2026-01-02T03:04:05+00:00",
}


@pytest.fixture
def banner(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "results" / "toy" / "part").mkdir(parents=True)
    (tmp_path / "results" / "toy" / "part" / "table.csv").write_text("value\n1\n")

    def page(*records):
        outputs = [new_output("display_data", {"text/plain": "a record", MIME: record}) for record in records]
        notebook = new_notebook(cells=[new_code_cell("", outputs=outputs)])
        nbformat.write(notebook, tmp_path / "notebooks" / "toy.ipynb")
        return run_banner.banner("notebooks/toy", tmp_path, "full")

    return page


def test_the_banner_tells_what_the_record_tells(banner):
    text = banner(RECORD)
    assert "full values · computed at 0123456, published; the code has changed since · cuda · 10 min" in text
    for fact in ("toy/part", "n = 2, text = &lt;b&gt;", "torch = 2.13.0", "2026-01-02 03:04"):
        assert fact in text
    assert 'href="../_downloads/toy.ipynb"' in text
    assert 'href="../_downloads/toy-part.csv"' in text
    assert "NOT RECORDED" not in text


@pytest.mark.parametrize("name", ["commit", "parameters", "versions", "device", "seconds", "created", "status"])
def test_the_banner_says_what_was_not_recorded(banner, name):
    assert "NOT RECORDED" in banner({key: value for key, value in RECORD.items() if key != name})
    assert "NOT RECORDED" in banner(RECORD | {name: None})


def test_the_banner_of_a_page_without_a_record_says_so(banner):
    assert "<span>NOT RECORDED</span>" in banner()


def test_uncommitted_changes_are_told(banner):
    assert "computed at 0123456 with uncommitted changes, for this page" in banner(
        RECORD | {"dirty": True, "status": "computed"}
    )


def test_myst_nb_does_not_see_our_mime_types(tmp_path):
    (tmp_path / "toy.ipynb").touch()
    output = new_output("display_data", {"text/plain": "a record", MIME: RECORD})
    content = [nbformat.writes(new_notebook(cells=[new_code_cell("", outputs=[output])]))]
    run_banner.hide_bundles(type("App", (), {"srcdir": tmp_path}), "toy", content)
    assert json.loads(content[0])["cells"][0]["outputs"][0]["data"].keys() == {"text/plain"}


def test_the_scoreboard_keeps_the_chapters_claims_apart():
    claim = {"criterion": "A *sharp* one.", "notebook": "toy"}
    ledger = [
        Claim(id="mine", statement="Ours", source="ours", **claim),
        Claim(id="theirs", statement="Costs $5", source="chapter", **claim),
    ]
    quick = {
        "theirs": Verdict(1.0, 0.1, "holds if", "n > 2"),
        "mine": Verdict(2.0, 0.3, "undecided", of="a gap", reason="not resolved"),
    }
    reruns = {"toy": Reruns(commit=None, runs=[{"theirs": Verdict(1.0, 0.1, "fails")}])}
    lines = list(scoreboard.markdown(ledger, {"quick": quick, "full": {}}, "quick", reruns))
    text = "\n".join(lines)
    assert text.index("The chapter’s claims (1)") < text.index("Our own claims (1)")
    assert r"Costs \$5" in text
    assert r"Criterion: A \*sharp\* one." in text
    assert "◐ 1 holds if</span> at quick values" in text
    assert r"n \> 2" in text
    assert text.count("– not run") == 2
    assert "? undecided</span> <span>not resolved</span> <span>measured: 2.00 ± 0.30, a gap</span>" in text
    assert "fragile: another with 1 of 1 other seeds (fails 1)" in text
    assert text.count("(/notebooks/toy.ipynb#verdicts)") == 2


def test_docstrings_are_plain_text_with_code():
    shown = api.plain("`x_hat` is |x| times *args; sigma_ and `a*b`")
    assert shown == r"``x_hat`` is \|x\| times \*args; sigma\_ and ``a*b``"
    assert api.plain("`Stop`s") == r"``Stop``\ s"


def test_examples_in_docstrings_stand_as_they_are():
    lines = ["a_b", "", ">>> f(*a_b)", "c_d", "", "e_f"]
    api.as_plain_text(None, "", "", None, None, lines)
    assert lines == [r"a\_b", "", ">>> f(*a_b)", "c_d", "", r"e\_f"]


INTERNAL = {  # no user's
    *("vae.check", "vae.environment", "vae.inference.checks"),
    *(f"vae.train.{name}" for name in ("checks", "run", "step", "streams")),
    *("measured.cli", "measured.notebook"),
}


def test_the_api_page_has_every_module_that_is_somebodys():
    text = (ROOT / "book" / "api.md").read_text("utf-8")
    shown = re.findall(r"automodule:: (\S+)", text)
    whole = [name for name in shown if f"{name}\n   :members:\n   :imported-members:" in text]
    files = [file for package in house.PACKAGES for file in (ROOT / package).rglob("*.py")]
    modules = {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files if file.stem[:2] != "__"}
    missing = {m for m in modules - set(shown) - INTERNAL if m.rpartition(".")[0] not in whole}
    assert not missing, f"add {missing} to book/api.md, or to INTERNAL"
    assert not INTERNAL - modules
    assert [name for name in shown if not importlib.import_module(name).__doc__] == []
    assert re.findall(r"^### (\S+)", text, flags=re.M) == shown


# Notebooks that show what results/ holds


class Shown(dict):
    """What the cells of a notebook show, by cell: text, or a figure."""

    def rows(self, cell):
        """The cells of its tables' lines, heads included."""
        lines = [line for line in self[cell].splitlines() if line.startswith("|") and "| --- |" not in line]
        return [[part.strip() for part in line[1:-1].split(" | ")] for line in lines]


def shown(name):
    """Executes book/<name>.ipynb in this process, on the records of the working folder's project."""
    found, namespace = Shown(), {"__name__": "notebook"}
    with figures.styled():
        for cell in nbformat.read(ROOT / "book" / f"{name}.ipynb", as_version=4).cells:
            if cell.cell_type == "code":
                tree = ast.parse(cell.source)
                last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
                exec(compile(tree, cell.id, "exec"), namespace)
                value = eval(compile(ast.Expression(last.value), cell.id, "eval"), namespace) if last else None
                found[cell.id] = plt.gcf() if plt.get_fignums() else getattr(value, "data", None)
                plt.close("all")
    return found


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project that has this one's published records, to be spoilt."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for part in ("speed", "posterior_collapse/threshold", "rate_distortion/sweep"):
        shutil.copytree(ROOT / "results" / part, tmp_path / "results" / part)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def change(folder, value, **where):
    """Store a record anew, with another number in the rows that match."""
    record = read(folder)
    table = record.table.copy()
    rows = table[list(where)].eq(list(where.values())).all(axis=1)
    assert rows.any()
    table.loc[rows, "value"] = value
    facts = {name: fact for name, fact in record.provenance.items() if name not in ("files", "digest")}
    write(folder, table, record.arrays, facts)


def test_published_records_stand_beside_what_was_predicted():
    page = shown("comparison")
    thresholds, ends = page["thresholds"], page["end-points"]
    for words in ("$T_c$ = 5.117", "at 0.8 $T_c$", r"$\beta_c$ = 33.52", r"at 1.05 $\beta_c$", "(3 seeds)"):
        assert words in thresholds
    for words in ("λ₁/σ² = 51.2", "at β = 61.4", "52.8675, of the mean image", "ln N = 11"):
        assert words in ends
    assert re.search(r"Record rate_distortion/sweep, computed at [0-9a-f]{7} on", ends)


@pytest.fixture(scope="module")
def speed(tmp_path_factory):
    """The page on speed, on records in which some numbers are other ones."""
    root = tmp_path_factory.mktemp("speed")
    shutil.copy(ROOT / "pyproject.toml", root)
    folder = Path(shutil.copytree(ROOT / "results" / "speed", root / "results" / "speed"))
    loop = {"contender": "slices", "quantity": "time over ours"}
    change(folder / "digits", 3.49, **loop, layout="1 thread", members=36)
    change(folder / "mnist", 2.0, **loop, layout="2 threads", members=64)
    jax = {"contender": "jax", "layout": "1 thread", "members": 8}
    change(folder / "tiny", 0.7, **jax, quantity="time of a model-step")
    change(folder / "tiny", 1.4, **jax, quantity="time over ours")
    change(folder / "tiny", 0.17, **jax, quantity="share of the ceiling")
    change(folder / "tiny", 3.25, quantity="cold compilation")
    change(folder / "local-digits", 0.0, contender="tuned", quantity="target reached")
    change(folder / "local-mnist", 1.0, contender="tuned", quantity="target reached")
    change(folder / factor_analysis.NAME, 3.9, problem="wine, k = 3", contender="sklearn", quantity="time over ours")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(root)
        return shown("speed")


def test_the_page_on_speed_says_which_bars_are_met(speed):
    rows = speed.rows("bars")[1:]
    assert len(rows) == len(BARS)
    marks = {(row[3], row[4]): row[0] for row in rows}
    assert marks["PyTorch loop, slices, fused Adam, over ours", "digits, 36 models, 1 thread"] == "✗ **not met**"
    assert marks["PyTorch loop, slices, fused Adam, over ours", "MNIST, 64 models, 2 threads"] == "✓ met"
    assert {row[0] for row in rows} == {"✓ met", "✗ **not met**"}


def test_the_page_on_speed_shows_every_time_and_its_circumstances(speed):
    assert speed["times"].count("<summary>") == speed["times"].count("</details>") == 3
    assert speed.rows("times")[0][2:] == ["1 model", "8 models", "36 models", "64 models"]
    assert any(row[3] == "0.7 (1.40; 17%)" for row in speed.rows("times"))
    assert speed["circumstances"].count("with an empty cache") == 3
    assert "3.2 s with an empty cache" in speed["circumstances"]
    assert speed["circumstances"].count("Load of the machine") == 5


def test_the_page_on_speed_shows_posteriors_and_what_never_arrived(speed):
    rows = [row for row in speed.rows("posteriors") if row[0].startswith("Adam 0.02")]
    assert [row[3].startswith("more than ") for row in rows] == [True, False]
    assert any("by itself" in row for row in speed.rows("posteriors"))


def test_the_page_on_speed_shows_factor_analysis(speed):
    (wine,) = [row for row in speed.rows("factor-analysis") if row[0] == "wine, k = 3"]
    assert wine[2].endswith("(3.9; at least 4: ✗ **not met**)")
    assert "below" in speed["factor-analysis"]
    assert "scikit-learn" in speed["circumstances-of-factor-analysis"]


@pytest.mark.parametrize("name", ["comparison", "speed"])
def test_code_that_shows_results_is_folded_and_its_figures_have_an_alternative_text(name, speed):
    page = speed if name == "speed" else shown(name)
    for cell in nbformat.read(ROOT / "book" / f"{name}.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            assert "hide-input" in cell.metadata.tags
            assert cell.outputs == [], "the build executes it; store it without outputs"
            if isinstance(page[cell.id], plt.Figure):
                assert len(cell.metadata.mystnb.image.alt) > 80
                assert all(ax.get_title("left") for ax in page[cell.id].axes)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        *(("speed", f"speed/{case}") for case in ("tiny", "digits", "mnist", "local-digits", "local-mnist")),
        ("speed", "speed/factor_analysis"),
        ("comparison", "rate_distortion/sweep"),
        ("comparison", "posterior_collapse/threshold"),
    ],
)
def test_a_page_without_its_published_record_fails_by_name(project, name, part):
    shutil.rmtree(project / "results" / part)
    with pytest.raises(ValueError, match=rf"results/{part}/record.json is missing"):
        shown(name)


# The house


def imported(package):
    """Of every module of a package, what of the same package it imports: room -> rooms. Read line by line, so as not to
    believe the drawing its own reading."""
    found = {}
    for file in sorted((ROOT / package).rglob("*.py")):
        room = file.relative_to(ROOT / package).parts[0].removesuffix(".py")
        if room.startswith("__"):
            continue
        names = found.setdefault(room, set())
        joined = re.sub(r"\(([^)]*)\)", lambda m: m[1].replace("\n", " "), file.read_text("utf-8"))
        for line in joined.splitlines():
            if match := re.match(rf"\s*(?:from|import) {package}\.(\w+)", line):
                names.add(match[1])
            elif match := re.match(rf"\s*from {package} import (.*)", line):
                names |= {name.split()[0] for name in match[1].split("#")[0].split(",") if name.strip()}
    rooms = set(found)
    return {room: (names & rooms) - {room} for room, names in found.items()}


@pytest.fixture(scope="module")
def drawn():
    return Tags(house.picture(ROOT))


@pytest.mark.parametrize("package", house.PACKAGES)
def test_the_house_is_drawn_as_it_is_built(drawn, package):
    graph = imported(package)
    assert house.imports(ROOT / package) == graph
    boxes = {a["data-name"] for a in drawn.all("rect", **{"class": "room"})}
    assert boxes == set().union(*(imported(name) for name in house.PACKAGES))
    pairs = [(a["data-from"], a["data-to"]) for a in drawn.all("path", **{"class": "arrow"})]
    mine = [(a.split(".")[1], b.split(".")[1]) for a, b in pairs if a.startswith(f"{package}.")]
    assert all(below in graph[room] for room, below in mine), "an arrow that is no import"
    by_arrows = {room: {below for up, below in mine if up == room} for room in graph}
    for room in graph:
        assert house.reachable(by_arrows, room) == house.reachable(graph, room), "an import that no arrows lead to"


def test_arrows_of_the_house_point_down(drawn):
    for a in drawn.all("path", **{"class": "arrow"}):
        numbers = [float(number) for number in re.findall(r"[\d.]+", a["d"])]
        assert numbers[-1] > numbers[1], a
    text = " ".join(drawn.text)
    for package in house.PACKAGES:
        for room, below in imported(package).items():
            assert f"{package}.{room} imports {', '.join(sorted(below)) or 'no other'}." in text


def test_a_house_with_a_circle_is_not_drawn(tmp_path):
    (tmp_path / "a.py").write_text(f"import {tmp_path.name}.b")
    (tmp_path / "b.py").write_text(f"from {tmp_path.name} import a")
    with pytest.raises(ValueError, match="cycle"):
        house.floors(house.imports(tmp_path))


def test_every_room_says_what_it_is(drawn):
    for package in house.PACKAGES:
        for room in house.imports(ROOT / package):
            assert house.sentence(ROOT / package, room), f"{package}/{room} has no docstring"


def test_what_a_number_goes_through_is_there():
    for place in [place for _, _, place in house.WAY if place]:
        module, _, member = place.partition(":")
        assert not member or hasattr(importlib.import_module(module), member), place
    page = Tags(house.way())
    assert [a["data-name"] for a in page.all("rect")] == [name for name, *_ in house.WAY]
    assert len(page.all("path", **{"class": "arrow"})) == len(house.WAY) - 1
