"""The page around drawings to choose from: one drawing of each stop in sight, by mouse, finger or keyboard."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple
from urllib.parse import quote

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from measured.figures.style import BLUE, GREY, INK, RED, styled

MOST = 24  # stops: a finger needs room for each, and the page stays light
INCH = 96  # CSS pixels
LIGHT: dict[str, Any] = {  # letters stay letters, names depend on nothing but the drawing, no marks beside the grid
    "svg.fonttype": "none",
    "svg.hashsalt": "chooser",
    "xtick.bottom": False,
    "ytick.left": False,
}
OWN_KEYS = "data-lm-suppress-shortcuts='true'"  # else JupyterLab takes the arrow keys
Drawing = Figure | Sequence[Figure]


class Stop(NamedTuple):
    """One thing to choose.

    label: its short name, read out by screen readers ("β = 0.4"). drawing: a Figure, several that stand side by side
    where there is room (3.6 inches are a phone's width), or a function without arguments that returns them, called in
    the house style; of several, a last one that is the same at all stops is on the page once, below. sentence: what
    the drawing shows, in words, for those who do not see it; it stands above it.
    """

    label: str
    drawing: Drawing | Callable[[], Drawing]
    sentence: str


@dataclass(frozen=True)
class Chooser:
    """What a notebook shows: `html` for browsers, `png` for whatever cannot show that, `text` for the rest."""

    html: str
    png: bytes
    text: str

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        picture = base64.b64encode(self.png).decode()
        return {"text/html": self.html, "image/png": picture, "text/plain": self.text}


def choose(
    stops: Sequence[tuple[str, Drawing | Callable[[], Drawing], str]],
    *,
    title: str,
    legend: str,
    thumbnails: Sequence[np.ndarray] = (),
    first: int = 0,
    note: str = "",
) -> Chooser:
    """Drawings of which one is in sight, chosen by small pictures or, without `thumbnails`, by a slider.

    stops: 2 to 24 `Stop`s, in the order in which they are chosen; each drawing becomes SVG or PNG, whichever is
    lighter. title: what it is, for screen readers. legend: what is chosen ("Image", "β"). thumbnails: an image (H, W)
    for each stop, 0 white to 1 black. first: the stop that is chosen at first. note: below, true of all stops.

    HTML and CSS alone: no script, nothing fetched, so it works from a file, in a stored notebook and without a kernel.
    Choices are form elements, which browsers let people reach by keyboard and read out. What is chosen is printed. A
    viewer that strips styles shows one stop after another; where there is no HTML at all, a picture stands in.

    >>> from measured.figures import panels
    >>> from measured.figures.chooser import Stop, choose
    >>> def draw(power):
    ...     figure, (ax,) = panels(width=3.6, height=2.6)
    ...     ax.plot([0, 1, 2], [0, 1, 2**power])
    ...     return figure
    >>> stops = [Stop(f"n = {n}", lambda n=n: draw(n), f"at x = 2 the power is {2**n}") for n in (1, 2, 3)]
    >>> print(choose(stops, title="Powers", legend="n").text)
    n = 1: at x = 2 the power is 2
    n = 2: at x = 2 the power is 4
    n = 3: at x = 2 the power is 8

    ValueError: too few or too many stops, labels that do not differ, a stop without a drawing, a thumbnail outside
    [0, 1] or not one for each stop, a first stop that is not there.
    """
    named = [Stop(*stop) for stop in stops]
    labels = [stop.label for stop in named]
    _check(labels, thumbnails, first)
    drawings, pictures = map(list, zip(*map(_drawn, named), strict=True))
    last = {tags[-1] for tags in drawings}
    common = last.pop() if len(last) == 1 and min(map(len, drawings)) > 1 else ""
    parts = ["".join(tags[:-1] if common else tags) for tags in drawings]
    small = [_png(Image.fromarray(np.rint(255 * (1 - np.asarray(i))).astype(np.uint8))) for i in thumbnails]
    text = "\n".join(f"{stop.label}: {stop.sentence}" for stop in named)
    name = "chooser-" + hashlib.sha256("".join([title, text, *parts, *small]).encode()).hexdigest()[:10]

    choices, shown = [], []
    for i, (label, sentence, part) in enumerate(zip(labels, (stop.sentence for stop in named), parts, strict=True)):
        button = f"<input type='radio' name='{name}' id='{name}-{i}' {OWN_KEYS}{' checked' if i == first else ''}"
        if small:
            face = f"<img alt='' width='36' height='36' src='{small[i]}'><span>{escape(label)}</span>"
            choices.append(f"<label>{button}>{face}</label>")
            head = f"<p><b>{escape(label)}</b></p>"
        else:
            choices.append(f"<label>{button} aria-label='{escape(label)}'></label>")
            before, after = _step(name, i - 1, len(stops), "◀"), _step(name, i + 1, len(stops), "▶")
            head = f"<p class='steps'>{before}<b>{escape(label)}</b>{after}</p>"
        said = f"<p class='said'>{escape(sentence)}</p>"
        shown.append(f"<div class='stop'>{head}{said}<div class='drawing'>{part}</div></div>")
    ends = f"<p class='ends' aria-hidden='true'><span>{escape(labels[0])}</span><span>{escape(labels[-1])}</span></p>"
    html = (
        f"<div class='chooser' id='{name}' role='figure' aria-label='{escape(title)}'>"
        f"<style>{_style(name, len(stops))}</style>"
        "<p class='plain'>To choose, run this cell or trust the notebook.</p>"
        f"<fieldset class='{'pictures' if small else 'slider'}'><legend>{escape(legend)}</legend>{''.join(choices)}"
        f"</fieldset>{'' if small else ends}<div aria-live='polite'>{''.join(shown)}</div>"
        f"<div class='drawing'>{common}</div><p>{escape(note)}</p></div>"
    )
    return Chooser(html, _sheet(labels, pictures), text)


def number(value: float, places: int) -> str:
    """With a minus sign that is one."""
    return f"{value:.{places}f}".replace("-", "−")


def _check(labels: Sequence[str], thumbnails: Sequence[np.ndarray], first: int) -> None:
    if not 2 <= len(labels) <= MOST:
        raise ValueError(f"stops must be 2 to {MOST}, got {len(labels)}; leave some out, or add some")
    if twice := [label for label, times in Counter(labels).items() if times > 1]:
        raise ValueError(
            f"stops must have labels that differ, got {twice[0]!r} twice; print more digits, or number them"
        )
    if not 0 <= first < len(labels):
        raise ValueError(f"first must be 0 to {len(labels) - 1}, got {first}; it is the place of a stop")
    if len(thumbnails) not in (0, len(labels)):
        raise ValueError(f"thumbnails must be {len(labels)}, one for each stop, got {len(thumbnails)}")
    for image in thumbnails:
        if np.ndim(image) != 2 or not (np.min(image) >= 0 and np.max(image) <= 1):
            raise ValueError(
                f"thumbnails must be (H, W) in [0, 1], got shape {np.shape(image)}; reshape or rescale them"
            )


def _drawn(stop: Stop) -> tuple[list[str], list[Image.Image]]:
    """A stop's figures: as HTML, and as pictures of two pixels to one of CSS."""
    tags, pictures = [], []
    with styled():
        mpl.rcParams.update(LIGHT)  # type: ignore[arg-type]
        drawing = stop.drawing() if callable(stop.drawing) else stop.drawing
        for figure in [drawing] if isinstance(drawing, Figure) else drawing:
            figure.set_dpi(2 * INCH)
            (canvas := FigureCanvasAgg(figure)).draw()
            pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
            figure.set_layout_engine("none")  # it is settled
            address = min(_vectors(figure), _png(pictures[-1]), key=len)
            width, height = (round(INCH * float(side)) for side in figure.get_size_inches())
            tags.append(f"<img alt='' width='{width}' height='{height}' src='{address}'>")
            plt.close(figure)
    if not tags:
        raise ValueError(f"stops must have a drawing each, got none for {stop.label!r}; return its figure")
    return tags, pictures


def _vectors(figure: Figure) -> str:
    """The figure as the address of an SVG. As an image of its own, its names and styles meet no others on the page."""
    drawn = io.StringIO()
    FigureCanvasSVG(figure).print_svg(drawn, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>", "", drawn.getvalue(), flags=re.S)
    svg = re.sub(
        r"data:image/png;base64,([\w+/=\s]+)", lambda one: _png(Image.open(_bytes(one[1])).convert("RGB")), svg
    )
    svg = re.sub(r'(?<= )(d|x|y)="([^"]*)"', lambda one: f'{one[1]}="{_rounded(one[2])}"', svg)
    svg = re.sub(r'(<g) id="[^"]*"| transform="rotate\(-?0 [^"]*"', r"\1", re.sub(r"\s+", " ", svg))
    svg = re.sub('clip-path="([^"]*)" style="', r'style="clip-path: \1; ', svg)
    for k, (style, times) in enumerate(Counter(re.findall(r'style="([^"]*)"', svg)).items()):
        if times > 1:  # said once, by name
            svg = svg.replace(f'style="{style}"', f'class="c{k}"').replace("</style>", f".c{k}{{{style}}}</style>", 1)
    svg = re.sub('(?<=[:;]) (?=[^<]*[}"])', "", svg).replace("> <", "><").strip()
    nested = ""
    while svg != nested:  # groups that say nothing
        nested, svg = svg, re.sub("<g/>|<g>((?:(?!</?g[ >]).)*)</g>", r"\1", svg)
    return "data:image/svg+xml," + quote(svg, safe=' "<>=:/;,.()!*-_+@?[]{}~')


def _rounded(path: str) -> str:
    """A path to a tenth of a point, without the letters that go without saying."""
    short, last = "", ""
    for part in path.split():
        if part.isalpha():
            short += "" if part == last or (last, part) == ("M", "L") else part
            last = part
        else:
            value = f"{float(part):.1f}".removesuffix(".0")
            short += ("" if not short or short[-1].isalpha() or value[0] == "-" else " ") + value
    return short


def _bytes(base64_text: str) -> io.BytesIO:
    return io.BytesIO(base64.b64decode(base64_text))


def _png(image: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(_few(image)).decode()


def _few(image: Image.Image) -> bytes:
    """A PNG in grey or else in few colours. The octree keeps a colour that is rare, such as that of one dot."""
    grey = image.convert("L")
    alike = image == grey or image == grey.convert("RGB")
    image = grey if alike else image.quantize(64, Image.Quantize.FASTOCTREE)
    image.save(drawn := io.BytesIO(), "png", optimize=True)
    return drawn.getvalue()


def _sheet(labels: Sequence[str], pictures: Sequence[Sequence[Image.Image]]) -> bytes:
    """Up to eight stops, the first and the last among them, in one PNG."""
    shown = sorted({round(k) for k in np.linspace(0, len(labels) - 1, min(8, len(labels)))})
    cells = [[picture.reduce(3) for picture in pictures[k]] for k in shown]
    width = max(p.width for cell in cells for p in cell)
    height = 24 + max(sum(p.height for p in cell) for cell in cells)
    columns = min(4, len(shown))
    sheet = Image.new("RGB", (columns * width, -(-len(shown) // columns) * height), "white")
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 14)
    for place, (k, cell) in enumerate(zip(shown, cells, strict=True)):
        x, y = place % columns * width, place // columns * height
        ImageDraw.Draw(sheet).text((x + 8, y + 4), labels[k], INK, font)
        for picture in cell:
            sheet.paste(picture, (x, y + 24))
            y += picture.height
    return _few(sheet)


def _step(name: str, to: int, n: int, sign: str) -> str:
    """The way to a neighbour: the label of its button, wide enough for a finger. The keyboard has its arrows."""
    tag, way = ("label", f" for='{name}-{to}'") if 0 <= to < n else ("span", "")
    return f"<{tag}{way} aria-hidden='true'>{sign}</{tag}>"


def _style(name: str, n: int) -> str:
    """Every rule begins with the figure's own name: the page around it stays as it is, and cannot reach in."""
    hidden = ",".join(f"&:has([id={name}-{i}]:checked) .stop:not(:nth-child({i + 1}))" for i in range(n))
    return f"{RULES}{hidden}{{display:none}}".replace("&", f"#{name}")


RULES = f"""
&{{background:#fff;color:{INK};padding:.75rem;border-radius:.5rem;font-size:.9rem;line-height:1.4;\
box-sizing:border-box;color-scheme:light;print-color-adjust:exact;-webkit-print-color-adjust:exact}}
& .plain{{display:none}}
& p{{margin:.3rem 0;color:{INK};font-size:.9rem}}
& fieldset{{border:0;margin:0;padding:0;display:flex;flex-wrap:wrap;gap:.35rem;min-width:0}}
& legend{{font-size:1em;font-weight:600;padding:0;margin:0 0 .2rem;width:auto;color:{INK}}}
& label{{cursor:pointer;margin:0;box-sizing:border-box;position:relative}}
& label:has(:focus-visible){{outline:3px solid {BLUE};outline-offset:2px}}
& input{{appearance:none;-webkit-appearance:none;position:absolute;inset:0;width:100%;height:100%;margin:0;\
border:0;background:none;outline:none;box-shadow:none;cursor:pointer}}
& img{{filter:none;background:none;margin:0;border-radius:0}}
& .pictures label{{border:2px solid #ccc;border-radius:.4rem;padding:.25rem;text-align:center}}
& .pictures img{{display:block;margin:auto;image-rendering:pixelated}}
& .pictures span{{display:block;font-size:.8rem}}
& .pictures label:has(:checked){{border-color:{INK};background:#f0f0f0}}
& .slider{{flex-wrap:nowrap;gap:0}}
& .slider legend{{float:left;line-height:2.75rem;margin:0 .6rem 0 0}}
& .slider label{{flex:1 1 0;min-width:0;height:2.75rem;display:flex;align-items:center;justify-content:center;\
background:linear-gradient({GREY},{GREY}) center/100% 3px no-repeat;border-radius:.4rem}}
& .slider label::after{{content:"";width:.6rem;height:.6rem;border-radius:50%;background:#fff;\
border:2px solid {GREY};box-sizing:border-box;flex:none;pointer-events:none}}
& .slider label:has(:checked)::after{{width:1.35rem;height:1.35rem;background:{RED};border-color:{INK}}}
& .ends{{display:flex;justify-content:space-between;font-size:.8rem;line-height:1}}
& .steps{{display:flex;align-items:center}}
& .steps b{{min-width:6.5rem;text-align:center;font-variant-numeric:tabular-nums}}
& .steps :not(b){{width:2.75rem;height:2.75rem;display:flex;align-items:center;justify-content:center;\
border-radius:.4rem;user-select:none}}
& .steps label:hover{{background:#f0f0f0}}
& .steps span{{color:#bbb}}
& .said{{min-height:2.8em;font-variant-numeric:tabular-nums}}
& .drawing{{display:flex;flex-wrap:wrap;gap:.5rem 1.5rem;align-items:flex-start;max-width:48rem;break-inside:avoid}}
& .drawing img{{max-width:100%;height:auto}}
"""
