"""Records: whole or absent, verified, and found again by exactly what can change them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import pytest
import torch
import toy

import measured
from measured.config import Content, File, Positive
from measured.record import Result, combined, compute_or_load, key, memo, paths, read, store, write
from measured.record.provenance import circumstances, peak_memory_mb
from vae.device import Device

TABLE = pd.DataFrame(
    {
        "quantity": ["NA", "elbo, exact", "None"],
        "value": [0.1 + 0.2, np.nan, -np.inf],
        "n": [3, 1, 2],
        "converged": [True, False, True],
    }
)
FACTS = toy.FACTS | {
    "part": "toy/sum",
    "parameters": {"rate": 0.5},
    "seconds": 1.0,
    "created": "2026-01-01T00:00:00+00:00",
}


class Config(measured.Config):
    rate: Positive
    device: Device


CONFIG = Config(rate=0.5, device="cpu")
PYPROJECT = '[project]\nname = "toy"\n[tool.measured]\npackage = "vae"\ncommand = "vae"\nversions = ["torch"]\n'


def compute(config):
    return pd.DataFrame({"value": [config.rate]})


def other_compute(config):
    return pd.DataFrame({"value": [config.rate + 1]})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VAE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("VAE_RECORDS", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project folder in place of this one."""
    (tmp_path / "root" / "notebooks").mkdir(parents=True)
    (tmp_path / "root" / "pyproject.toml").write_text(PYPROJECT)
    monkeypatch.chdir(tmp_path / "root")
    return tmp_path / "root"


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# the key: parameters and data; what it sees of the code is in test_key.py


def test_the_key_depends_on_part_parameters_code_and_not_on_the_device():
    base = key("toy/sum", CONFIG, compute)
    assert key("toy/sum", Config(rate=0.5, device="auto"), compute) == base
    assert (
        len(
            {
                base,
                key("toy/product", CONFIG, compute),
                key("toy/sum", Config(rate=0.6, device="cpu"), compute),
                key("toy/sum", CONFIG, other_compute),
            }
        )
        == 4
    )


DIGESTS = {"digits": "old"}


class WithData(measured.Config):
    dataset: Annotated[str, Content(DIGESTS.get)]


def test_the_key_depends_on_the_digest_of_the_data(monkeypatch):
    before = key("toy/sum", WithData(dataset="digits"), compute)
    monkeypatch.setitem(DIGESTS, "digits", "new")
    assert key("toy/sum", WithData(dataset="digits"), compute) != before


class WithFiles(measured.Config):
    scores: File
    weights: File | None
    several: list[File]
    either: tuple[int, File] | int
    named: dict[str, File]


@pytest.mark.parametrize("name", ["scores", "weights", "several", "either", "named"])
def test_a_file_counts_by_its_content_and_not_by_its_place(tmp_path, name, root, monkeypatch):
    def config(folder):
        for file in ("a", "b", "c", "d", "e", "f"):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / file).write_text(file)
        a, b, c, d, e, f = (tmp_path / folder / file for file in "abcdef")
        return WithFiles(scores=a, weights=str(b), several=[c, d], either=(1, e), named={"x": f})

    first = config("here")
    assert set(first.data_digests()) == {"scores", "weights", "several[0]", "several[1]", "either[1]", "named[x]"}
    before = compute_or_load("toy/sum", first, data_compute)
    assert compute_or_load("toy/sum", config("there"), data_compute).status == "loaded"
    value = getattr(first, name)
    file = {"several": lambda v: v[1], "either": lambda v: v[1], "named": lambda v: v["x"]}.get(name, lambda v: v)(
        value
    )
    file.write_text("changed")
    assert key("toy/sum", first, data_compute) != before.provenance["key"]
    (root / "results" / "toy").mkdir(parents=True)
    before.path.rename(root / "results" / "toy" / "sum")
    monkeypatch.setenv("VAE_RECORDS", "published")
    with pytest.raises(ValueError, match="for another run: the data have another digest"):
        compute_or_load("toy/sum", first, data_compute)
    assert compute_or_load("toy/sum", config("there"), data_compute).status == "published"


def test_without_a_file_there_is_no_digest_and_an_absent_one_is_refused(tmp_path):
    (tmp_path / "a").touch()
    given = {"scores": tmp_path / "a", "weights": None, "several": [], "either": 3, "named": {}}
    config = WithFiles.load(given)
    assert config.data_digests().keys() == {"scores"}
    assert config.key_parameters() == {"weights": None, "several": [], "either": 3, "named": {}}
    with pytest.raises(
        ValueError, match="^weights must point to a file, got '.*absent'; give the path of a file that is"
    ):
        WithFiles.load(given | {"weights": str(tmp_path / "absent")})


