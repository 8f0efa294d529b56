"""The book's own Sphinx extensions, without Sphinx."""

import importlib.util
import json
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from measured.claims import Claim, Verdict
from measured.record import project_root, read
from measured.record.memo import MIME
from measured.reruns import Reruns

EXTENSIONS = Path(__file__).resolve().parent.parent / "book" / "_ext"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXTENSIONS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    assert load("offline").external_loads(page) == found


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
        return load("run_banner").banner("notebooks/toy", tmp_path, "full")

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
    load("run_banner").hide_bundles(type("App", (), {"srcdir": tmp_path}), "toy", content)
    assert json.loads(content[0])["cells"][0]["outputs"][0]["data"].keys() == {"text/plain"}


def test_the_scoreboard_keeps_the_chapters_claims_apart():
    claim = {"criterion": "A *sharp* one.", "notebook": "toy"}
    ledger = [
        Claim(id="mine", statement="Ours", source="ours", **claim),
        Claim(id="theirs", statement="Costs $5", source="chapter", **claim),
    ]
    quick = {"theirs": Verdict(1.0, 0.1, "holds if", "n > 2")}
    reruns = {"toy": Reruns(commit=None, runs=[{"theirs": Verdict(1.0, 0.1, "fails")}])}
    lines = list(load("scoreboard").markdown(ledger, {"quick": quick, "full": {}}, "quick", reruns))
    text = "\n".join(lines)
    assert text.index("The chapter’s claims (1)") < text.index("Our own claims (1)")
    assert r"Costs \$5" in text
    assert r"Criterion: A \*sharp\* one." in text
    assert "◐ 1 holds if</span> at quick values" in text
    assert r"n \> 2" in text
    assert text.count("– not run") == 3
    assert "fragile: another with 1 of 1 other seeds (fails 1)" in text
    assert text.count("(/notebooks/toy.ipynb#verdicts)") == 2


def test_docstrings_are_plain_text_with_code():
    shown = load("api").plain("`x_hat` is |x| times *args; sigma_ and `a*b`")
    assert shown == r"``x_hat`` is \|x\| times \*args; sigma\_ and ``a*b``"


@pytest.fixture
def speed(tmp_path, monkeypatch):
    """The extension, and records with two trainers."""
    from benchmarks import report

    extension = load("speed")
    keys = {"cpu": 1.0, "memory": 100.0, "flops": 12.8e6}
    for case, members in (("digits", 36), ("mnist", 64)):
        rows = [
            keys | {"case": case, "layout": layout, "contender": name, "members": members, "round": n, "wall": wall}
            for layout in ("1 thread", "2 threads", "2 processes")
            for name, wall in (("ours", 0.5), ("jax", 0.7), ("ceiling", 20.0))
            for n in range(2)
        ]
        single = [{"quantity": f"load {when}", "value": 0.5} for when in ("before", "after")]
        single += [{"quantity": f"{how} compilation", "value": 3.25} for how in ("cold", "warm")]
        table = pd.concat([report.summary(rows), pd.DataFrame(single)], ignore_index=True)
        report.store(tmp_path / "results" / "speed" / case, table, {"rounds": 2, "cores": 2}, 120.0, "cpu")
    measured = {
        "ours": {"time": 0.25, "time over ours": 1.0, "suboptimality": 0.0015, "iterations": 200, "target reached": 1},
        "published": {"time": 3, "time over ours": 12, "suboptimality": 0.004, "iterations": 4000, "target reached": 0},
        "ais-prior": {"time": 9, "time over ours": 30, "rms error": 0.054, "temperatures": 1600},
    }
    keys = {"case": "local-digits", "layout": "1 thread", "members": 100, "se": 0.0}
    rows = [
        keys | {"contender": name, "quantity": quantity, "value": float(value)}
        for name, numbers in measured.items()
        for quantity, value in numbers.items()
    ]
    table = pd.DataFrame([*rows, *({"quantity": f"load {when}", "value": 0.5} for when in ("before", "after"))])
    report.store(tmp_path / "results" / "speed" / "local-digits", table, {"rounds": 2, "cores": 2}, 120.0, "cpu")
    monkeypatch.setattr(extension, "project_root", lambda: tmp_path)
    return extension, extension.recorded()


