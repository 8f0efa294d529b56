"""`{comparison} thresholds | end_points`: published MNIST records beside what theory says of them beforehand."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
from docutils import nodes
from docutils.statemachine import StringList
from listing import list_table
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from measured.claims import Verdict, measured
from measured.record import Record, project_root, read
from measured.tables import select


def over_seeds(rows: pd.DataFrame) -> str:
    """The mean of the seeds, with its standard error over them."""
    values = rows["value"]
    return f"{measured(Verdict(values.mean(), values.std() / len(values) ** 0.5, 'holds'))} ({len(values)} seeds)"


def thresholds(record: Record) -> Iterator[str]:
    """The KL of trained models on both sides of the threshold that the data's spectrum gives."""
    found = select(record.table, quantity="KL", split="test")
    found = found[found["loss"].str.endswith("of the threshold") & (found["steps"] == found["steps"].max())]
    rows = []
    for likelihood, symbol in (("gaussian", "T"), ("bernoulli", "\\beta")):
        mine = select(found, likelihood=likelihood)
        below, above = mine["ratio"][mine["ratio"] < 1].max(), mine["ratio"][mine["ratio"] > 1].min()
        rows.append(
            [
                likelihood.capitalize(),
                f"${symbol}_c$ = {mine['critical'].iloc[0]:.4g}",
                *(f"{over_seeds(select(mine, ratio=ratio))} at {ratio:g} ${symbol}_c$" for ratio in (below, above)),
            ]
        )
    return list_table(["Decoder", "Predicted", "KL below it, nats", "KL above it"], rows)


def end_points(record: Record) -> Iterator[str]:
    """Both ends of a traced curve: nothing encoded, and more than the images' names."""
    table, noise = record.table, record.provenance["parameters"]["noise_variance"]
    sweep = select(table, how="sweep")
    low, high = sweep["beta"].min(), sweep["beta"].max()
    largest, total = (
        select(table, quantity="eigenvalue", latent=1)["value"].iloc[0],
        select(table, how="linear", quantity="distortion", split="test").sort_values("beta")["value"].iloc[-1],
    )
    names = math.log(select(sweep, split="train", quantity="rate")["n"].iloc[0])

    def at(beta: float, quantity: str, split: str = "test") -> str:
        return over_seeds(select(sweep, beta=beta, quantity=quantity, split=split))

    before = sweep["beta"][sweep["beta"] < largest / noise].max()
    rows = [
        ["β from which R = 0", f"λ₁/σ² = {largest / noise:.3g}", f"R = {at(before, 'rate')} at {before:g}", "nats"],
        ["R beyond it", "0", f"{at(high, 'rate')} at β = {high:g}", "nats"],
        ["D where R = 0", f"{total:.6g}, of the mean image", at(high, "distortion"), "squared error per image"],
        [
            "R of training images at the other end",
            f"ln N = {names:.3g} would do for D = 0",
            f"{at(low, 'rate', 'train')} at β = {low:g}, with D = {at(low, 'distortion', 'train')}",
            "nats",
        ],
    ]
    return list_table(["End", "Predicted", "Measured", "Unit"], rows)


TABLES: dict[str, tuple[str, Callable[[Record], Iterator[str]]]] = {
    "thresholds": ("posterior_collapse/threshold", thresholds),
    "end_points": ("rate_distortion/sweep", end_points),
}


class Comparison(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()  # the records lie outside this tree
        part, table = TABLES[self.arguments[0]]
        record = read(project_root() / "results" / part)
        box = nodes.container()
        self.state.nested_parse(StringList(list(table(record)), "comparison"), 0, box)
        about = record.provenance
        where = f"Record {part}, computed at {about['commit'][:7]} on {about['device']}."
        return [box, nodes.paragraph(text=where)]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("comparison", Comparison)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
