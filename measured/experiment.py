"""Experiments: what a notebook declares, and a run of it that leaves everything or nothing."""

from __future__ import annotations

import ast
import io
import json
import re
import shutil
import signal
import threading
import tokenize
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from measured.claims import as_json, verdicts_in
from measured.config import nearest
from measured.notebook import read_notebook, shown
from measured.record.memo import MIME
from measured.record.paths import cache_root, check_writable, pending, project_root
from measured.record.store import checkpoint_folder, read

if TYPE_CHECKING:
    from nbformat import NotebookNode


class Parameter(NamedTuple):
    """A line of the cell tagged "parameters"."""

    name: str
    default: Any
    comment: str


class Effort(BaseModel):
    """What a run takes on two CPU cores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float
    memory_mb: float


class Declaration(BaseModel):
    """A notebook's metadata under "measured": what it measures, and the effort to expect of each profile."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    measures: str
    expect: dict[str, Effort] = {}


class Experiment(NamedTuple):
    """A notebook as it declares itself."""

    name: str
    path: Path
    title: str
    measures: str
    parameters: tuple[Parameter, ...]
    expect: Mapping[str, Effort]


class Step(NamedTuple):
    """The cell about to be executed, the `number`-th of `total` (from 1)."""

    number: int
    total: int
    label: str


class RunError(Exception):
    """A notebook failed; the message shows the cell and the traceback."""


class Stopped(KeyboardInterrupt):
    """A run was ended by Ctrl-C, SIGTERM or a closed terminal."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


def experiments(root: Path | None = None) -> list[Experiment]:
    """All experiments, by name. ValueError naming the notebook: one declares itself badly."""
    return [_declared(path) for path in sorted(((root or project_root()) / "notebooks").glob("*.ipynb"))]


def find(name: str, root: Path | None = None) -> Experiment:
    """The experiment of that name. ValueError: unknown."""
    folder = (root or project_root()) / "notebooks"
    known = sorted(path.stem for path in folder.glob("*.ipynb"))
    if name not in known:
        raise ValueError(f"experiment {name!r} is unknown; {nearest(name, known)}")
    return _declared(folder / f"{name}.ipynb")


def profile_parameters(profile: str, name: str, root: Path | None = None) -> dict[str, Any]:
    """The parameters of experiment `name` in a profile; "quick" is the notebook's defaults. ValueError: unknown
    profile, or one that says nothing about the experiment."""
    folder = (root or project_root()) / "profiles"
    known = ["quick", *sorted(path.stem for path in folder.glob("*.yaml"))]
    if profile not in known:
        raise ValueError(f"profile {profile!r} is unknown; {nearest(profile, known)}")
    if profile == "quick":
        return {}
    file = folder / f"{profile}.yaml"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no YAML: {error}") from None
    parameters = content.get(name) if isinstance(content, dict) else None
    if not isinstance(parameters, dict):
        raise ValueError(
            f"{file} must map {name!r} to its parameters, got {parameters!r}; add an entry, "
            f"`{name}: {{}}` for the notebook's defaults"
        )
    return parameters


def run(
    experiment: Experiment,
    parameters: Mapping[str, Any],
    out: Path,
    *,
    report: Callable[[Step], None] = lambda step: None,
) -> Path:
    """Execute an experiment with these parameters in place of its defaults; returns the folder `out`/<name>.

    The folder gets the executed notebook, the records that it used and verdicts.json, and takes the place of an
    earlier run's. It appears when all is done; a failure, a signal or Ctrl-C leaves nothing, the kernel neither.
    ValueError, before anything is executed: unknown parameter, unwritable `out`, `out`/<name> is no run's.
    RunError: the notebook failed."""
    import nbformat

    known = [parameter.name for parameter in experiment.parameters]
    for name in parameters:
        if name not in known:
            raise ValueError(f"parameter {name!r} of {experiment.name} is unknown; {nearest(name, known)}")
    check_writable(out, "choose another folder with --out")
    folder = out.absolute() / experiment.name
    if folder.exists() and not (folder / "verdicts.json").exists():
        raise ValueError(
            f"{folder} exists and is no earlier run, which would have a verdicts.json; choose another folder with --out"
        )
    with _stoppable(), pending(folder) as new:
        notebook = _executed(experiment, parameters, report)
        path = new / f"{experiment.name}.ipynb"
        nbformat.write(notebook, path)
        for about in shown(notebook, MIME):
            _copy_record(about, experiment.name, new)
        (new / "verdicts.json").write_text(json.dumps(as_json(verdicts_in(path)), indent=1) + "\n")
    for about in shown(notebook, MIME):  # what stages have left for parts that might have been stopped
        shutil.rmtree(checkpoint_folder(about["part"], about["key"]), ignore_errors=True)
    return folder


def executed(path: Path) -> NotebookNode:
    """A notebook that is no experiment (no parameters, no claims), executed as it stands, in this working folder.
    RunError: it failed."""
    return _executed(Experiment(path.stem, path, path.stem, "", (), {}), {}, lambda step: None)


def _declared(path: Path) -> Experiment:
    notebook = read_notebook(path)
    sources = [(cell, "".join(cell["source"])) for cell in notebook["cells"]]
    headings = [heading for cell, source in sources if cell["cell_type"] == "markdown" for heading in _headings(source)]
    tagged = [source for cell, source in sources if "parameters" in cell["metadata"].get("tags", ())]
    if len(tagged) != 1:
        raise ValueError(f'{path} must have one cell tagged "parameters", got {len(tagged)}; tag it in JupyterLab')
    try:
        declaration = Declaration.model_validate(notebook["metadata"].get("measured", {}))
    except ValidationError as error:
        where = ".".join(["measured", *map(str, error.errors()[0]["loc"])])
        raise ValueError(
            f"{path}: {where} in the notebook's metadata: {error.errors()[0]['msg']}; write "
            '"measured": {"measures": "...", "expect": {"quick": {"seconds": 60, "memory_mb": 900}}}'
        ) from None
    return Experiment(
        path.stem,
        path,
        (headings or [path.stem])[0],
        declaration.measures,
        tuple(_parameters(tagged[0], path)),
        declaration.expect,
    )


def _parameters(source: str, path: Path) -> Iterator[Parameter]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.end[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    for node in ast.parse(source).body:
        match node:
            case ast.Assign(targets=[ast.Name(name)], value=value) | ast.AnnAssign(ast.Name(name), value=value) if (
                value and _is_plain(value)
            ):
                yield Parameter(name, ast.literal_eval(value), comments.get(node.end_lineno or 0, ""))
            case _:
                raise ValueError(
                    f'{path}: the cell tagged "parameters" must hold lines `name = value  # comment`, '
                    f"got {ast.unparse(node)!r}; move it to another cell"
                )


def _is_plain(value: ast.expr) -> bool:
    try:
        ast.literal_eval(value)
    except ValueError:
        return False
    return True


def _executed(experiment: Experiment, parameters: Mapping[str, Any], report: Callable[[Step], None]) -> NotebookNode:
    from jupyter_client import AsyncKernelManager  # all of these take seconds to import
    from jupyter_client.kernelspec import KernelSpecManager
    from papermill import PapermillExecutionError, execute_notebook
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook
    from traitlets import Instance
    from traitlets.config import Config as Traits

    class ThisPython(AsyncKernelManager):
        """Looks in no folder for kernels, so that "python3" is this Python, never one set up in the user's home."""

        kernel_spec_manager = Instance(KernelSpecManager, kw={"kernel_dirs": []})

    notebook = load_notebook_node(str(experiment.path))
    if parameters:
        notebook = parameterize_notebook(notebook, dict(parameters), kernel_name="python3", language="python")
    steps = _steps(notebook)
    at = next(iter(steps.values()), Step(0, 0, ""))

    def announce(cell: NotebookNode, cell_index: int) -> None:
        nonlocal at
        at = steps[cell_index]
        report(at)

    try:
        executed = execute_notebook(
            notebook,
            None,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            on_cell_execute=announce,
            start_timeout=180,
            iopub_timeout=180,  # a busy machine is no failure
            shutdown_kernel="immediate",  # records are atomic, so a kernel may be killed at any time
            kernel_manager_class=ThisPython,
            # where the channels are not encrypted, the kernel warns on stderr
            config=Traits(KernelManager={"transport_encryption": "auto"}),
        )
    except PapermillExecutionError as error:
        if error.ename == "ValueError" and "Config.load(" in error.source:  # the notebook's own rules: bad input
            raise ValueError(error.evalue) from None
        head = "\n".join(f"    {line}" for line in error.source.splitlines()[:8])
        raise RunError(
            f"{experiment.name} failed in cell {at.number} of {at.total} ({at.label}):\n\n{head}\n\n"
            + ("\n".join(error.traceback) or f"{error.ename}: {error.evalue}")
        ) from None
    except RuntimeError as error:  # the kernel died or never started
        raise RunError(
            f"{experiment.name} failed in cell {at.number} of {at.total} ({at.label}): {error}; perhaps the "
            "memory did not suffice"
        ) from None
    for key in ("input_path", "output_path", "environment_variables"):  # of this machine, not of the result
        executed.metadata.papermill.pop(key, None)
    return executed