def test_the_page_on_speed_says_which_bars_are_met(speed):
    extension, found = speed
    text = "\n".join(extension.bars_table(found))
    assert "JAX jit(vmap), scan, over ours" in text
    assert "1.40 ± 0.00" in text
    assert text.count("✓ met") == 4
    assert text.count("not measured yet") == 12
    assert text.count("**not met**") == 1
    assert "posteriors on digits, 100 images, 1 thread" in text


def test_the_page_on_speed_shows_posteriors_and_what_never_arrived(speed):
    extension, found = speed
    text = "\n".join(extension.posteriors_table(found))
    assert "- 1.5\n  - by itself\n  - 0.25\n  - 1" in text
    assert "- 4.0\n  - 4000\n  - more than 3\n  - more than 12" in text
    assert "- 54 rms\n  - 1600 temperatures\n  - 9\n  - 30" in text
    nothing = found._replace(records={})
    assert list(extension.posteriors_table(nothing)) == ["Not measured yet; `make bench` does it."]


def test_the_page_on_speed_shows_every_time_and_its_circumstances(speed):
    extension, found = speed
    text = "\n".join(extension.times_table(found))
    assert text.count("0.7 (1.40; 17%)") == text.count("0.5 (1.00; 24%)") == 6
    about = "\n".join(extension.circumstances(found))
    assert about.count("3.2 s with an empty cache") == 2
    assert "0.5 before, 0.5 after" in about
    assert ", 2 minutes" in about


@pytest.mark.parametrize("name", ["models", "against_jax"])
def test_figures_of_speed_have_an_alternative_text(speed, name):
    extension, found = speed
    figure, alt = getattr(extension, name)(found)
    assert len(alt) > 80
    assert all(ax.get_title() for ax in figure.axes)


def test_without_a_record_of_speed_the_build_says_how_to_make_one(speed, tmp_path, monkeypatch):
    monkeypatch.setattr(speed[0], "project_root", lambda: tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="holds no record; measure with `make bench OUT=results/speed`"):
        speed[0].recorded()


def test_the_page_on_speed_shows_factor_analysis_where_it_was_measured(speed, tmp_path):
    from benchmarks import factor_analysis, report

    extension, found = speed
    assert "Not measured yet" in "\n".join(extension.factor_analysis_table(found))
    walls = {"wine, k = 3": {"ours": 2.0, "sklearn": 9.0, "em": 3.0}, "64 replicates": {"ours": 0.5, "loop": 50.0}}
    rows = [
        {"problem": problem, "contender": name, "round": number, "wall": wall, "cpu": wall}
        for problem, times in walls.items()
        for name, wall in times.items()
        for number in range(2)
    ]
    checks = [
        {"problem": problem, "contender": name, "quantity": "log-likelihood below ours", "value": 2e-5 * (name == "em"),
         "stopped": name != "em"}
        for problem, times in walls.items()
        for name in times
    ]  # fmt: skip
    loads = [{"quantity": f"load {when}", "value": 0.5} for when in ("before", "after")]
    table = pd.concat([factor_analysis.summary(rows), pd.DataFrame([*loads, *checks])], ignore_index=True)
    folder = tmp_path / "results" / "speed" / factor_analysis.NAME
    report.store(folder, table, {"rounds": 2, "cores": 2}, 60.0, "cpu")
    text = "\n".join(extension.factor_analysis_table(found))
    assert "9 (4.5; at least 4: ✓ met)" in text
    assert "3 (1.5; ends 2e-05 below)" in text
    assert "50 (100)" in text
    assert "2 rounds, load 0.5 before and 0.5 after, scikit-learn" in text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("thresholds", ["$T_c$ = 5.117", "at 0.8 $T_c$", r"$\beta_c$ = 33.52", r"at 1.05 $\beta_c$", "(3 seeds)"]),
        ("end_points", ["λ₁/σ² = 51.2", "at β = 61.4", "52.8675, of the mean image", "ln N = 11"]),
    ],
)
def test_published_records_stand_beside_what_was_predicted(name, expected):
    part, table = load("comparison").TABLES[name]
    text = "\n".join(table(read(project_root() / "results" / part)))
    assert [words for words in expected if words not in text] == []
