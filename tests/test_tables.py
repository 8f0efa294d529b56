"""Long tables: rows with their keys and errors, and what is taken of them."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from measured.tables import Table, groups, markdown, over_seeds, pooled, scaled, select, tidy

E, B = 3, 5
MEMBERS = [{"seed": i, "beta": 1.0 + i} for i in range(E)]


@pytest.fixture(params=["numpy", "torch"])
def kind(request):
    """Makes of an array what a user may have."""
    return {"numpy": np.asarray, "torch": torch.tensor}[request.param]


def test_a_quantity_is_its_mean_with_the_standard_error_of_that(kind, normal):
    values = normal(E, B).numpy()
    table = Table(split="test")
    table.add(MEMBERS, {"elbo": kind(values), "optimum": kind(values[:, 0])})
    frame = table.frame()
    elbo, optimum = (frame[frame.quantity == name] for name in ("elbo", "optimum"))
    np.testing.assert_allclose(elbo["value"], values.mean(1), rtol=1e-12)
    np.testing.assert_allclose(elbo["se"], values.std(1, ddof=1) / math.sqrt(B), rtol=1e-12)
    assert elbo[["seed", "beta"]].to_dict("records") == MEMBERS
    assert elbo[["split", "n", "over", "unit"]].drop_duplicates().values.tolist() == [["test", B, "images", "nats"]]
    assert optimum["value"].tolist() == values[:, 0].tolist()
    assert optimum[["se", "n", "over"]].drop_duplicates().values.tolist() == [[0.0, 1, "exact"]]


def test_one_member_needs_no_axis_of_its_own(kind):
    table = Table()
    table.add({"beta": 2.0}, {"a": kind([1.0, 3.0]), "b": kind(4.0), "c": 5.0, "d": 6}, split="train", unit="bits")
    frame = table.frame().set_index("quantity")
    assert frame["value"].tolist() == [2.0, 4.0, 5.0, 6.0]
    assert frame["se"].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert frame["n"].tolist() == [2, 1, 1, 1]
    assert set(frame["beta"]) == {2.0}
    assert set(frame["unit"]) == {"bits"}


def test_columns_come_from_the_row_then_the_table_then_the_defaults():
    table = Table(split="test", unit="bits", model="a")
    table.row("rate", 1)
    table.row("rate", 2, 0.5, 7, unit="share", model="b", beta=3.0, over="seeds")
    table.add({"beta": 4.0}, {"rate": [1.0]}, model="c")
    one, two, three = table.frame().to_dict("records")
    assert one | {"beta": 0} == {
        "split": "test", "over": "exact", "unit": "bits", "model": "a", "quantity": "rate", "value": 1.0, "se": 0.0,
        "n": 1, "beta": 0,
    }  # fmt: skip
    assert (two["unit"], two["model"], two["beta"], two["over"], two["n"], two["se"]) == (
        "share",
        "b",
        3.0,
        "seeds",
        7,
        0.5,
    )
    assert (three["model"], three["split"], three["unit"]) == ("c", "test", "bits")
    assert Table().frame.__doc__
    plain = Table()
    plain.row("rate", np.float32(2.0), n=3)
    assert plain.frame().iloc[0][["split", "unit", "over"]].tolist() == ["", "nats", "images"]


def test_rows_keep_the_order_in_which_they_were_added():
    table = Table()
    for i in (3, 1, 2):
        table.row("a", i)
    assert table.frame()["value"].tolist() == [3.0, 1.0, 2.0]
    assert table.frame().index.tolist() == [0, 1, 2]


def test_tables_without_rows_and_odd_shapes_are_refused(kind, normal):
    with pytest.raises(ValueError, match="the table has no rows; add some"):
        Table().frame()
    with pytest.raises(ValueError, match=r"elbo must have shape \(3,\) or \(3, N\), got \(4, 5\)"):
        tidy(MEMBERS, {"elbo": kind(normal(4, B).numpy())}, split="test")
    with pytest.raises(ValueError, match=r"shape \(E,\) or \(E, N\), got \(3, 5, 2\); reduce the other axes"):
        Table().add(MEMBERS, {"elbo": kind(normal(E, B, 2).numpy())})


def test_a_gradient_or_a_single_column_is_no_obstacle():
    table = Table()
    table.add(MEMBERS, {"a": torch.ones(E, B, requires_grad=True), "b": torch.ones(E, 1), "c": np.ones((E, 1), int)})
    frame = table.frame()
    assert frame["se"].tolist() == [0.0] * 3 * E
    assert frame["over"].tolist() == ["images"] * E + ["exact"] * 2 * E


TABLE = pd.DataFrame(
    {
        "beta": [2.0, 1.0, 2.0, 2.0],
        "seed": [0, 0, 1, 2],
        "split": ["test", "test", "test", None],
        "value": [1.0, 7.0, 2.0, 6.0],
        "se": [0.3, 0.5, 0.1, 0.2],
    }
)


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ({}, [0, 1, 2, 3]),
        ({"beta": 2.0}, [0, 2, 3]),
        ({"beta": 2}, [0, 2, 3]),
        ({"beta": [1.0, 2.0], "seed": range(1, 3)}, [2, 3]),
        ({"seed": np.array([0])}, [0, 1]),
        ({"split": "test", "beta": 2.0}, [0, 2]),
        ({"split": None}, [3]),
    ],
)
def test_rows_are_selected_by_value_by_several_or_by_having_none(where, rows):
    assert select(TABLE, **where).index.tolist() == rows


@pytest.mark.parametrize("where", [{"beta": 3.0}, {"beta": []}, {"split": "te"}, {"seed": None}])
def test_to_select_nothing_is_an_error(where):
    with pytest.raises(ValueError, match=r"where must select rows of the table, got \{.*\}, which selects none"):
        select(TABLE, **where)


def test_groups_are_the_rows_by_their_value():
    found = groups(TABLE, "beta", seed=[0, 1])
    assert [(beta, rows.index.tolist()) for beta, rows in found.items()] == [(1.0, [1]), (2.0, [0, 2])]
    assert list(groups(TABLE, ["beta", "split"])) == [(1.0, "test"), (2.0, "test")]


def test_over_seeds_uses_the_spread_of_seeds():
    table = pd.DataFrame({"beta": [1.0] * 4, "quantity": ["elbo"] * 4, "seed": range(4), "value": [1.0, 2.0, 3.0, 6.0]})
    row = over_seeds(table, ["beta", "quantity"]).iloc[0]
    assert row["value"] == 3.0
    assert row["se"] == pytest.approx(pd.Series([1.0, 2.0, 3.0, 6.0]).std() / 2)
    assert row["n"] == 4
    assert math.isnan(over_seeds(table[:1], ["beta"])["se"].iloc[0])


def test_over_seeds_keeps_groups_without_a_value():
    found = over_seeds(TABLE, ["split"])
    assert found["n"].tolist() == [3, 1]
    assert found["split"].isna().tolist() == [False, True]


def test_pooled_keeps_the_error_that_seeds_share():
    found = pooled(TABLE, ["beta"])
    assert found.index.tolist() == [2.0, 1.0]  # in the table's order
    assert found["value"].tolist() == [3.0, 7.0]
    spread = pd.Series([1.0, 2.0, 6.0]).var() / 3
    assert found["se"].tolist() == pytest.approx([math.sqrt((0.09 + 0.01 + 0.04) / 3 + spread), 0.5])
    assert found["n"].tolist() == [3, 1]
    assert set(found["over"]) == {"images and seeds"}
    assert pooled(TABLE, ["beta", "seed"])["se"].tolist() == pytest.approx(TABLE["se"].tolist())


def test_other_units_scale_value_and_error():
    found = scaled(TABLE, -100)
    assert found["value"].tolist() == [-100.0, -700.0, -200.0, -600.0]
    assert found["se"].tolist() == pytest.approx([30.0, 50.0, 10.0, 20.0])
    assert TABLE["value"].tolist() == [1.0, 7.0, 2.0, 6.0]


def test_markdown_has_a_row_a_line_and_bars_within_cells_are_escaped():
    assert markdown(["a", "b"], [["1", "x|y"], ["2", "z"]]).split("\n") == [
        "| a | b |",
        "| --- | --- |",
        r"| 1 | x\|y |",
        "| 2 | z |",
    ]