def _steps(notebook: NotebookNode) -> dict[int, Step]:
    """By cell index, the cells that will be executed, labelled by their first comment or the heading above."""
    labels, heading = {}, ""
    for index, cell in enumerate(notebook.cells):
        first = cell.source.strip().partition("\n")[0]
        if cell.cell_type == "markdown":
            heading = (_headings(cell.source) or [heading])[-1]
        elif cell.cell_type == "code" and first:
            labels[index] = first.lstrip("# ") if first.startswith("#") else heading
    return {index: Step(i, len(labels), labels[index]) for i, index in enumerate(labels, 1)}


def _headings(markdown: str) -> list[str]:
    return re.findall(r"^#{1,6} +(.+?) *$", markdown, re.MULTILINE)


def _copy_record(about: Mapping[str, Any], experiment: str, folder: Path) -> None:
    owner, _, part = about["part"].partition("/")
    if owner != experiment:
        raise RunError(f'{experiment} stores a record as {about["part"]!r}; call it "{experiment}/{part}"')
    source = (project_root() if about["status"] == "published" else cache_root()) / about["path"]
    for last in (False, True):
        try:
            shutil.copytree(source, folder / part, dirs_exist_ok=True)
            read(folder / part)
            return
        except (OSError, ValueError, shutil.Error):  # another run may just be replacing it with its own
            if last:
                raise


@contextmanager
def _stoppable() -> Iterator[None]:
    """Make SIGTERM and a closed terminal end the block as Ctrl-C does, by an exception, so that the kernel is shut
    down and what is half done removed. That takes some seconds, in which further signals are ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    signals = [number for name in names if (number := getattr(signal, name, None))]
    before = {number: signal.getsignal(number) for number in signals}

    def stop(signum: int, frame: FrameType | None) -> None:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        raise Stopped(signum)

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # such as under nohup
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
