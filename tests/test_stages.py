"""Work that parts share: done once, when the first part needs it, with a record of its own."""

import pandas as pd
import pytest

import measured
from measured.config import Positive
from measured.record import Stage, Staged, compute_or_load, store


class Config(measured.Config):
    rate: Positive


CONFIG = Config(rate=0.5)


def shared(config):
    print("shared", config.unfinished("training"))
    return Staged({"weights": config.rate}, pd.DataFrame({"value": [10 * config.rate]}))


def other_shared(config):
    return Staged({"weights": -config.rate}, pd.DataFrame({"value": [10 * config.rate]}))


def first(config, value):
    return pd.DataFrame({"value": [value["weights"] + 1]})


def second(config, value, again):
    return pd.DataFrame({"value": [value["weights"] + again["weights"]]})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VAE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("VAE_RECORDS", raising=False)
    return tmp_path / "cache"


def stage(compute=shared, config=CONFIG):
    return Stage("toy/training", config, compute)


def test_it_is_lazy_and_computed_once_for_all_parts(capsys):
    training = stage()
    assert not store.cached()
    assert "shared" not in capsys.readouterr().out
    one = compute_or_load("toy/one", CONFIG, first, training)
    two = compute_or_load("toy/two", CONFIG, second, training, training)
    assert (one.table.value.tolist(), two.table.value.tolist()) == ([1.5], [1.0])
    assert capsys.readouterr().out.count("shared") == 1
    assert training.value() is training.value()


def test_it_has_a_record_of_its_own_whose_seconds_are_not_the_parts(monkeypatch):
    clock = iter([0.0, 7.0, 10.0, 11.0])  # its start and end, then the part's
    monkeypatch.setattr("measured.record.memo.time.perf_counter", lambda: next(clock))
    one = compute_or_load("toy/one", CONFIG, first, stage())
    found = {record.part: record.facts for record in store.cached() if not record.unfinished}
    assert set(found) == {"toy/one", "toy/training"}
    assert (found["toy/training"]["seconds"], one.provenance["seconds"]) == (7.0, 1.0)


def test_where_all_parts_are_loaded_it_is_never_computed(monkeypatch, capsys):
    compute_or_load("toy/one", CONFIG, first, stage())
    capsys.readouterr()
    assert compute_or_load("toy/one", CONFIG, first, stage()).status == "loaded"
    assert "shared" not in capsys.readouterr().out
    monkeypatch.setenv("VAE_RECORDS", "compute")
    compute_or_load("toy/one", CONFIG, first, stage())
    assert "shared" in capsys.readouterr().out


def test_its_code_and_parameters_are_part_of_the_parts_keys():
    keys = {
        compute_or_load("toy/one", CONFIG, first, *stages).provenance["key"]
        for stages in ([stage()], [stage(other_shared)], [stage(config=Config(rate=0.7))])
    }
    assert len(keys) == 3
    same = compute_or_load("toy/one", CONFIG, first, stage())
    assert same.status == "loaded"


def test_the_order_of_stages_counts():
    stages = stage(), stage(other_shared)
    keys = {compute_or_load("toy/two", CONFIG, second, *order).provenance["key"] for order in (stages, stages[::-1])}
    assert len(keys) == 2


def test_published_records_need_no_stage(tmp_path, monkeypatch, capsys):
    (tmp_path / "root" / "results" / "toy").mkdir(parents=True)
    table = '[project]\nname = "toy"\n[tool.measured]\npackage = "vae"\ncommand = "vae"\n'
    (tmp_path / "root" / "pyproject.toml").write_text(table)
    monkeypatch.chdir(tmp_path / "root")
    record = compute_or_load("toy/one", CONFIG, first, stage())
    record.path.rename(tmp_path / "root" / "results" / "toy" / "one")
    capsys.readouterr()
    monkeypatch.setenv("VAE_RECORDS", "published")
    published = compute_or_load("toy/one", CONFIG, first, stage())
    assert (published.status, published.drifted) == ("published", False)
    assert compute_or_load("toy/one", CONFIG, first, stage(other_shared)).drifted
    assert "shared" not in capsys.readouterr().out


def keeping(config):
    folder = config.unfinished("training")
    folder.mkdir(parents=True, exist_ok=True)
    before = len(list(folder.iterdir()))
    (folder / f"part {before}").touch()
    return Staged(before, pd.DataFrame({"value": [before]}))


def part_that_is_stopped(config, value):
    if value == 0:
        raise KeyboardInterrupt
    return pd.DataFrame({"value": [value]})


def test_what_it_leaves_on_the_way_stays_for_parts_that_may_yet_be_stopped(cache):
    with pytest.raises(KeyboardInterrupt):
        compute_or_load("toy/one", CONFIG, part_that_is_stopped, stage(keeping))
    assert len(list((cache / "checkpoints").glob("toy/training/*/training/*"))) == 1
    again = compute_or_load("toy/one", CONFIG, part_that_is_stopped, stage(keeping))  # goes on from there
    assert again.table.value.tolist() == [1]
    assert len(list((cache / "checkpoints").glob("toy/training/*/training/*"))) == 2
    assert not list((cache / "checkpoints").glob("toy/one/*"))


@pytest.mark.parametrize("part", ["training", "toy/a/b", "Toy/training"])
def test_a_bad_name_is_refused(part):
    with pytest.raises(ValueError, match='part must be "<experiment>/<part>"'):
        Stage(part, CONFIG, shared)
