"""The page: HTML and CSS. The slider is a row of radio buttons, as nothing else moves without a script."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import numpy as np

from measured.figures import BLUE, GREY, INK, RED, SKY
from measured.figures.chooser.shell import OWN_KEYS, framed, named, small, tick, ticks
from measured.figures.chooser.water.sweep import Frame, Sweep, facts, sentence

WIDTH, LEFT, RIGHT, TOP, FOOT = 340, 46, 8, 22, 38  # of a plot, in pixels of its own
INNER = WIDTH - LEFT - RIGHT
PLANE, SPECTRUM, BARS = 240, 150, 62  # heights of the drawing areas
PALE = "#cfcfcf"


def html(sweep: Sweep, picture: bytes) -> str:
    decoded = [_row("decoded", frame.images, i) for i, frame in enumerate(sweep.frames)]
    plots = [
        f'<div class="plots" data-frame="{i}">{_plane(sweep, frame)}{_spectrum(sweep, frame)}</div>'
        for i, frame in enumerate(sweep.frames)
    ]
    name = named([*(sentence(sweep, frame) for frame in sweep.frames), *decoded, *plots])
    said = "".join(_facts(sweep, i, name) for i in range(len(sweep.frames)))
    last = len(sweep.frames) - 1
    stops = "".join(
        f'<label><input type="radio" name="{name}" id="{name}-{i}" value="{i}" {OWN_KEYS} '
        f'aria-label="{escape(f"{sweep.symbol} = {frame.label}")}"{" checked" if i == last // 2 else ""}></label>'
        for i, frame in enumerate(sweep.frames)
    )
    ends = "".join(f"<span>{escape(sweep.frames[i].label)}</span>" for i in (0, last))
    body = (
        f'<fieldset class="stops"><legend>{escape(sweep.symbol)}</legend>{stops}</fieldset>'
        f'<p class="ends" aria-hidden="true">{ends}</p>'
        f'<div aria-live="polite">{said}</div>'
        f'<div class="strips">{_row("data", sweep.originals)}{"".join(decoded)}</div>'
        f"{''.join(plots)}"
        f"<p>Rate: {escape(sweep.curve_name)} (line), the sweep (circles), this model (dot), and the line of equal "
        f"R + D/(2T) through it (dashed). Variance: on a logarithmic scale, pale below the water level T. "
        f"KL: what each latent costs, the dearest first.</p>"
    )
    title = f"Rate, distortion and water level, by {sweep.symbol}"
    plain = "To move the slider, run this cell or trust the notebook."
    alt = "Some stops of the slider: rate and distortion, water levels, decoded images."
    return framed(name, title, _rules(name, len(sweep.frames)), plain, picture, alt, body)


def _facts(sweep: Sweep, i: int, name: str) -> str:
    """What is said of a frame, and the ways to its neighbours: labels of their radio buttons, wide enough to touch."""
    frame = sweep.frames[i]
    cells = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts(sweep, frame).items())
    steps = [
        f'<label class="step" for="{name}-{i + step}" aria-hidden="true">{sign}</label>'
        if 0 <= i + step < len(sweep.frames)
        else f'<span class="step" aria-hidden="true">{sign}</span>'
        for step, sign in ((-1, "◀"), (1, "▶"))
    ]
    value = f"<b>{escape(sweep.symbol)} = {escape(frame.label)}</b>"
    return f'<div class="said" data-frame="{i}"><p>{steps[0]}{value}{steps[1]}</p><dl>{cells}</dl></div>'


def _row(name: str, images: np.ndarray, i: int | None = None) -> str:
    """Images side by side, one picture; decorative beside the numbers, which say how far it is from the data."""
    strip = np.concatenate([np.pad(image, ((0, 0), (0, 1))) for image in images], 1)[:, :-1]
    height, width = strip.shape
    frame = "" if i is None else f' data-frame="{i}"'
    return (
        f'<div class="strip"{frame}><span>{name}</span><svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{name} images"><image width="{width}" height="{height}" href="{small(strip)}" '
        f'style="image-rendering:pixelated"/></svg></div>'
    )


def _plane(sweep: Sweep, frame: Frame) -> str:
    """The rate-distortion plane with the sweep, one model of it and the line that supports it."""
    most = sweep.limits

    def place(points: np.ndarray) -> np.ndarray:
        unit = np.asarray(points, dtype=float) / most
        return np.stack([LEFT + INNER * unit[..., 0], TOP + PLANE * (1 - unit[..., 1])], -1)

    marks = _vertical({v: place(np.array([v, 0]))[0] for v in ticks(0, most[0])}, TOP, PLANE)
    marks += _horizontal({v: place(np.array([0, v]))[1] for v in ticks(0, most[1])})
    curve = sweep.curve
    if (over := np.flatnonzero(curve[:, 1] > most[1])).size:  # cut where it leaves the plot, not before
        k = min(int(over[-1]), len(curve) - 2)
        share = (most[1] - curve[k + 1, 1]) / (curve[k, 1] - curve[k + 1, 1])
        curve = np.vstack([curve[k + 1] + share * (curve[k] - curve[k + 1]), curve[k + 1 :]])
    here = np.array([frame.distortion, float(frame.kl.sum())])
    slope = 2 * frame.level  # distortion per nat
    ends = np.array([max(0.0, here[0] - slope * (most[1] - here[1])), min(most[0], here[0] + slope * here[1])])
    line = place(np.stack([ends, here[1] - (ends - here[0]) / slope], -1))
    circles = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in place(sweep.points))
    x, y = place(here)
    return (
        f'<svg viewBox="0 0 {WIDTH} {TOP + PLANE + FOOT}" role="img" '
        f'aria-label="Rate against distortion: {escape(sentence(sweep, frame))}">'
        f'<text x="{LEFT}" y="13" class="head">Rate, nats</text><g class="marks">{marks}</g>'
        f'<text x="{LEFT + INNER / 2:g}" y="{TOP + PLANE + 33}">distortion (squared error, summed)</text>'
        f'<path d="{_path(place(curve))}" class="curve"/><path d="{_path(line)}" class="line"/>'
        f'<g class="others">{circles}</g><circle cx="{x:.1f}" cy="{y:.1f}" r="6.5" class="here"/>'
        f'<path d="M{LEFT} {TOP}v{PLANE}h{INNER}" class="frame"/></svg>'
    )


def _spectrum(sweep: Sweep, frame: Frame) -> str:
    """The data's variances, those under water pale; below them what each latent costs, in the order of its cost."""
    drawn, (low, high) = sweep.drawn, sweep.span
    places = len(drawn)
    step, bottom = INNER / places, TOP + SPECTRUM

    def height(values: np.ndarray) -> np.ndarray:
        return SPECTRUM * np.log(np.maximum(values, low) / low) / np.log(high / low)

    def bars(heights: np.ndarray, first: int, foot: float) -> str:
        return "".join(
            f"M{LEFT + step * (first + i + 0.15):.1f} {foot:g}v{-h:.1f}h{0.7 * step:.1f}v{h:.1f}z"
            for i, h in enumerate(heights)
            if h > 0.05
        )

    dry = int((drawn > frame.level).sum())
    tall, water = height(drawn), bottom - float(height(np.array(frame.level)))
    decades = [10.0**k for k in range(int(np.ceil(np.log10(low))), int(np.floor(np.log10(high))) + 1)]
    if len(decades) < 2:
        decades = ticks(low, high)
    marks = _horizontal({v: bottom - float(height(np.array(v))) for v in decades})
    kl = -np.sort(-frame.kl)[:places]
    foot = bottom + 26 + BARS
    marks += _horizontal({v: foot - BARS * v / sweep.deepest for v in ticks(0, sweep.deepest)[1:]})
    numbers = {1.0, *(value for value in ticks(1, places) if value == int(value))}
    marks += _vertical({v: LEFT + step * (v - 0.5) for v in sorted(numbers)}, foot, 0)
    total = len(sweep.eigenvalues)
    what = f"principal direction (of {total}); latent, by cost"
    say = f"{int((sweep.eigenvalues > frame.level).sum())} of {total} variances are above the water level"
    return (
        f'<svg viewBox="0 0 {WIDTH} {foot + FOOT:g}" role="img" aria-label="Spectrum: {say}">'
        f'<text x="{LEFT}" y="13" class="head">Variance of the data</text>'
        f'<g class="marks">{marks}</g>'
        f'<path d="{bars(tall[:dry], 0, bottom)}" class="dry"/><path d="{bars(tall[dry:], dry, bottom)}" class="wet"/>'
        f'<path d="M{LEFT} {water:.1f}h{INNER}V{bottom}h{-INNER}z" class="water"/>'
        f'<path d="M{LEFT} {water:.1f}h{INNER}" class="surface"/>'
        f'<text x="{WIDTH - RIGHT - 3}" y="{water - 5:.1f}" class="left">T</text>'
        f'<text x="{LEFT}" y="{bottom + 18}" class="head">KL of each latent, nats</text>'
        f'<path d="{bars(BARS * kl / sweep.deepest, 0, foot)}" class="cost"/>'
        f'<text x="{LEFT + INNER / 2:g}" y="{foot + 33:g}">{what}</text>'
        f'<path d="M{LEFT} {TOP}V{bottom}h{INNER}M{LEFT} {foot - BARS:g}V{foot:g}h{INNER}" class="frame"/></svg>'
    )


