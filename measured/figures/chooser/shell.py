"""What every figure to choose from has: its frame, its style, its small pictures."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator
from PIL import Image

from measured.figures import BLUE, GREY, INK

OWN_KEYS = 'data-lm-suppress-shortcuts="true"'  # else JupyterLab takes the arrow keys
PLAIN = "data:image/png;base64,"


@dataclass(frozen=True)
class Chooser:
    """What a notebook shows: `html` for browsers, `png` for whatever cannot show that, `text` for the rest."""

    html: str
    png: bytes
    text: str

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        picture = base64.b64encode(self.png).decode()
        return {"text/html": self.html, "image/png": picture, "text/plain": self.text}


def named(parts: Iterable[str]) -> str:
    """A name for a figure on a page, the same for the same content."""
    return "chooser-" + hashlib.sha256("".join(parts).encode()).hexdigest()[:10]


def framed(name: str, title: str, rules: Sequence[str], plain: str, picture: bytes, alt: str, body: str) -> str:
    """The figure's HTML. `picture`, PNG, and `plain` are what is left where Jupyter strips drawings and styles."""
    return (
        f'<div class="chooser" id="{name}" role="figure" aria-label="{escape(title)}">'
        f"<style>{_style(name, rules)}</style>"
        f'<div class="plain"><p>{plain}</p><img src="{PLAIN}{base64.b64encode(picture).decode()}" alt="{escape(alt)}">'
        f"</div>{body}</div>"
    )


BASE = f"""
{{background:#fff;color:{INK};padding:.75rem;border-radius:.5rem;font-size:.9rem;line-height:1.4;box-sizing:border-box}}
.plain{{display:none}}
fieldset{{border:0;margin:0 0 .5rem;padding:0;display:flex;flex-wrap:wrap;gap:.35rem;min-width:0}}
legend{{font-size:1em;font-weight:600;padding:0;margin:0 0 .2rem;float:none;width:auto}}
label{{cursor:pointer;margin:0;box-sizing:border-box}}
label:has([type=radio]:focus-visible){{outline:3px solid {BLUE};outline-offset:2px}}
p{{margin:.5rem 0 0;color:{INK};font-size:.9rem}}
table{{width:100%;border-collapse:collapse;margin:.4rem 0;font-size:.9rem;color:{INK};background:none}}
tr{{background:none}}
text{{font-size:12px;fill:{INK};text-anchor:middle}}
text.left{{text-anchor:end}}
.marks path{{stroke:#e8e8e8}}
.frame{{fill:none;stroke:{GREY}}}""".split("\n")[1:]


def _style(name: str, rules: Sequence[str]) -> str:
    """Every rule begins with the figure's own name: the page around it stays as it is, and cannot reach in."""
    own = f"#{name}"
    return "\n".join([own + BASE[0], *(f"{own} {rule}" for rule in BASE[1:]), *(r.replace("&", own) for r in rules)])


def small(image: np.ndarray) -> str:
    """An image (H, W), 0 white to 1 black, clipped to that, as the address of a PNG."""
    found = io.BytesIO()
    Image.fromarray(np.rint(255 * (1 - image.clip(0, 1))).astype(np.uint8)).save(found, "png", optimize=True)
    return PLAIN + base64.b64encode(found.getvalue()).decode()


def reduced(drawn: io.BytesIO, colours: int = 64) -> bytes:
    """A PNG with few colours, a fraction of its size."""
    found = io.BytesIO()
    Image.open(drawn).convert("RGB").quantize(colours).save(found, "png", optimize=True)
    return found.getvalue()


def ticks(low: float, high: float) -> list[float]:
    found = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in found if low <= tick <= high]


def tick(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def number(value: float, places: int) -> str:
    return f"{value:.{places}f}".replace("-", "−")
