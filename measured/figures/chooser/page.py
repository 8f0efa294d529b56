"""The page: HTML and CSS."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from measured.figures import INK
from measured.figures.chooser.plane import COLORS, ELLIPSE, MASSES, NAMES, ROLES, SHADES, Facts, Panel, sentence
from measured.figures.chooser.shell import OWN_KEYS, framed, named, number, small, tick, ticks

SIDE, LEFT, BOTTOM, EDGE = 300, 42, 36, 8  # of the plot, in pixels of its own
DASHES = ("", "7 4", "2 3")  # told apart without colours, too


def html(images: np.ndarray, panels: Sequence[Panel], facts: Sequence[Facts], picture: bytes) -> str:
    """`picture` of all images, PNG, is what is left where Jupyter strips drawings and styles: untrusted notebooks."""
    shown = [_shown(panel, fact) for panel, fact in zip(panels, facts, strict=True)]
    thumbnails = [_thumbnail(image) for image in images]
    name = named([*shown, *thumbnails])
    scale = max(0.0, *(value for fact in facts for value in fact.below)) or 1.0
    choices, parts = [], []
    for i, (panel, thumbnail, fact) in enumerate(zip(shown, thumbnails, facts, strict=True)):
        checked = " checked" if i == 0 else ""
        choices.append(
            f'<label><input type="radio" name="{name}" value="{i}" {OWN_KEYS}{checked}>{thumbnail}'
            f"<span>{escape(fact.label)}</span></label>"
        )
        parts.append(f'<div class="panel" data-image="{i}">{panel}{_table(fact, scale)}</div>')
    toggles = [
        f'<label><input type="checkbox" value="{role}" {OWN_KEYS} checked>'
        '<svg width="34" height="12" aria-hidden="true">'
        f'<path d="M1 6H33" class="{role}"/></svg>{text}</label>'
        for role, text in zip(ROLES, NAMES, strict=True)
    ]
    masses = ", ".join(f"{share:.0%}" for share in sorted(MASSES)[:-1]) + f" and {max(MASSES):.0%}"
    body = (
        f'<fieldset class="images"><legend>Image</legend>{"".join(choices)}</fieldset>'
        f'<fieldset class="toggles"><legend>Gaussians</legend>{"".join(toggles)}</fieldset>'
        f'<div aria-live="polite">{"".join(parts)}</div>'
        f"<p>Grey: the likeliest {masses} of the posterior. Each ellipse holds {ELLIPSE:.0%} of its Gaussian. "
        f"Bars have one scale for all images.</p>"
    )
    plain = "To choose among the images, run this cell or trust the notebook."
    title = "Posteriors in the plane of two latents"
    return framed(name, title, _rules(len(facts)), plain, picture, "Each image's posterior", body)


def _shown(panel: Panel, facts: Facts) -> str:
    """The plane as SVG."""
    low, span = panel.centre - panel.half, 2 * panel.half
    width, height = LEFT + SIDE + EDGE, EDGE + SIDE + BOTTOM

    def place(points: np.ndarray) -> np.ndarray:
        unit = (np.asarray(points) - low) / span
        return np.stack([LEFT + SIDE * unit[..., 0], EDGE + SIDE * (1 - unit[..., 1])], -1)

    marks = []
    for value in ticks(low[0], low[0] + span):
        x = place(np.array([value, low[1]]))[0]
        marks.append(f'<path d="M{x:.1f} {EDGE}v{SIDE}"/><text x="{x:.1f}" y="{EDGE + SIDE + 15}">{tick(value)}</text>')
    for value in ticks(low[1], low[1] + span):
        y = place(np.array([low[0], value]))[1]
        marks.append(f'<path d="M{LEFT} {y:.1f}h{SIDE}"/>')
        marks.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" class="left">{tick(value)}</text>')
    shapes = [
        f'<path d="{"".join(_outline(place(ring)) for ring in rings)}" fill="{shade}" fill-rule="evenodd"/>'
        for rings, shade in zip(panel.regions, SHADES, strict=True)
    ]
    shapes += [
        f'<path d="{_outline(place(ring))}" class="{role}"/>' for role, ring in zip(ROLES, panel.ellipses, strict=True)
    ]
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Posterior of {escape(sentence(facts))}">'
        f'<g class="marks">{"".join(marks)}'
        f'<text x="{LEFT + SIDE / 2:g}" y="{height - 3}">z₁</text><text x="12" y="{EDGE + SIDE / 2:g}">z₂</text></g>'
        f'{"".join(shapes)}<rect x="{LEFT}" y="{EDGE}" width="{SIDE}" height="{SIDE}" class="frame"/></svg>'
    )


def _outline(points: np.ndarray) -> str:
    """A closed path through points (n, 2) in pixels, about one and a half apart."""
    length = np.concatenate([[0.0], np.hypot(*np.diff(points, axis=0).T).cumsum()])
    _, kept = np.unique((length / 1.5).astype(int), return_index=True)
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points[kept]) + "Z"


def _table(facts: Facts, scale: float) -> str:
    rows = [
        f'<tr class="{role}"><th scope="row">{text}</th><td>{number(value, 3)}</td>'
        f'<td aria-hidden="true"><div style="width:{100 * max(value, 0) / scale:.1f}%"></div></td></tr>'
        for role, text, value in zip(ROLES, NAMES, facts.below, strict=True)
    ]
    return (
        f'<div class="facts"><p><b>{escape(facts.label)}</b>, ln p(x) = {number(facts.log_p, 2)} nats</p>'
        '<table><thead><tr><th scope="col">ELBO of</th><th scope="col" colspan="2">below ln p(x), nats</th></tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table>"
        f"<p>amortization gap <b>{number(facts.amortization, 3)}</b><br>encoder against best diagonal</p>"
        f"<p>approximation gap <b>{number(facts.approximation, 3)}</b><br>best diagonal against the posterior</p>"
        "</div>"
    )


def _thumbnail(image: np.ndarray) -> str:
    """The image as a small picture, decorative: its label stands beside it."""
    return (
        '<svg viewBox="0 0 40 40" width="36" height="36" aria-hidden="true"><image width="40" height="40" '
        f'href="{small(image)}" style="image-rendering:pixelated"/></svg>'
    )


def _rules(n: int) -> list[str]:
    rules = RULES + [
        f"& path.{role}{{fill:none;stroke:{color};stroke-width:2.2;stroke-dasharray:{dash or 'none'}}}"
        f"\n& tr.{role} div{{background:{color}}}"
        f'\n&:has([value="{role}"]:not(:checked)) .panel path.{role}{{display:none}}'
        for role, color, dash in zip(ROLES, COLORS, DASHES, strict=True)
    ]
    hidden = "".join(
        f'&:has([type=radio][value="{i}"]:checked) .panel:not([data-image="{i}"]){{display:none}}' for i in range(n)
    )
    return [*rules, f"@media screen{{{hidden}}}", "@media print{& .panel{break-inside:avoid}}"]


RULES = f"""
& .images label{{position:relative;border:2px solid #ccc;border-radius:.4rem;padding:.25rem;text-align:center}}
& .images input{{position:absolute;inset:0;opacity:0;margin:0;width:100%;height:100%;cursor:pointer}}
& .images span{{display:block;font-size:.8rem}}
& .images label:has(:checked){{border-color:{INK};background:#f0f0f0}}
& .toggles{{gap:.2rem 1.2rem}}
& .toggles label{{display:flex;align-items:center;gap:.4rem;min-height:1.8rem}}
& .panel{{display:flex;flex-wrap:wrap;gap:.5rem 1.5rem;align-items:center}}
& .panel>svg{{flex:1 1 17rem;width:100%;max-width:26rem;min-width:0;height:auto}}
& .facts{{flex:1 1 15rem;min-width:0;max-width:26rem}}
& th,& td{{border:0;padding:.2rem .6rem .2rem 0;text-align:left;white-space:nowrap;background:none;color:inherit}}
& th{{font-weight:400}}
& thead th{{border-bottom:1px solid #ccc;font-weight:600}}
& td{{font-variant-numeric:tabular-nums}}
& td+td{{width:99%;padding-right:0}}
& td div{{height:.7rem;background:currentColor}}""".split("\n")[1:]
