"""The project as its pyproject.toml describes it."""

import pytest

import measured
from measured.project import modes_of, project

TABLE = '[project]\nname = "toy"\n[tool.measured]\npackage = "arithmetic"\ncommand = "toy-box"\n'


@pytest.fixture
def root(tmp_path, monkeypatch):
    (tmp_path / "root" / "notebooks" / "deep").mkdir(parents=True)
    (tmp_path / "root" / "pyproject.toml").write_text(TABLE)
    monkeypatch.chdir(tmp_path / "root")
    return tmp_path / "root"


def test_it_is_found_here_or_above_else_where_this_was_installed_from(root, tmp_path, monkeypatch):
    assert (project().root, project().package, project().distribution) == (root, "arithmetic", "toy")
    monkeypatch.chdir(root / "notebooks" / "deep")
    (root / "notebooks" / "pyproject.toml").write_text("[project]\nname = 'other'\n")  # says nothing of measuring
    assert project().root == root
    monkeypatch.chdir(tmp_path)
    assert project(root).package == "arithmetic"
    assert project().package == "vae"
    assert (project().root / "measured" / "__init__.py").samefile(measured.__file__)
    with pytest.raises(ValueError, match=rf"no pyproject.toml with \[tool.measured\] at {tmp_path} or above; go to a"):
        project(tmp_path)


def test_variables_begin_with_the_command(root, monkeypatch):
    assert project().variable("RECORDS") == "TOY_BOX_RECORDS"
    assert project().environment("RECORDS") is None
    monkeypatch.setenv("TOY_BOX_RECORDS", "")
    assert (project().environment("RECORDS"), modes_of(project())) == (None, "auto")
    monkeypatch.setenv("TOY_BOX_RECORDS", "published")
    assert modes_of(project()) == "published"
    monkeypatch.setenv("TOY_BOX_RECORDS", "publish")
    with pytest.raises(ValueError, match="TOY_BOX_RECORDS 'publish' is unknown; did you mean 'published'?"):
        modes_of(project())
    monkeypatch.setenv("TOY_BOX_CACHE_DIR", "~/somewhere")
    assert project().cache.is_absolute()
    assert project().cache.name == "somewhere"
    monkeypatch.delenv("TOY_BOX_CACHE_DIR")
    assert project().cache.name == "toy"


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (TABLE.replace('package = "arithmetic"\n', ""), "package: Field required"),
        (TABLE + 'pakage = "x"\n', "pakage: Extra inputs are not permitted"),
        (TABLE.replace("command", "check = 3\ncommand"), "check: Input should be a valid string"),
        (TABLE.replace('name = "toy"', ""), "project: KeyError"),
    ],
)
def test_a_malformed_table_is_refused_by_file_and_field(root, table, problem):
    (root / "pyproject.toml").write_text(table)
    with pytest.raises(ValueError, match=rf"pyproject.toml: \[tool.measured\] {problem}.*; see measured/project.py"):
        project()


def test_the_projects_own_check_is_called(root, monkeypatch):
    project().check_environment()
    (root / "pyproject.toml").write_text(TABLE + 'check = "os:getcwd"\n')
    project().check_environment()
    (root / "settings_of_toy.py").write_text("def check():\n    raise ValueError('TOY_X is odd; unset it')\n")
    monkeypatch.syspath_prepend(root)
    (root / "pyproject.toml").write_text(TABLE + 'check = "settings_of_toy:check"\n')
    with pytest.raises(ValueError, match="TOY_X is odd"):
        project().check_environment()
