"""Parameters: what a notebook's Config accepts, and how it refuses the rest."""

import json
import math
from typing import Annotated, Self

import pytest
import torch
from pydantic import AfterValidator, ValidationError, model_validator

import measured
from measured.config import Count, Index, NonNegative, Positive, ascending, descending, nearest
from vae.device import Device, resolve_device


class Config(measured.Config):
    betas: list[Positive]
    weight: NonNegative
    rate: float
    latents: Count
    seed: Index
    name: str
    flag: bool
    limit: int | None
    device: Device


GOOD = {
    "betas": [0.5, 1],
    "weight": 0,
    "rate": 1e-3,
    "latents": 2,
    "seed": 0,
    "name": "digits",
    "flag": True,
    "limit": None,
    "device": "cpu",
}


def problems(**changed: object) -> list[str]:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - what it says is what the callers test
        Config.load(GOOD | changed)
    return str(refusal.value).split("\n")


def test_takes_its_fields_by_name_and_leaves_other_variables_alone():
    config = Config.load(GOOD | {"beta": 3, "In": ["", "beta = 3"], "np": math})
    assert config.betas == [0.5, 1.0]
    assert set(config.parameters()) == set(GOOD)


@pytest.mark.parametrize(("text", "number"), [("1e-3", 1e-3), ("2", 2.0), ("-0.5", -0.5)])
def test_text_that_reads_as_a_number_is_one(text, number):
    assert Config.load(GOOD | {"rate": text}).rate == number


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (
            {"betas": [1.0, -1.0]},
            "betas[1] must be greater than 0, got -1.0; change betas in the parameters or with -p betas=VALUE",
        ),
        ({"betas": [math.nan]}, "betas[0] must be a finite number, got nan; write a finite number"),
        ({"betas": 1.0}, "betas must be a valid list, got 1.0; write a list such as [1, 2]"),
        (
            {"weight": -0.1},
            "weight must be greater than or equal to 0, got -0.1; change weight in the parameters or with "
            "-p weight=VALUE",
        ),
        ({"rate": math.inf}, "rate must be a finite number, got inf; write a finite number"),
        ({"rate": "inf"}, "rate must be a finite number, got 'inf'; write a finite number"),
        ({"rate": "hello"}, "rate must be a valid number, got 'hello'; write a number such as 0.001"),
        ({"rate": True}, "rate must be a valid number, got True; write a number such as 0.001"),
        ({"latents": "hello"}, "latents must be a valid integer, got 'hello'; write a whole number such as 3"),
        ({"latents": 2.5}, "latents must be a valid integer, got 2.5; write a whole number such as 3"),
        ({"latents": True}, "latents must be a valid integer, got True; write a whole number such as 3"),
        (
            {"latents": 0},
            "latents must be greater than or equal to 1, got 0; change latents in the parameters or with "
            "-p latents=VALUE",
        ),
        ({"limit": False}, "limit must be a valid integer, got False; write a whole number such as 3"),
        ({"name": 3}, "name must be a valid string, got 3; write text in quotes"),
        (
            {"device": "gpu"},
            "device must be 'auto', 'cpu', 'cuda' or 'mps', got 'gpu'; change device in the parameters or "
            "with -p device=VALUE",
        ),
    ],
)
def test_refuses_by_argument_value_and_remedy(changed, line):
    assert problems(**changed) == [line]


def test_a_number_is_no_boolean_field_but_true_is():
    assert Config.load(GOOD).flag is True
    assert problems(flag=2) == ["flag must be a valid boolean, got 2; write True or False"]


def test_all_problems_come_in_one_error_a_line_each():
    lines = problems(betas=[1.0, -1.0, 0.0], latents="x", In=["# Parameters\nlatent = 3"])
    assert [line.split(" ")[0] for line in lines] == ["unknown", "betas[1]", "betas[2]", "latents"]


def test_a_missing_field_says_where_to_set_it():
    with pytest.raises(ValueError, match='^seed is missing; set it in the cell tagged "parameters"$'):
        Config.load({name: value for name, value in GOOD.items() if name != "seed"})


def test_a_long_value_is_cut_short_in_the_message():
    (line,) = problems(name=list(range(1000)))
    assert len(line) < 200


