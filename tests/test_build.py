"""What book/build.py promises: it runs again what changed, grafts what did not, leaves nothing of what failed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import build
import execution
import nbformat
import pytest
import toy
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from measured.record import source

ROOT = Path(build.__file__).resolve().parents[1]
LONG_AGO = 1e9  # before this Python started
TIMES = count(LONG_AGO + 1)  # of edits, each another
UNUSED = """
def unused():
    return 1
"""
OTHER = "- {id: other, statement: Another., source: ours, criterion: None., notebook: elsewhere}\n"


def project(root, monkeypatch):
    """The toy's project, with a copy of `measured` in which things can be edited, and a published record."""
    toy.project(root, monkeypatch)
    (root / "arithmetic.py").write_text(toy.ARITHMETIC + UNUSED)
    (root / "book" / "claims.yml").write_text(toy.CLAIMS + OTHER)
    (root / "profiles" / "full.yaml").write_text("toy: {steps: 5}\nother: {steps: 4}\n")
    (root / "results" / "toy" / "sum").mkdir(parents=True)
    (root / "results" / "toy" / "sum" / "table.csv").write_text("value\n3\n")
    (root / "constraints.txt").write_text("torch==1\n")
    shutil.copytree(ROOT / "measured", root / "measured")
    for path in root.rglob("*.py"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    installed = {"measured": root / "measured" / "__init__.py"}
    monkeypatch.setattr(source, "_installed", installed.get)
    return root


@pytest.fixture
def root(tmp_path, monkeypatch):
    return project(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One for all tests that undo what they edit, and the keys before any edit."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        root = project(tmp_path_factory.mktemp("shared"), monkeypatch)
        yield root, {profile: key(root, profile) for profile in ("quick", "full")}


def key(root, profile):
    return execution.experiment_keys(root, ["toy"], profile)["toy"]


def write(path, content, time):
    path.write_text(content)
    os.utime(path, (time, time))


@contextmanager
def edited(path, old, new):
    text = path.read_text()
    assert old in text
    write(path, text.replace(old, new), next(TIMES))
    yield
    write(path, text, LONG_AGO)


@pytest.mark.parametrize(
    ("path", "old", "new", "profile", "changes"),
    [
        ("notebooks/toy.ipynb", "config.steps, config.scale", "config.steps, 2 * config.scale", "quick", True),
        ("notebooks/toy.ipynb", '"parameters"', '"criteria"', "quick", True),
        ("notebooks/toy.ipynb", "# A toy", "# Other words", "quick", False),
        ("arithmetic.py", "range(steps)", "range(steps + 1)", "quick", True),
        ("arithmetic.py", "scale}", "scale}  # why", "quick", False),
        ("arithmetic.py", "return 1", "return 2", "quick", False),
        ("measured/cli.py", "HEARTBEAT = 10.0", "HEARTBEAT = 11.0", "quick", False),
        ("measured/claims.py", "add a criterion or remove the claim", "do something", "quick", False),
        ("measured/figures/style.py", '"font.size": 11', '"font.size": 12', "quick", False),
        ("measured/quantity.py", "LEVEL = 0.05", "LEVEL = 0.1", "quick", True),
        ("book/claims.yml", "Values are positive", "Values are", "quick", True),
        ("book/claims.yml", "Another", "Yet another", "quick", False),
        ("constraints.txt", "1", "2", "quick", True),
        ("profiles/full.yaml", "steps: 5", "steps: 6", "quick", False),
        ("profiles/full.yaml", "steps: 5", "steps: 6", "full", True),
        ("profiles/full.yaml", "steps: 4", "steps: 5", "full", False),
        ("results/toy/sum/table.csv", "3", "4", "quick", False),
        ("results/toy/sum/table.csv", "3", "4", "full", True),
    ],
)
def test_an_experiment_runs_again_only_if_its_outputs_could_change(shared, path, old, new, profile, changes):
    root, before = shared
    with edited(root / path, old, new):
        assert (key(root, profile) != before[profile]) is changes


def test_a_key_does_not_depend_on_what_else_is_asked_for(shared):
    root, before = shared
    text = (root / "notebooks" / "toy.ipynb").read_text()
    (root / "notebooks" / "another.ipynb").write_text(text.replace("import measured", "import measured.pieces"))
    keys = execution.experiment_keys(root, ["another", "toy"], "quick")
    assert keys["toy"] == before["quick"] != keys["another"]


def reading(root, source):
    nbformat.write(new_notebook(cells=[new_code_cell(source)]), root / "book" / "reading.ipynb")


def test_what_shows_results_runs_again_where_they_changed(shared):
    root, _ = shared
    reading(root, "from measured.record import read")
    before = execution.reading_keys(root, ["reading"])
    with edited(root / "measured" / "cli.py", "HEARTBEAT = 10.0", "HEARTBEAT = 11.0"):
        assert execution.reading_keys(root, ["reading"]) == before
    with edited(root / "results" / "toy" / "sum" / "table.csv", "3", "4"):
        assert execution.reading_keys(root, ["reading"]) != before


def test_what_shows_results_is_executed_in_the_projects_folder_and_only_if_it_has_to(root, monkeypatch):
    (root / "beside.py").write_text("answer = 42\n")
    reading(root, "import beside\nbeside.answer")
    execution.execute_readings(root, root / "_build", ["reading"])
    ran = nbformat.read(root / "_build" / "read" / "reading.ipynb", as_version=4)
    assert ran.cells[0].outputs[0].data["text/plain"] == "42"
    monkeypatch.setattr(execution, "executed", None)
    execution.execute_readings(root, root / "_build", ["reading"])


def test_a_missing_published_record_ends_the_build(root):
    page = root / "_build" / "html" / "book" / "comparison.html"
    page.parent.mkdir(parents=True)
    page.write_text("of an earlier build")
    shutil.copy(ROOT / "book" / "comparison.ipynb", root / "book")
    with pytest.raises(SystemExit, match=r"threshold/record.json is missing") as error:
        execution.execute_readings(root, root / "_build", ["comparison"])
    assert "no book: comparison failed" in str(error.value)
    assert not page.exists()


def test_new_prose_gets_the_old_outputs():
    source = new_notebook(
        cells=[
            new_markdown_cell("# New title"),
            new_code_cell("n = 2", metadata={"tags": ["parameters"]}),
            new_markdown_cell("New paragraph"),
            new_code_cell("n", metadata={"mystnb": {"image": {"alt": "new"}}}, outputs=[]),
        ]
    )
    answer = new_output("execute_result", {"text/plain": "3"}, execution_count=3)
    executed = new_notebook(
        cells=[
            new_code_cell("n = 2", metadata={"tags": ["parameters"]}, execution_count=1),
            new_code_cell("# Parameters\nn = 3", metadata={"tags": ["injected-parameters"]}, execution_count=2),
            new_markdown_cell("# Old title"),
            new_code_cell("n", outputs=[answer], execution_count=3),
        ],
        metadata={"language_info": {"name": "python"}},
    )
    page = nbformat.from_dict(execution.graft(executed, source))
    assert [cell.source for cell in page.cells] == [
        *("# New title", "n = 2", "New paragraph", "# Parameters\nn = 3", "n")
    ]
    assert page.cells[-1].outputs == [answer]
    assert page.cells[-1].metadata.mystnb.image.alt == "new"
    assert page.metadata.language_info.name == "python"
    assert source.cells[-1].outputs == []

    source.cells[-1].source = "m"
    with pytest.raises(SystemExit, match="edited while it ran"):
        execution.graft(executed, source)


def test_equal_files_are_left_alone_and_stale_ones_removed(tmp_path):
    kept = {Path("deep", "kept.md"): b"text"}
    build.fill(tmp_path, kept)
    os.utime(tmp_path / "deep" / "kept.md", (1, 1))
    (tmp_path / "deep" / "stale.md").write_text("")
    build.fill(tmp_path, kept)
    assert (tmp_path / "deep" / "kept.md").stat().st_mtime == 1
    assert build.contents(tmp_path) == kept


def test_pages_are_staged_with_their_outputs_and_the_tables_of_the_last_run_only(root):
    target = root / "_build" / "quick"
    for name in build.TOP:
        (root / name).touch()
    reading(root, "1 + 1")
    two = new_output("execute_result", {"text/plain": "2"}, execution_count=1)
    ran = new_notebook(cells=[new_code_cell("1 + 1", outputs=[two], execution_count=1)])
    for folder in ("runs/toy/sum", "results/toy/renamed", "notebooks", "read"):
        (target / folder).mkdir(parents=True)
    nbformat.write(ran, target / "read" / "reading.ipynb")
    (target / "runs" / "toy" / "sum" / "table.csv").write_text("value\n3\n")
    shutil.copy(root / "notebooks" / "toy.ipynb", target / "runs" / "toy")
    (target / "results" / "toy" / "renamed" / "table.csv").touch()
    (target / "notebooks" / "removed.ipynb").touch()
    build.stage(root, target, build.Pages([], ["toy"], ["reading"]))
    assert list(build.contents(target / "results")) == [Path("toy", "sum", "table.csv")]
    assert list(build.contents(target / "notebooks")) == [Path("toy.ipynb")]
    assert json.loads((target / "book" / "reading.ipynb").read_text())["cells"][0]["execution_count"] == 1
    assert (target / "book" / "claims.yml").exists()


def test_experiments_are_told_from_pages_that_show_results():
    pages = build.pages_of(ROOT)
    assert pages.readings == ["comparison", "speed"]
    assert pages.experiments == [p.removeprefix("notebooks/") for p in pages.all if p.startswith("notebooks/")]


def test_a_failing_run_prints_its_error_and_the_others_finish(tmp_path, capfd):
    commands = {
        "bad": [sys.executable, "-c", "raise SystemExit('the reason')"],
        "good": [sys.executable, "-c", f"print('cell 1 of 1'); open({str(tmp_path / 'done')!r}, 'w').close()"],
    }
    assert execution.run_all(commands, 2, dict(os.environ)) == ["bad"]
    out, err = capfd.readouterr()
    assert "cell 1 of 1" in out
    assert "the reason" in err
    assert (tmp_path / "done").exists()


def test_a_failing_notebook_leaves_no_page(root, monkeypatch):
    target = root / "_build" / "quick"
    page = target / "html" / "notebooks" / "toy.html"
    page.parent.mkdir(parents=True)
    page.write_text("of an earlier build")
    monkeypatch.setattr(execution, "run_all", lambda commands, jobs, environment: list(commands))
    with pytest.raises(SystemExit, match="toy failed"):
        execution.execute(root, target, ["toy"], "quick", jobs=2)
    assert not page.exists()

    ran = []
    monkeypatch.setattr(execution, "run_all", lambda commands, jobs, environment: ran.extend(commands) or [])
    execution.execute(root, target, ["toy"], "quick", jobs=2)
    (target / "runs" / "toy").mkdir()
    execution.execute(root, target, ["toy"], "quick", jobs=2)
    assert ran == ["toy"]  # again after the failure, then not again


def test_quick_values_are_computed_and_published_ones_loaded(root, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        execution, "run_all", lambda commands, jobs, environment: seen.update(environment, command=commands) or []
    )
    execution.execute(root, root / "_build" / "quick", ["toy"], "quick", jobs=2)
    assert seen["VAE_RECORDS"] == "compute"
    execution.execute(root, root / "_build" / "full", ["toy"], "full", jobs=2)
    assert seen["VAE_RECORDS"] == "published"
    assert "full" in seen["command"]["toy"]


def test_an_unknown_profile_is_refused_by_name(root):
    with pytest.raises(SystemExit, match="quick, full, got 'ful'"):
        build.build_book(root, "ful", jobs=2)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM is a POSIX signal")
def test_a_build_that_is_told_to_stop_stops_its_notebooks(tmp_path):
    child = tmp_path / "child.py"
    child.write_text(
        "import os, pathlib, sys, time\npathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\ntime.sleep(60)"
    )
    parent = tmp_path / "parent.py"
    parent.write_text(
        textwrap.dedent(f"""
        import os, signal, sys
        sys.path.insert(0, {str(ROOT / "book")!r})
        import execution
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        execution.run_all({{"a": [sys.executable, {str(child)!r}, {str(tmp_path / "pid")!r}]}}, 1, dict(os.environ))
        """)
    )
    process = subprocess.Popen([sys.executable, parent])
    pid = tmp_path / "pid"
    for _ in range(200):
        if pid.exists() and pid.read_text():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
