"""`{scoreboard}`: each claim with its verdicts, quick and full side by side, the chapter's apart."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from measured import claims
from measured.reruns import Reruns, agreement, load, verdicts_of

GROUPS = {
    "chapter": "The chapter’s claims",
    "literature": "The literature’s claims",
    "ours": "Our own claims",
}
MARKS = {"holds": "✓", "holds if": "◐", "fails": "✗", "undecided": "?"}  # never by colour alone


def plain(text: str) -> str:
    """The ledger's text is no Markdown; the command line and the notebooks show it as it stands."""
    return re.sub(r"([\\`*_{}\[\]<>$~^#|])", r"\\\1", " ".join(text.split()))


def badge(outcome: str, text: str) -> str:
    return f'<span class="verdict {outcome.replace(" ", "-")}">{MARKS[outcome]} {text}</span>'


def shown(verdict: claims.Verdict | None) -> str:
    if verdict is None:
        return '<span class="verdict none">– not run</span>'
    why = f" <span>{plain(words)}</span>" if (words := verdict.condition or verdict.reason) else ""
    return f"{badge(verdict.outcome, verdict.outcome)}{why} <span>measured: {plain(claims.number_of(verdict))}</span>"


def tally(verdicts: list[claims.Verdict]) -> str:
    counts = Counter(verdict.outcome for verdict in verdicts)
    return " ".join(badge(o, f"{counts[o]} {o}") for o in MARKS if counts[o]) or "not run yet"


def again(claim: str, verdict: claims.Verdict | None, reruns: dict[str, Reruns]) -> str:
    """Beside a quick verdict, if other random streams give another."""
    others = verdicts_of(claim, reruns)
    if verdict is None or all(other.outcome == verdict.outcome for other in others):
        return ""
    return f" <span>{agreement(verdict, others)}</span>"


def table(
    group: list[claims.Claim],
    by_profile: dict[str, dict[str, claims.Verdict]],
    reruns: dict[str, Reruns],
) -> Iterator[str]:
    yield from (":::{list-table}", ":class: scoreboard", ":header-rows: 1", ":widths: 60 20 20")
    yield from ("* - Claim", *(f"  - {profile.capitalize()} values" for profile in by_profile))
    for claim in group:
        cite = f" {{cite:p}}`{claim.cite}`" if claim.cite else ""
        yield f"* - {plain(claim.statement)}{cite}"
        yield ""
        yield f"    Criterion: {plain(claim.criterion)}"
        yield f"    [Evidence](/notebooks/{claim.notebook}.ipynb#verdicts)"
        for profile, verdicts in by_profile.items():
            verdict = verdicts.get(claim.id)
            yield f"  - {shown(verdict)}{again(claim.id, verdict, reruns) if profile == 'quick' else ''}"
    yield ":::"


def markdown(
    ledger: list[claims.Claim],
    by_profile: dict[str, dict[str, claims.Verdict]],
    here: str,
    reruns: dict[str, Reruns],
) -> Iterator[str]:
    for source, title in GROUPS.items():
        group = [claim for claim in ledger if claim.source == source]
        if group:
            known = [by_profile[here][claim.id] for claim in group if claim.id in by_profile[here]]
            yield from ("", f":::{{rubric}} {title} ({len(group)})", ":::", "", f"{tally(known)} at {here} values", "")
            yield from table(group, by_profile, reruns)


class Scoreboard(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        root = Path(self.env.srcdir)
        here = self.config.vae_profile
        notebooks = sorted((root / "notebooks").glob("*.ipynb"))
        self.env.note_reread()  # the verdicts stand in files of other pages, some of them outside this tree
        staged = {key: verdict for file in notebooks for key, verdict in claims.verdicts_in(file).items()}
        by_profile = {p: staged if p == here else claims.verdicts(p) for p in dict.fromkeys(["quick", "full", here])}
        entries, reruns = list(claims.ledger(root).values()), load()
        lines = StringList(list(markdown(entries, by_profile, here, reruns)), "scoreboard")
        board = nodes.container(classes=["scoreboard-box"])
        self.state.nested_parse(lines, 0, board)
        return [board]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("scoreboard", Scoreboard)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