def test_a_name_that_papermill_injected_must_be_a_field():
    (line,) = problems(In=["", "betas = 1", "# Parameters\nbeta = [1.0]\nrate = 0.1\n"])
    assert line.startswith("unknown parameter 'beta'; did you mean 'betas'? known: betas, weight,")


def test_a_typo_corrected_in_the_open_notebook_is_forgiven():
    assert Config.load(GOOD | {"In": ["# Parameters\nbeta = [1.0]\n", "# Parameters\nbetas = [1.0]\n"]})


def test_messages_of_validators_are_kept():
    def even(n: int) -> int:
        if n % 2:
            raise ValueError("must be even; add one")
        return n

    def known(name: str) -> str:
        raise ValueError(f"dataset {name!r} is unknown; there is digits")

    class Checked(measured.Config):
        n: Annotated[int, AfterValidator(even)]
        data: Annotated[str, AfterValidator(known)]

    with pytest.raises(ValueError, match="n must be even, got 3; add one\ndataset 'x' is unknown; there is digits"):
        Checked.load({"n": 3, "data": "x"})


def test_a_rule_between_fields_reads_as_its_author_wrote_it():
    class Pair(measured.Config):
        batch: Count
        size: Count

        @model_validator(mode="after")
        def _fits(self) -> Self:
            if self.batch > self.size:
                raise ValueError(f"batch must be at most size = {self.size}, got {self.batch}; lower it")
            return self

    with pytest.raises(ValueError, match="^batch must be at most size = 2, got 3; lower it$"):
        Pair.load({"batch": 3, "size": 2})


def test_limits_are_checked_by_name_and_of_the_largest():
    config = Config.load(GOOD)
    assert config.at_most("for digits", latents=2, betas=1.0) is config
    with pytest.raises(ValueError, match="^latents must be at most 1 for digits, got 2; lower it$"):
        config.at_most("for digits", latents=1, betas=0.1)
    with pytest.raises(ValueError, match=r"^betas must be at most 0.9 for digits, got \[0.5, 1.0\]; lower it$"):
        config.at_most("for digits", betas=0.9)


@pytest.mark.parametrize(
    ("order", "good", "word"), [(ascending(3), (1, 2, 4), "above"), (descending(3), (4, 2, 1), "below")]
)
def test_numbers_in_order(order, good, word):
    class Grid(measured.Config):
        betas: Annotated[tuple[Positive, ...], order]

    assert Grid(betas=good).betas == good
    for bad in (good[::-1], good[:2], (*good, good[-1])):
        with pytest.raises(ValidationError, match=f"must be 3 or more, each {word} the one before"):
            Grid(betas=bad)


def test_unfinished_work_has_a_place_only_within_a_record(tmp_path):
    config = Config.load(GOOD)
    assert config.unfinished("training") is None
    kept = config.keeping_in(tmp_path)
    assert kept.unfinished("training") == tmp_path / "training"
    assert (kept.key_parameters(), config.unfinished("training")) == (config.key_parameters(), None)


def test_is_frozen_and_forbids_unknown_names():
    config = Config.load(GOOD)
    with pytest.raises(ValidationError):
        config.rate = 2.0
    with pytest.raises(ValidationError):
        Config(**GOOD, typo=1)


def test_the_key_leaves_the_device_out_and_json_takes_the_rest():
    config = Config.load(GOOD)
    assert config.parameters() == GOOD
    assert config.key_parameters() == {name: value for name, value in GOOD.items() if name != "device"}
    assert json.loads(json.dumps(config.parameters())) == config.parameters()


def test_equal_parameters_have_one_form_however_they_were_written():
    assert Config.load(GOOD | {"rate": "1"}).parameters() == Config.load(GOOD | {"rate": 1}).parameters()


def test_absent_hardware_is_refused_with_a_remedy(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    for name in ("cuda", "mps"):
        assert problems(device=name)[0].startswith(f"device '{name}' is absent: PyTorch {torch.__version__} sees none")
        with pytest.raises(ValueError, match="use 'auto' or 'cpu'"):
            resolve_device(name)


def test_auto_prefers_cuda_and_never_takes_mps(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    assert resolve_device("mps").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto").type == "cuda"


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="device 'cdua' is unknown; did you mean 'cuda'?"):
        resolve_device("cdua")


def test_nearest_without_anything_near():
    assert nearest("zzz", ["a", "b"]) == "known: a, b"
    assert nearest("a", []) == "known: none"
