"""`{speed} bars | times | models | jax | posteriors | circumstances | factor_analysis`: what `make bench` recorded."""

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from docutils import nodes
from docutils.statemachine import StringList
from listing import list_table
from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from measured import figures
from measured.record import Record, project_root, read

sys.path.append(str(project_root()))  # benchmarks/ is no installed package
from benchmarks import factor_analysis  # noqa: E402
from benchmarks.contenders import NAMES  # noqa: E402
from benchmarks.report import LABELS, METHODS, bars  # noqa: E402

SHOWN = {"tiny": 36, "digits": 36, "mnist": 64}  # members in the figure of models
POSTERIORS = ("local-digits", "local-mnist")
TITLES = {
    "tiny": "tiny (8-4-8)",
    "digits": "digits (64-128-8)",
    "mnist": "MNIST (784-200-200-50)",
    "local-digits": "posteriors on digits (64-128-8)",
    "local-mnist": "posteriors on MNIST (784-200-200-50)",
}
TWO_CORES = ["2 threads", "2 processes"]
COLORS = {"ours": figures.BLUE, "eager": figures.SKY, "jax": figures.RED}


class Speed(NamedTuple):
    """The records of all cases, each of one run, and their tables under each other."""

    records: dict[str, Record]
    table: pd.DataFrame


def recorded() -> Speed:
    folder = project_root() / "results" / "speed"
    records = {case: read(folder / case) for case in (*SHOWN, *POSTERIORS) if (folder / case).exists()}
    if not records:
        raise ValueError(f"{folder} holds no record; measure with `make bench OUT=results/speed`")
    return Speed(records, pd.concat([record.table for record in records.values()], ignore_index=True))


def bars_table(speed: Speed) -> Iterator[str]:
    """What the trainer should reach, and what was measured."""
    rows = []
    for bar, value, error in bars(speed.table):
        what = "share of the matmul ceiling" if bar.peer == "ceiling" else f"{LABELS[bar.peer]}, over ours"
        mark = "✓ met" if value >= bar.bar else "✗ **not met**" if value < bar.bar else "not measured yet"
        title, what_of = TITLES[bar.case].split(" (")[0], "images" if bar.case in POSTERIORS else "models"
        where = f"{title}, {bar.members} {what_of}, {bar.layout}"
        measured = "–" if math.isnan(value) else f"{value:.2f} ± {error:.2f}"
        rows.append([mark, measured, f"{bar.bar:g}", what, where])
    return list_table(["", "Measured", "At least", "Ratio", "Where"], rows)


def times_table(speed: Speed) -> Iterator[str]:
    """ms of a model-step by case, layout and contender, with its ratio to ours and its share of the ceiling."""
    found = figures.select(speed.table, quantity="time of a model-step")
    keys = ["case", "layout", "contender", "members"]
    over, share = (
        figures.select(speed.table, quantity=name).set_index(keys)["value"]
        for name in ("time over ours", "share of the ceiling")
    )
    for case, group in found.groupby("case", sort=False):
        rows, sizes = [], sorted(group["members"].unique())
        for (layout, name), some in group.groupby(["layout", "contender"], sort=False):
            times = some.set_index("members")["value"]
            keyed = [(case, layout, name, m) for m in sizes]
            cells = [
                f"{times[key[-1]]:.3g} ({over[key]:.2f}; {share[key]:.0%})" if key[-1] in times else "–"
                for key in keyed
            ]
            rows.append([str(layout), NAMES[str(name)], *cells])
        yield from ("", f"::::{{dropdown}} {TITLES[str(case)]}: every layout and number of models", "")
        yield from list_table(["Layout", "Trainer", *(f"{m:g} model{'s' if m > 1 else ''}" for m in sizes)], rows)
        yield "::::"


def posteriors_table(speed: Speed) -> Iterator[str]:
    """Seconds to fit posteriors to a quality, and of AIS at equal error."""
    for case in (case for case in POSTERIORS if case in speed.records):
        numbers = speed.table[speed.table["case"] == case].pivot_table("value", "contender", "quantity", sort=False)
        rows = []
        for name in [name for name in METHODS if name in numbers.index]:
            n = numbers.loc[name]
            bound = "" if n.get("target reached", 1.0) != 0 else "more than "
            if name.startswith("ais"):
                quality, work = f"{1e3 * n['rms error']:.0f} rms", f"{n['temperatures']:.0f} temperatures"
            else:
                quality, work = f"{1e3 * n['suboptimality']:.1f}", f"{n['iterations']:.0f}"
            times = [f"{bound}{n['time']:.3g}", f"{bound}{n['time over ours']:.2g}"]
            rows.append([METHODS[name], quality, "by itself" if n.get("iterations") == 200 else work, *times])
        yield from ("", f"**{TITLES[case][0].upper()}{TITLES[case][1:]}**", "")
        yield from list_table(["Method", "Error, mnats", "Iterations", "Seconds", "Over ours"], rows)
    if not set(POSTERIORS) & set(speed.records):
        yield "Not measured yet; `make bench` does it."