def test_a_rerun_with_other_streams_is_another_record(monkeypatch):
    """The key of what is computed; what is hashed of parameters, data and code is the same."""
    usual = compute_or_load("toy/sum", CONFIG, compute)
    monkeypatch.setenv("VAE_RUN", "0")
    assert compute_or_load("toy/sum", CONFIG, compute).status == "loaded"
    found = set()
    for run in ("1", "2"):
        monkeypatch.setenv("VAE_RUN", run)
        again = compute_or_load("toy/sum", CONFIG, compute)
        assert again.status == "computed"
        assert again.provenance["code"] == usual.provenance["code"]
        found.add(again.provenance["key"])
    assert len({*found, usual.provenance["key"]}) == 3


# on disk


def test_what_is_read_is_what_was_written(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "names": np.array(["x", "yy"])}
    written = write(tmp_path / "r", TABLE, arrays, FACTS)
    again = read(tmp_path / "r")
    for record in (written, again):
        pd.testing.assert_frame_equal(record.table, TABLE, check_exact=True, check_dtype=False)
        assert {name: array.tolist() for name, array in record.arrays.items()} == {
            name: array.tolist() for name, array in arrays.items()
        }
    assert again.arrays["a"].dtype == np.float32
    assert {name: again.provenance[name] for name in FACTS} == FACTS
    assert files(tmp_path) == ["r/arrays.npz", "r/record.json", "r/table.csv"]


def test_the_same_result_makes_the_same_files(tmp_path):
    for name in ("r", "s"):
        write(tmp_path / name, TABLE, {"a": np.ones(3)}, FACTS)
    for file in files(tmp_path / "r"):
        assert (tmp_path / "r" / file).read_bytes() == (tmp_path / "s" / file).read_bytes()


def edit_json(folder: Path, **changed: object) -> None:
    file = folder / "record.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        (lambda r: (r / "table.csv").write_text((r / "table.csv").read_text().replace("0.3", "0.4", 1)), "table.csv"),
        (lambda r: (r / "table.csv").unlink(), "table.csv"),
        (lambda r: (r / "arrays.npz").write_bytes((r / "arrays.npz").read_bytes()[:-1]), "arrays.npz"),
        (lambda r: (r / "record.json").unlink(), "record.json"),
        (lambda r: (r / "record.json").write_text((r / "record.json").read_text()[:100]), "record.json"),
        (lambda r: (r / "record.json").write_bytes(b"\xff\xfe"), "record.json"),
        (lambda r: (r / "record.json").write_text("[]"), "record.json"),
        (lambda r: edit_json(r, seconds=0.1), "record.json"),
        (lambda r: edit_json(r, parameters={"rate": 0.6}), "record.json"),
        (lambda r: edit_json(r, files={}), "record.json"),
    ],
)
def test_damage_and_edits_by_hand_are_refused_naming_the_file(tmp_path, damage, file):
    write(tmp_path / "r", TABLE, {"a": np.ones(3)}, FACTS)
    damage(tmp_path / "r")
    with pytest.raises(ValueError, match=f"r/{file} (is missing|is damaged or was edited).*; delete {tmp_path}/r"):
        read(tmp_path / "r")


def test_a_record_of_another_version_is_refused(tmp_path):
    with pytest.raises(ValueError, match="written by another version"):
        write(tmp_path / "r", TABLE, {}, FACTS | {"unheard": 1})


@pytest.mark.parametrize(
    ("table", "arrays", "message"),
    [
        (pd.DataFrame(), {}, "DataFrame with rows.*got an empty one"),
        ([1, 2], {}, "DataFrame with rows.*got list"),
        (TABLE.set_index("quantity"), {}, r"no named index, got \['quantity'\]; call its reset_index"),
        (TABLE, {"a": np.array([{}])}, r"arrays\['a'\] must hold numbers or text, got objects"),
    ],
)
def test_unfit_results_are_refused(tmp_path, table, arrays, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "r", table, arrays, FACTS)
    assert not files(tmp_path)


