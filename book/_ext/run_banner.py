"""On every experiment's page: how it was run, with its notebook and its tables to download.

What is shown stands in the notebook's own outputs (the record bundles that `measured.record` displays); what is
missing there is shown as NOT RECORDED, never left out.
"""

import json
import shutil
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from measured.notebook import read_notebook, shown
from measured.record.memo import MIME

MISSING = "NOT RECORDED"


def each(records: list[dict[str, Any]], name: str) -> str:
    """The records' common value, or all of them; MISSING where one does not say."""
    values = dict.fromkeys(str(record.get(name) or MISSING) for record in records)
    return ", ".join(values) or MISSING


def commit(record: dict[str, Any]) -> str:
    short = str(record.get("commit") or MISSING)
    short = short if short == MISSING else short[:7]
    return short + " with uncommitted changes" if record.get("dirty") else short


def duration(seconds: float | None) -> str:
    if seconds is None:
        return MISSING
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def origin(record: dict[str, Any]) -> str:
    at = f"computed at {commit(record)}"
    match record.get("status"):
        case "computed":
            return f"{at}, for this page"
        case "loaded":
            return f"{at}, loaded from this machine's cache"
        case "published":
            return f"{at}, published" + ("; the code has changed since" if record.get("drifted") else "")
    return MISSING


def summary(records: list[dict[str, Any]], profile: str) -> str:
    """One line: profile, where the numbers come from, device, seconds in all."""
    if not records:
        return MISSING
    origins = ", ".join(dict.fromkeys(map(origin, records)))
    seconds = [record.get("seconds") for record in records]
    total = None if None in seconds else sum(seconds)
    return " · ".join([f"{profile} values", origins, each(records, "device"), duration(total)])


def parts_table(records: list[dict[str, Any]]) -> Iterator[str]:
    yield "<tr><th>Part</th><th>Result</th><th>Device</th><th>Took</th><th>When (UTC)</th></tr>"
    for record in records:
        when = (record.get("created") or "").replace("T", " ")[:16] or MISSING
        threads = f"{record['threads']} threads" if record.get("threads") else None
        device = ", ".join(filter(None, [record.get("device") or MISSING, threads, record.get("processor")]))
        row = [record.get("part", MISSING), origin(record), device, duration(record.get("seconds")), when]
        yield "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>"


def definitions(records: list[dict[str, Any]], name: str) -> str:
    """A dictionary of the records (parameters, versions) on one line; parts that differ have one each."""
    found = [record.get(name) for record in records] or [None]
    lines = [", ".join(f"{k} = {v}" for k, v in d.items()) if isinstance(d, dict) and d else MISSING for d in found]
    return "<br>".join(f"<code>{escape(line)}</code>" for line in dict.fromkeys(lines))


def is_experiment(docname: str) -> bool:
    """A notebook that computes; those in book/ show records that others have made."""
    return docname.startswith("notebooks/")


def downloads(docname: str, srcdir: Path) -> dict[str, Path]:
    """Name to offer -> file, for the notebook and each of its parts' tables."""
    name = Path(docname).name
    tables = sorted((srcdir / "results" / name).glob("*/table.csv"))
    return {f"{name}.ipynb": srcdir / f"{docname}.ipynb"} | {f"{name}-{t.parent.name}.csv": t for t in tables}


def banner(docname: str, srcdir: Path, profile: str) -> str:
    records = shown(read_notebook(srcdir / f"{docname}.ipynb"), MIME)
    home = "../" * docname.count("/")
    links = " ".join(f'<a href="{home}_downloads/{file}" download>{file}</a>' for file in downloads(docname, srcdir))
    return f"""
<aside class="run-banner" aria-label="How this page was run">
<details><summary><strong>How this page was run</strong>
<span>{escape(summary(records, profile))}</span></summary>
<div class="run-details">
<div class="run-parts"><table>{"".join(parts_table(records))}</table></div>
<dl><dt>Parameters</dt><dd>{definitions(records, "parameters")}</dd>
<dt>Versions</dt><dd>{definitions(records, "versions")}</dd></dl>
</div></details>
<p class="run-downloads">Download: {links}</p>
</aside>"""


def hide_bundles(app: Sphinx, docname: str, content: list[str]) -> None:
    """Takes our own MIME types out of what myst-nb reads; it would warn of types that it does not know."""
    if (Path(app.srcdir) / f"{docname}.ipynb").exists():
        notebook = json.loads(content[0])
        for cell in notebook["cells"]:
            for output in cell.get("outputs", []):
                for mime in [mime for mime in output.get("data", {}) if mime.startswith("application/vnd.measured.")]:
                    del output["data"][mime]
        content[0] = json.dumps(notebook)


def add_banner(app: Sphinx, doctree: nodes.document) -> None:
    docname = app.env.docname
    srcdir = Path(app.srcdir)
    if not is_experiment(docname):
        return
    title = next(doctree.findall(nodes.title))
    html = banner(docname, srcdir, app.config.vae_profile)
    title.parent.insert(title.parent.index(title) + 1, nodes.raw("", html, format="html"))


def copy_downloads(app: Sphinx, exception: Exception | None) -> None:
    if exception:
        return
    folder = Path(app.outdir) / "_downloads"
    folder.mkdir(exist_ok=True)
    for docname in filter(is_experiment, app.env.found_docs):
        for name, file in downloads(docname, Path(app.srcdir)).items():
            shutil.copyfile(file, folder / name)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("vae_profile", "quick", "env")
    app.connect("source-read", hide_bundles)
    app.connect("doctree-read", add_banner)
    app.connect("build-finished", copy_downloads)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