def circumstances(speed: Speed) -> Iterator[str]:
    """Where, when and with what each case was measured."""
    rows = []
    for case, record in speed.records.items():
        about, table = record.provenance, record.table
        loads = [figures.select(table, quantity=f"load {when}")["value"].item() for when in ("before", "after")]
        commit = (about["commit"] or "unknown")[:7] + (" with uncommitted changes" if about["dirty"] else "")
        versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
        rows += [
            [f"**{TITLES[case]}**", f"{about['created'][:10]}, commit {commit}, {about['seconds'] / 60:.0f} minutes"],
            ["Processor", f"{about['processor']}, {about['parameters']['cores']} cores"],
            ["Load of the machine", f"{loads[0]:.1f} before, {loads[1]:.1f} after"],
            ["Rounds", f"{about['parameters']['rounds']}; errors are standard errors over rounds"],
            ["Versions", versions],
        ]
        if case not in POSTERIORS:
            cold, warm = (
                figures.select(table, quantity=f"{how} compilation")["value"].item() for how in ("cold", "warm")
            )
            ceilings = figures.select(table, quantity="ceiling").groupby("layout", sort=False)["value"].max()
            reached = ", ".join(f"{value:.0f} ({layout})" for layout, value in ceilings.items())
            held = figures.select(table, quantity="memory", contender="ours", layout="1 thread")
            memory = ", ".join(f"{mb:.0f} ({m:g})" for m, mb in zip(held["members"], held["value"], strict=True))
            rows += [
                ["Memory of this trainer, MB (models)", memory],
                ["Matmul ceiling, GFLOP/s", reached],
                ["Compiling", f"{cold:.1f} s with an empty cache, {warm:.1f} s with a full one"],
            ]
    return list_table(["What", "Value"], rows)


def factor_analysis_table(speed: Speed) -> Iterator[str]:
    """ms of a problem by contender, with the ratio to ours and by how much an end is missed; where it was measured."""
    folder = project_root() / "results" / "speed" / factor_analysis.NAME
    if not folder.exists():
        yield f"Not measured yet; `python -m benchmarks --cases {factor_analysis.NAME}` does it."
        return
    record = read(folder)
    table, about = record.table, record.provenance
    value = table.set_index(["problem", "contender", "quantity"])["value"]
    least = {(bar.problem, bar.peer): (bar.bar, ratio >= bar.bar) for bar, ratio, _ in factor_analysis.bars(table)}
    stopped = figures.select(table, quantity="log-likelihood below ours").set_index(["problem", "contender"])["stopped"]
    peers, rows = [name for name in factor_analysis.TITLES if name != "ours"], []
    for problem in table["problem"].dropna().unique():
        cells = []
        for name in peers:
            key = (problem, name)
            if (*key, "time over ours") not in value.index:
                cells.append("–")
                continue
            took, ratio = (value[(*key, quantity)] for quantity in ("time of a problem", "time over ours"))
            ends = "" if stopped[key] else f"; ends {value[(*key, 'log-likelihood below ours')]:.0e} below"
            bar, met = least.get(key, (0, True))
            goal = f"; at least {bar:g}: {'✓ met' if met else '✗ **not met**'}" if bar else ""
            cells.append(f"{took:.3g} ({ratio:.3g}{ends}{goal})")
        rows.append([problem, f"{value[(problem, 'ours', 'time of a problem')]:.3g}", *cells])
    yield from list_table(["Problem", *(factor_analysis.TITLES[name] for name in ("ours", *peers))], rows)
    loads = [figures.select(table, quantity=f"load {when}")["value"].item() for when in ("before", "after")]
    commit = (about["commit"] or "unknown")[:7] + (" with uncommitted changes" if about["dirty"] else "")
    yield ""
    yield (
        f"{about['created'][:10]}, commit {commit}, {about['processor']}, one thread, "
        f"{about['parameters']['rounds']} rounds, load {loads[0]:.1f} before and {loads[1]:.1f} after, "
        f"scikit-learn {about['versions']['scikit-learn']}."
    )