def test_arrays_too_large_for_the_repository_warn_and_are_kept(tmp_path):
    noise = np.random.default_rng(0).normal(size=300_000)
    with pytest.warns(UserWarning, match=r"arrays.npz takes 2\.\d MB, and results/ holds 2 MB at most"):
        record = write(tmp_path / "r", TABLE, {"a": noise}, FACTS)
    assert np.array_equal(record.arrays["a"], noise)


def test_an_interrupted_write_leaves_nothing_and_keeps_the_older_record(tmp_path, monkeypatch):
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "r", TABLE, {"a": np.ones(3)}, FACTS)
    assert not list(tmp_path.iterdir())
    write(tmp_path / "r", TABLE, {}, FACTS)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "r", TABLE, {"a": np.ones(3)}, FACTS)
    assert files(tmp_path) == ["r/record.json", "r/table.csv"]


def test_an_interrupt_between_the_two_renames_keeps_the_older_record(tmp_path, monkeypatch):
    write(tmp_path / "r", TABLE, {}, FACTS)
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if target == tmp_path / "r" and not self.name.endswith("-old"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "r", TABLE, {}, FACTS | {"seconds": 2.0})
    assert read(tmp_path / "r").provenance["seconds"] == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


ROUNDS = 100
WRITER = f"""
import sys
import pandas as pd
from pathlib import Path
from measured.record import write
for i in range({ROUNDS}):
    write(Path(sys.argv[1]), pd.DataFrame({{"writer": [int(sys.argv[2])] * 50, "i": i}}), {{}}, {FACTS!r})
"""


