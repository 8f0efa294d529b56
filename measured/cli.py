"""The command line: `vae list | run | claims | fragility | records`."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
import yaml

from measured import reruns
from measured.claims import Claim, Source, Verdict, ledger, number_of, outcome_of, verdicts, verdicts_in
from measured.config import Config, nearest
from measured.experiment import Experiment, RunError, Step, Stopped, experiments, find, profile_parameters, run
from measured.project import modes_of, project
from measured.record.store import Cached, cached, discard
from measured.reruns import Reruns

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="VAEs, Measured: list the experiments, run one, see what became of the claims.",
)
records = typer.Typer(help="The records in this machine's cache.")
app.add_typer(records, name="records")

HEARTBEAT = 10.0  # seconds between signs of life in a long cell
SOURCES = {"chapter": "Claims of the chapter", "literature": "Claims of the literature", "ours": "Our own claims"}


def check_environment() -> None:
    """ValueError if a variable that says how to run is odd."""
    modes_of(project())
    project().check_environment()


@contextmanager
def _friendly() -> Iterator[None]:
    """Bad input is one message and exit status 2, a failed notebook its traceback and 1, a signal 128 + its number."""
    try:
        yield
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except RunError as error:
        typer.echo(f"{error}\n\nNothing was written.", err=True)
        raise typer.Exit(1) from None
    except Stopped as stopped:
        typer.echo(f"{stopped}; nothing was written.", err=True)
        raise typer.Exit(128 + stopped.signum) from None


@app.command("list")
def list_() -> None:
    """The experiments: what they measure, their parameters with defaults, time and memory to expect."""
    with _friendly():
        for experiment in experiments():
            typer.echo(f"{experiment.name}: {experiment.title}\n  measures    {experiment.measures}")
            for profile, effort in sorted(experiment.expect.items(), key=lambda item: item[1].seconds):
                typer.echo(
                    f"  {profile:10}  about {_clock(effort.seconds)} on two CPU cores, {effort.memory_mb:.0f} MB"
                )
            rows = [(f"{p.name} = {p.default!r}", p.comment) for p in experiment.parameters]
            typer.echo("  parameters\n" + _columns(rows, indent=4) + "\n")


@app.command("run")
def run_(
    name: Annotated[str, typer.Argument(help="An experiment; `vae list` shows them.")],
    profile: Annotated[str, typer.Option(help="quick (the notebook's defaults) or one of profiles/.")] = "quick",
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", metavar="KEY=VALUE", help="Set a parameter; VALUE is YAML. Repeat for more."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Compute, whatever is cached.")] = False,
    out: Annotated[Path, typer.Option(help="Where the folder NAME is put.")] = Path("_build/runs"),
) -> None:
    """Run an experiment: its notebook, table and verdicts end up in OUT/NAME, or nothing does."""
    with _friendly():
        experiment = find(name)
        given = dict(map(_assignment, parameter or ())) | _device(experiment, device)
        if fresh:
            os.environ[project().variable("RECORDS")] = "compute"
        check_environment()
        expect = None if given.keys() - {"device"} else experiment.expect.get(profile)
        with _progress(name, expect.seconds if expect else None) as report:
            folder = run(experiment, profile_parameters(profile, name) | given, out, report=report)
        found = verdicts_in(folder / f"{name}.ipynb")
        typer.echo(_columns([(key, v.outcome, number_of(v), v.condition) for key, v in found.items()], indent=2))
        typer.echo(f"{folder}")


@app.command()
def claims() -> None:
    """The claims and their verdicts, quick and full side by side; the chapter's apart from the others."""
    with _friendly():
        entries, quick, full, again = list(ledger().values()), verdicts("quick"), verdicts("full"), reruns.load()
        for source in get_args(Source):
            some = [claim for claim in entries if claim.source == source]
            if some:
                head = ("claim", "quick", "other seeds, quick", "full", "statement")
                rows = [head, *(_claim_row(claim, quick, full, again) for claim in some)]
                typer.echo(f"{SOURCES[source]}\n{_columns(rows, indent=2)}\n")