def models(speed: Speed) -> tuple[Figure, str]:
    """Time of a model-step on two cores, by trainer, each in the better of its two layouts."""
    cases = [case for case in SHOWN if case in set(speed.table["case"])]
    figure, axes = figures.panels(len(cases), width=10.5, height=3.6)
    for ax, case in zip(axes, cases, strict=True):
        found = figures.select(
            speed.table, case=case, members=SHOWN[case], quantity="time of a model-step", layout=TWO_CORES
        )
        best = found.loc[found.groupby("contender")["value"].idxmin()].set_index("contender")
        names = [name for name in NAMES if name in best.index]
        for y, name in enumerate(names):
            value, se = best.loc[name, "value"], best.loc[name, "se"]
            ax.errorbar(value, y, xerr=se, marker="o", color=COLORS.get(name, figures.INK))
            over = "" if name == "ours" else f"  {value / best.loc['ours', 'value']:.2g}×"
            ax.annotate(over, (value, y), (3, 0), textcoords="offset points", va="center", fontsize=9.5)
        low, high = best["value"].min(), best["value"].max()
        ticks = [t for t in (0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30) if low / 1.5 <= t <= high * 3]
        figures.log_axis(ax, "x", ticks)
        ax.set_xlim(low / 1.6, high * 4)
        ax.set_yticks(range(len(names)), [NAMES[name] for name in names] if ax is axes[0] else [])
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.grid(axis="y", visible=False)
        figures.name_axes(ax, "ms of a model-step", "", f"{TITLES[case].split(' ')[0]}, {SHOWN[case]} models")
    alt = (
        "Milliseconds of a model-step on two cores for each trainer and three sizes of model, on logarithmic axes, "
        "with the ratio to ours. This trainer and JAX lie at the left, the loops over models to the right."
    )
    return figure, alt


def against_jax(speed: Speed) -> tuple[Figure, str]:
    """JAX's time over ours against the number of models."""
    figure, axes = figures.panels(3, width=10.5, height=3.4)
    layouts = ["1 thread", *TWO_CORES]
    found = figures.select(speed.table, quantity="time over ours", contender="jax")
    ends = found["value"]
    for ax, layout in zip(axes, layouts, strict=True):
        labels = []
        for case, color in zip(SHOWN, (figures.RED, figures.BLUE, figures.GREEN), strict=True):
            some = found[(found["layout"] == layout) & (found["case"] == case)]
            if len(some):
                figures.series(ax, some, "members", color=color)
                last = some.sort_values("members").iloc[-1]
                labels.append((TITLES[case].split(" ")[0], float(last["members"]), float(last["value"]), color))
        ax.axhline(1, color=figures.GREY)
        figures.log_axis(ax, "x", sorted(found["members"].unique()))
        figures.log_axis(
            ax, "y", [t for t in (0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3) if ends.min() / 1.4 < t < ends.max() * 1.4]
        )
        ax.set_ylim(ends.min() / 1.2, ends.max() * 1.2)
        ax.set_xlim(0.8, 260)
        figures.name_axes(ax, "models", "JAX's time over ours" if ax is axes[0] else "", layout)
        figures.label(ax, labels)
    alt = (
        "JAX's time over ours against the number of models, for three layouts and three sizes of model. Above one this "
        "trainer is faster, below one JAX is."
    )
    return figure, alt


TABLES: dict[str, Callable[[Speed], Iterator[str]]] = {
    "bars": bars_table,
    "times": times_table,
    "posteriors": posteriors_table,
    "circumstances": circumstances,
    "factor_analysis": factor_analysis_table,
}
FIGURES: dict[str, Callable[[Speed], tuple[Figure, str]]] = {"models": models, "jax": against_jax}


class SpeedDirective(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()  # the record lies outside this tree
        speed, what = recorded(), self.arguments[0]
        if what in TABLES:
            box = nodes.container(classes=[f"speed-{what}"])
            self.state.nested_parse(StringList(list(TABLES[what](speed)), "speed"), 0, box)
            return [box]
        with figures.mpl.rc_context(figures.STYLE):
            figure, alt = FIGURES[what](speed)
            file = Path(self.env.srcdir) / "book" / f"speed-{what}.png"
            figure.savefig(file)
        return [nodes.figure("", nodes.image(uri=f"/book/{file.name}", alt=alt))]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("speed", SpeedDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
