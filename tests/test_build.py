"""What book/build.py promises: it runs again what changed, grafts what did not, leaves nothing of what failed."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

BOOK = Path(__file__).resolve().parent.parent / "book"


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load(BOOK / "build.py")


@pytest.fixture
def root(tmp_path):
    """A repository with one notebook, one module, one claim of this notebook and one of another."""
    for folder in ("notebooks", "vae/record", "book", "profiles", "results/toy/part"):
        (tmp_path / folder).mkdir(parents=True)
    cells = [
        new_markdown_cell("# Toy"),
        new_code_cell("n: int = 2  # how many", metadata={"tags": ["parameters"]}),
        new_code_cell("n + 1"),
    ]
    nbformat.write(new_notebook(cells=cells), tmp_path / "notebooks" / "toy.ipynb")
    (tmp_path / "vae" / "record" / "__init__.py").write_text('"""Doc."""\n\ndef f():\n    """Doc."""\n    return 1\n')
    claims = [{"id": "a", "notebook": "toy", "statement": "A"}, {"id": "b", "notebook": "other", "statement": "B"}]
    (tmp_path / "book" / "claims.yml").write_text(json.dumps(claims))
    (tmp_path / "profiles" / "full.yaml").write_text("toy: {n: 3}\nother: {n: 4}\n")
    (tmp_path / "results" / "toy" / "part" / "table.csv").write_text("value\n3\n")
    (tmp_path / "constraints.txt").write_text("torch==1\n")
    return tmp_path


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("path", "old", "new", "profile", "changes"),
    [
        ("notebooks/toy.ipynb", "n + 1", "n + 2", "quick", True),
        ("notebooks/toy.ipynb", '"parameters"', '"criteria"', "quick", True),
        ("notebooks/toy.ipynb", "# Toy", "# Other words", "quick", False),
        ("vae/record/__init__.py", "return 1", "return 2", "quick", True),
        ("vae/record/__init__.py", "Doc.", "Other words.", "quick", False),
        ("vae/record/__init__.py", "return 1", "return 1  # why", "quick", False),
        ("book/claims.yml", '"A"', '"Z"', "quick", True),
        ("book/claims.yml", '"B"', '"Z"', "quick", False),
        ("constraints.txt", "1", "2", "quick", True),
        ("profiles/full.yaml", "3", "5", "quick", False),
        ("profiles/full.yaml", "3", "5", "full", True),
        ("profiles/full.yaml", "4", "5", "full", False),
        ("results/toy/part/table.csv", "3", "4", "quick", False),
        ("results/toy/part/table.csv", "3", "4", "full", True),
    ],
)
def test_a_notebook_runs_again_only_if_its_results_could_change(root, path, old, new, profile, changes):
    before = build.content_key(root, "toy", profile)
    replace(root / path, old, new)
    assert (build.content_key(root, "toy", profile) != before) is changes


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
    page = nbformat.from_dict(build.graft(executed, source))
    assert [cell.source for cell in page.cells] == [
        *("# New title", "n = 2", "New paragraph", "# Parameters\nn = 3", "n")
    ]
    assert page.cells[-1].outputs == [answer]
    assert page.cells[-1].metadata.mystnb.image.alt == "new"
    assert page.metadata.language_info.name == "python"
    assert source.cells[-1].outputs == []

    source.cells[-1].source = "m"
    with pytest.raises(SystemExit, match="edited while it ran"):
        build.graft(executed, source)


def test_equal_files_are_left_alone_and_stale_ones_removed(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "kept.md").write_text("text")
    build.mirror(source, target)
    os.utime(target / "deep" / "kept.md", (1, 1))
    (target / "stale.md").write_text("")
    build.mirror(source, target)
    assert (target / "deep" / "kept.md").stat().st_mtime == 1
    assert sorted(p.name for p in target.rglob("*")) == ["deep", "kept.md"]


def test_the_pages_get_the_tables_of_the_last_run_only(root):
    target = root / "_build" / "quick"
    for name in ("_config.yml", "_toc.yml", "README.md", "CONTRIBUTING.md"):
        (root / name).touch()
    (target / "runs" / "toy" / "part").mkdir(parents=True)
    (target / "runs" / "toy" / "part" / "table.csv").write_text("value\n3\n")
    (target / "runs" / "toy" / "toy.ipynb").write_text((root / "notebooks" / "toy.ipynb").read_text())
    (target / "results" / "toy" / "renamed").mkdir(parents=True)
    (target / "notebooks").mkdir()
    (target / "notebooks" / "removed.ipynb").touch()
    build.stage(root, target, ["toy"])
    assert [path.name for path in (target / "results" / "toy").iterdir()] == ["part"]
    assert [path.name for path in (target / "notebooks").iterdir()] == ["toy.ipynb"]
    assert (target / "book" / "claims.yml").exists()


def test_a_failing_run_prints_its_error_and_the_others_finish(tmp_path, capfd):
    commands = {
        "bad": [sys.executable, "-c", "raise SystemExit('the reason')"],
        "good": [sys.executable, "-c", f"print('cell 1 of 1'); open({str(tmp_path / 'done')!r}, 'w').close()"],
    }
    assert build.run_all(commands, 2, dict(os.environ)) == ["bad"]
    out, err = capfd.readouterr()
    assert "cell 1 of 1" in out
    assert "the reason" in err
    assert (tmp_path / "done").exists()


def test_a_failing_notebook_leaves_no_page(root, monkeypatch):
    target = root / "_build" / "quick"
    page = target / "html" / "notebooks" / "toy.html"
    page.parent.mkdir(parents=True)
    page.write_text("of an earlier build")
    monkeypatch.setattr(build, "run_all", lambda commands, jobs, environment: list(commands))
    with pytest.raises(SystemExit, match="toy failed"):
        build.execute(root, target, ["toy"], "quick", jobs=2)
    assert not page.exists()

    ran = []
    monkeypatch.setattr(build, "run_all", lambda commands, jobs, environment: ran.extend(commands) or [])
    build.execute(root, target, ["toy"], "quick", jobs=2)
    (target / "runs" / "toy").mkdir()
    build.execute(root, target, ["toy"], "quick", jobs=2)
    assert ran == ["toy"]  # again after the failure, then not again


def test_quick_values_are_computed_and_published_ones_loaded(root, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        build, "run_all", lambda commands, jobs, environment: seen.update(environment, command=commands) or []
    )
    build.execute(root, root / "_build" / "quick", ["toy"], "quick", jobs=2)
    assert seen["VAE_RECORDS"] == "compute"
    build.execute(root, root / "_build" / "full", ["toy"], "full", jobs=2)
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
        sys.path.insert(0, {str(BOOK)!r})
        import build
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        build.run_all({{"a": [sys.executable, {str(child)!r}, {str(tmp_path / "pid")!r}]}}, 1, dict(os.environ))
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