def _vertical(at: Mapping[float, float], top: float, length: float) -> str:
    """Grid lines and numbers below them: value -> pixel."""
    return "".join(
        f'<path d="M{x:.1f} {top:g}v{length:g}"/><text x="{x:.1f}" y="{top + length + 15:g}">{tick(value)}</text>'
        for value, x in at.items()
    )


def _horizontal(at: Mapping[float, float]) -> str:
    return "".join(
        f'<path d="M{LEFT} {y:.1f}h{INNER}"/><text x="{LEFT - 5}" y="{y + 4:.1f}" class="left">{tick(value)}</text>'
        for value, y in at.items()
    )


def _path(points: np.ndarray) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) if len(points) else ""


def _rules(name: str, n: int) -> list[str]:
    hidden = ",".join(f'&:has([id="{name}-{i}"]:checked) [data-frame]:not([data-frame="{i}"])' for i in range(n))
    return [
        *RULES,
        f"@media screen{{{hidden}{{display:none}}}}",
        "@media print{& .stops,& .ends,& .said,& .strips,& .plots{display:none}& .plain{display:block}"
        "& .plain p{display:none}& .plain img{max-width:100%}}",
    ]


RULES = f"""
& .stops{{flex-wrap:nowrap;gap:0;margin:0;position:relative}}
& .stops legend{{float:left;width:1.6rem;line-height:2.75rem;margin:0}}
& .stops label{{flex:1 1 0;min-width:0;height:2.75rem;display:flex;align-items:center;justify-content:center;\
background:linear-gradient({GREY},{GREY}) center/100% 3px no-repeat;border-radius:.4rem;position:relative}}
& .stops input{{appearance:none;-webkit-appearance:none;position:absolute;inset:0;width:100%;height:100%;margin:0;\
border:0;background:none;outline:none;box-shadow:none;cursor:pointer}}
& .stops label::after{{content:"";width:.6rem;height:.6rem;border-radius:50%;background:#fff;\
border:2px solid {GREY};box-sizing:border-box;flex:none;pointer-events:none}}
& .stops label:has(:checked)::after{{width:1.35rem;height:1.35rem;background:{RED};border-color:{INK}}}
& .ends{{display:flex;justify-content:space-between;margin:0 0 0 1.6rem;font-size:.8rem;line-height:1}}
& .said{{display:flex;flex-wrap:wrap;gap:.2rem 1.5rem;align-items:center;margin:.3rem 0}}
& .said p{{display:flex;align-items:center;margin:0}}
& .said b{{min-width:6.5rem;text-align:center;font-variant-numeric:tabular-nums}}
& .step{{width:2.75rem;height:2.75rem;display:flex;align-items:center;justify-content:center;color:{INK};\
border-radius:.4rem;user-select:none}}
& label.step:hover{{background:#f0f0f0}}
& span.step{{color:#bbb}}
& dl{{display:flex;flex-wrap:wrap;gap:.2rem 1.5rem;margin:0}}
& dt{{font-weight:400;font-size:.8rem;color:{INK};margin:0}}
& dd{{margin:0;font-weight:600;font-variant-numeric:tabular-nums;min-width:4.5rem;color:{INK}}}
& .strip{{display:flex;align-items:center;gap:.5rem;margin:.2rem 0}}
& .strip span{{flex:0 0 3.8rem;font-size:.8rem}}
& .strip svg{{flex:1 1 auto;min-width:0;max-width:36rem;height:auto}}
& .plots{{display:flex;flex-wrap:wrap;gap:.5rem 1.5rem;align-items:flex-start;margin-top:.6rem}}
& .plots>svg{{flex:1 1 17rem;width:100%;max-width:26rem;min-width:0;height:auto}}
& text.head{{text-anchor:start;font-weight:600}}
& .curve{{fill:none;stroke:{INK};stroke-width:1.8}}
& .line{{fill:none;stroke:{RED};stroke-width:1.6;stroke-dasharray:6 4}}
& .others circle{{fill:#fff;stroke:{INK};stroke-width:1.3}}
& .here{{fill:{RED};stroke:{INK};stroke-width:1.5}}
& .dry{{fill:{BLUE}}}
& .wet{{fill:{PALE}}}
& .water{{fill:{SKY};opacity:.22}}
& .surface{{stroke:{RED};stroke-width:2;fill:none}}
& .cost{{fill:{BLUE}}}""".split("\n")[1:]