@app.command("fragility")
def fragility_(
    names: Annotated[list[str] | None, typer.Argument(help="Experiments; all of them if none is named.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="How often each is run.")] = 5,
) -> None:
    """Run quick profiles with other random streams, and store their verdicts in results/, for the ledger."""
    with _friendly():
        chosen = [find(name) for name in names] if names else experiments()
        check_environment()
        for experiment in chosen:
            effort = experiment.expect.get("quick")
            with _progress(experiment.name, effort.seconds * runs if effort else None) as report:
                found = reruns.measure(
                    experiment, runs, report=lambda k, step: report(step._replace(label=f"{step.label} (run {k})"))
                )
            file = reruns.save({experiment.name: found})
        typer.echo(f"{file}")


@records.callback(invoke_without_command=True)
def records_(context: typer.Context) -> None:
    """List the records in this machine's cache, with the parameters that differ from the notebook's defaults."""
    if context.invoked_subcommand:
        return
    with _friendly():
        found = cached()
        if not found:
            typer.echo("No records in the cache.")
            return
        defaults = {e.name: {p.name: p.default for p in e.parameters} for e in experiments()}
        rows = [
            ("part", "key", "created", "seconds", "MB", "parameters"),
            *(_record_row(record, defaults.get(record.part.partition("/")[0], {})) for record in found),
        ]
        typer.echo(_columns(rows))


@records.command()
def clean(
    part: Annotated[str | None, typer.Argument(help="An experiment or one of its parts: elbo, elbo/bound.")] = None,
    older_than: Annotated[float | None, typer.Option(metavar="DAYS", min=0, help="Only older ones.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All records.")] = False,
) -> None:
    """Delete records from this machine's cache: of PART, older than DAYS, or all."""
    with _friendly():
        if everything == (part is not None or older_than is not None):
            raise ValueError("say which records: PART, --older-than DAYS, both, or --all alone")
        found = cached()
        if part and not any(_belongs(record, part) for record in found):
            known = {record.part for record in found} | {record.part.partition("/")[0] for record in found}
            raise ValueError(f"no record of {part!r}; {nearest(part, sorted(known))}")
        chosen = [
            record
            for record in found
            if (not part or _belongs(record, part))
            and (older_than is None or time.time() - record.created > older_than * 86400)
        ]
        discard(chosen)
        typer.echo(f"{len(chosen)} of {len(found)} records deleted, {sum(r.size for r in chosen) / 1e6:.1f} MB")


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"-p must be KEY=VALUE, got {text!r}; write for example -p seed=3")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"{name} must have a value in YAML, got {value!r}; quote it") from None


def _device(experiment: Experiment, device: str | None) -> dict[str, str]:
    if device is None:
        return {}
    if "device" not in [parameter.name for parameter in experiment.parameters]:
        raise ValueError(f"{experiment.name} has no parameter device, got --device {device}; it runs on the CPU only")
    return {"device": device}


@contextmanager
def _progress(name: str, expected: float | None) -> Iterator[Any]:
    """A function that prints a line for each step; a long step repeats its line every ten seconds."""
    start, at, done = time.monotonic(), None, threading.Event()

    def line() -> None:
        spent = time.monotonic() - start
        left = f", about {_clock(expected - spent)} left" if expected and expected > spent else ""
        if at:
            typer.echo(f"{name}  cell {at.number} of {at.total}  {at.label}  {_clock(spent)}{left}")

    def report(step: Step) -> None:
        nonlocal at
        at = step
        line()

    def beat() -> None:
        while not done.wait(HEARTBEAT):
            line()

    typer.echo(f"{name}  starting")
    heart = threading.Thread(target=beat, daemon=True)
    heart.start()
    try:
        yield report
    finally:
        done.set()
        heart.join()  # no sign of life after the last line
    typer.echo(f"{name}  done in {_clock(time.monotonic() - start)}")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes:02}:{seconds:02}"


def _claim_row(
    claim: Claim, quick: dict[str, Verdict], full: dict[str, Verdict], again: dict[str, Reruns]
) -> tuple[str, ...]:
    first, second = (outcome_of(v) if (v := some.get(claim.id)) else "-" for some in (quick, full))
    others = reruns.verdicts_of(claim.id, again)
    agreement = reruns.agreement(quick[claim.id], others) if claim.id in quick else "-"
    return claim.id, first, agreement, second, claim.statement


def _record_row(record: Cached, defaults: dict[str, Any]) -> tuple[str, ...]:
    created = f"{datetime.fromtimestamp(record.created):%Y-%m-%d %H:%M}"
    size = f"{record.size / 1e6:.2f}"
    if record.unfinished:
        return record.part, record.key[:10], created, "-", size, "unfinished: the same run goes on from here"
    if record.facts is None:
        return record.part, record.key[:10], created, "-", size, f"damaged: {record.path}"
    parameters = record.facts["parameters"]
    differ = [
        f"{name}={value!r}"
        for name, value in parameters.items()
        if name not in Config.NOT_IN_KEY and defaults.get(name) != value
    ]
    return record.part, record.key[:10], created, f"{record.facts['seconds']:.1f}", size, " ".join(differ)


def _belongs(record: Cached, part: str) -> bool:
    return record.part == part or record.part.startswith(f"{part}/")


def _columns(rows: Sequence[Sequence[str]], indent: int = 0) -> str:
    """Rows as aligned text. Nothing is cut off: what is piped on must be whole."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(" " * indent + line.rstrip() for line in lines)