def test_two_writers_of_one_record_leave_one_good_record_and_readers_see_whole_ones(tmp_path):
    folder = tmp_path / "records" / "r"
    folder.parent.mkdir()
    writers = [subprocess.Popen([sys.executable, "-W", "error", "-c", WRITER, folder, n]) for n in "12"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if folder.exists():
            table = read(folder).table
            assert table.nunique().tolist() == [1, 1]
            seen.add(int(table.writer[0]))
    assert [writer.returncode for writer in writers] == [0, 0]
    assert read(folder).table.i[0] == ROUNDS - 1
    assert seen == {1, 2}
    assert [path.name for path in folder.parent.iterdir()] == ["r"]


# compute or load


def counting():
    calls = []

    def compute(config: Config) -> Result:
        calls.append(config)
        return Result(pd.DataFrame({"value": [config.rate], "name": "NA"}), {"a": np.ones(2)})

    return calls, compute


@pytest.fixture
def uncounted(monkeypatch):
    """Lets a test's compute count its calls, which the key rightly refuses in a notebook."""
    monkeypatch.setattr("measured.record.keys.code_key", lambda compute, parameters: compute.__qualname__)


@pytest.mark.usefixtures("uncounted")
def test_auto_computes_once_and_then_loads_the_same():
    calls, compute = counting()
    first = compute_or_load("toy/sum", CONFIG, compute)
    second = compute_or_load("toy/sum", CONFIG, compute)
    assert (first.status, second.status, len(calls)) == ("computed", "loaded", 1)
    pd.testing.assert_frame_equal(first.table, second.table, check_exact=True)
    assert first.arrays["a"].tolist() == second.arrays["a"].tolist()
    assert first.provenance == second.provenance
    assert not first.drifted
    compute_or_load("toy/sum", Config(rate=0.6, device="cpu"), compute)
    assert len(calls) == 2


@pytest.mark.usefixtures("uncounted")
def test_compute_never_loads_but_stores(monkeypatch):
    calls, compute = counting()
    monkeypatch.setenv("VAE_RECORDS", "compute")
    created = [compute_or_load("toy/sum", CONFIG, compute).status for _ in range(2)]
    assert (created, len(calls)) == (["computed", "computed"], 2)
    monkeypatch.setenv("VAE_RECORDS", "auto")
    assert compute_or_load("toy/sum", CONFIG, compute).status == "loaded"


def test_a_table_alone_will_do():
    assert compute_or_load("toy/sum", CONFIG, compute).table.value.tolist() == [0.5]


def test_a_failing_computation_leaves_no_record(cache):
    def compute(config: Config) -> None:
        raise FloatingPointError("diverged at step 3")

    with pytest.raises(FloatingPointError):
        compute_or_load("toy/sum", CONFIG, compute)
    assert not files(cache)


@pytest.mark.usefixtures("uncounted")
def test_a_damaged_record_in_the_cache_is_an_error_and_compute_replaces_it(monkeypatch):
    calls, compute = counting()
    record = compute_or_load("toy/sum", CONFIG, compute)
    (record.path / "table.csv").write_text("value\n1\n")
    with pytest.raises(ValueError, match=f"{record.path}/table.csv is damaged"):
        compute_or_load("toy/sum", CONFIG, compute)
    assert len(calls) == 1
    monkeypatch.setenv("VAE_RECORDS", "compute")
    assert compute_or_load("toy/sum", CONFIG, compute).table.value.tolist() == [0.5]


def test_a_record_moved_to_another_key_is_refused():
    record = compute_or_load("toy/sum", CONFIG, compute)
    record.path.rename(record.path.with_name(key("toy/sum", Config(rate=0.6, device="cpu"), compute)))
    with pytest.raises(ValueError, match="holds the record of another key; delete it"):
        compute_or_load("toy/sum", Config(rate=0.6, device="cpu"), compute)


@pytest.mark.usefixtures("uncounted")
def test_an_unwritable_cache_is_refused_before_work_starts(tmp_path, monkeypatch):
    calls, compute = counting()
    (tmp_path / "file").touch()
    monkeypatch.setenv("VAE_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(ValueError, match="cannot be written: Not a directory; choose another cache.*VAE_CACHE_DIR"):
        compute_or_load("toy/sum", CONFIG, compute)
    assert not calls


def test_an_unknown_mode_and_a_bad_part_are_refused(monkeypatch):
    for part in ("sum", "toy/sum/more", "Toy/sum", "../toy/sum", "toy/../x", ""):
        with pytest.raises(ValueError, match='part must be "<experiment>/<part>".*; write for example'):
            compute_or_load(part, CONFIG, compute)
    monkeypatch.setenv("VAE_RECORDS", "publish")
    with pytest.raises(ValueError, match="VAE_RECORDS 'publish' is unknown; did you mean 'published'?"):
        compute_or_load("toy/sum", CONFIG, compute)


# published


def publish(root: Path, monkeypatch: pytest.MonkeyPatch, part: str = "toy/sum") -> Path:
    """Make results/ hold the record of CONFIG, and look for published records from here on."""
    record = compute_or_load("toy/sum", CONFIG, compute)
    (root / "results" / part).parent.mkdir(parents=True)
    record.path.rename(root / "results" / part)
    monkeypatch.setenv("VAE_RECORDS", "published")
    return root / "results" / part


def test_a_published_record_is_matched_by_parameters_whatever_the_device(root, monkeypatch):
    publish(root, monkeypatch)
    record = compute_or_load("toy/sum", Config(rate=0.5, device="auto"), compute)
    assert (record.status, record.drifted, record.table.value.tolist()) == ("published", False, [0.5])


def test_a_published_record_whose_code_changed_since_is_taken_and_says_so(root, monkeypatch):
    publish(root, monkeypatch)
    record = compute_or_load("toy/sum", CONFIG, other_compute)
    assert (record.drifted, record.table.value.tolist()) == (True, [0.5])
    assert record.provenance["commit"] is None
    assert "computed at an unknown commit; the code has changed since" in memo._sentence(record)


COMMAND = "make it with `vae run toy --profile full --fresh --out results`$"


def test_an_absent_published_record_names_the_command_that_makes_it(root, monkeypatch):
    monkeypatch.setenv("VAE_RECORDS", "published")
    with pytest.raises(ValueError, match=f"^results/ holds no record of toy/sum; {COMMAND}"):
        compute_or_load("toy/sum", CONFIG, compute)


def test_a_published_record_of_another_run_is_refused(root, monkeypatch):
    folder = publish(root, monkeypatch)
    with pytest.raises(ValueError, match=f"for another run: rate is 0.5 there, 0.6 here; {COMMAND}"):
        compute_or_load("toy/sum", Config(rate=0.6, device="cpu"), compute)
    folder.rename(folder.with_name("product"))
    with pytest.raises(ValueError, match="for another run: it is the record of toy/sum"):
        compute_or_load("toy/product", CONFIG, compute)


def test_a_published_record_of_other_data_is_refused(root, monkeypatch):
    record = compute_or_load("toy/sum", WithData(dataset="digits"), data_compute)
    (root / "results" / "toy").mkdir(parents=True)
    record.path.rename(root / "results" / "toy" / "sum")
    monkeypatch.setenv("VAE_RECORDS", "published")
    assert compute_or_load("toy/sum", WithData(dataset="digits"), data_compute).status == "published"
    monkeypatch.setitem(DIGESTS, "digits", "new")
    with pytest.raises(ValueError, match="for another run: the data have another digest; make it with"):
        compute_or_load("toy/sum", WithData(dataset="digits"), data_compute)


def data_compute(config):
    return pd.DataFrame({"value": [1]})


# the rest


def test_the_parts_of_an_experiment_stand_under_each_other():
    table = combined(compute_or_load("toy/sum", CONFIG, compute), compute_or_load("toy/product", CONFIG, other_compute))
    assert table.to_dict("list") == {"part": ["sum", "product"], "value": [0.5, 1.5]}


def test_provenance_says_where_and_with_what():
    about = compute_or_load("toy/sum", CONFIG, compute).provenance
    assert about["device"] == "cpu"
    assert about["threads"] == torch.get_num_threads()
    assert about["versions"]["torch"].startswith("2.")
    assert about["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert about["parameters"] == CONFIG.parameters()
    assert 0 <= about["seconds"] < 5
    if sys.platform != "win32":
        assert about["peak_memory_mb"] == pytest.approx(peak_memory_mb(), rel=0.2)
        assert 50 < about["peak_memory_mb"] < 20_000


def test_the_commit_is_dirty_if_sources_differ_from_it_and_null_outside_git(root, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(root.parent))
    assert circumstances(CONFIG)["commit"] is None
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (root / "notebooks" / "toy.ipynb").touch()
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    about = circumstances(CONFIG)
    assert (len(about["commit"]), about["dirty"]) == (40, False)
    (root / "results").mkdir()
    (root / "results" / "new").touch()
    assert circumstances(CONFIG)["dirty"] is False
    (root / "notebooks" / "new.ipynb").touch()
    assert circumstances(CONFIG)["dirty"] is True


def test_the_cache_is_listed_with_what_is_damaged_and_cleaned_of_what_killed_writers_left(cache):
    good = compute_or_load("toy/sum", CONFIG, compute)
    bad = compute_or_load("toy/product", CONFIG, compute)
    (bad.path / "record.json").write_text("{")
    old, young = (good.path.with_name(name) for name in (".dead", ".alive"))
    for folder in (old, young):
        folder.mkdir()
    os.utime(old, (1e9, 1e9))
    product, total = store.cached()
    assert (product.part, product.key, product.facts) == ("toy/product", bad.path.name, None)
    assert (total.part, total.facts["seconds"]) == ("toy/sum", good.provenance["seconds"])
    assert total.size == sum(file.stat().st_size for file in good.path.iterdir())
    store.discard([product])
    assert [record.part for record in store.cached()] == ["toy/sum"]
    assert not old.exists()
    assert young.exists()


def stopped_once(config):
    """Leaves something and is stopped; called again, it goes on from there."""
    file = config.unfinished("step")
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("7")
        raise KeyboardInterrupt
    return pd.DataFrame({"value": [int(file.read_text())]})


def test_a_stopped_computation_goes_on_from_what_it_left_of_which_a_finished_one_leaves_nothing(cache):
    with pytest.raises(KeyboardInterrupt):
        compute_or_load("toy/sum", CONFIG, stopped_once)
    assert CONFIG.unfinished("step") is None
    (unfinished,) = store.cached()
    assert (unfinished.part, unfinished.unfinished) == ("toy/sum", True)
    assert unfinished.size > 0
    store.discard([unfinished])
    with pytest.raises(KeyboardInterrupt):
        compute_or_load("toy/sum", CONFIG, stopped_once)
    with pytest.raises(KeyboardInterrupt):  # another one finds nothing of it
        compute_or_load("toy/sum", Config(rate=0.6, device="cpu"), stopped_once)
    assert compute_or_load("toy/sum", CONFIG, stopped_once).table["value"].tolist() == [7]
    assert sorted(record.unfinished for record in store.cached()) == [False, True]
    assert len(list((cache / "checkpoints").glob("*/*/*"))) == 1


def test_a_folder_that_cannot_be_written_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file/x cannot be written: Not a directory; do that"):
        paths.check_writable(tmp_path / "file" / "x", "do that")
    paths.check_writable(tmp_path / "a" / "b", "")
    assert not files(tmp_path / "a")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_write_protected_folder_is_refused(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(ValueError, match="cannot be written: Permission denied"):
        paths.check_writable(tmp_path / "locked", "")
