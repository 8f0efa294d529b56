import base64
import io
import re
import shutil
from dataclasses import astuple

import numpy as np
import pytest
from PIL import Image
from tags import Tags, leave_each_other_alone

from measured.figures.chooser import Frame, water_levels
from measured.figures.chooser.water.page import BARS, INNER, LEFT, PLANE, SPECTRUM, TOP

N, H, W, X = 5, 7, 11, 13
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LEVELS = np.array([0.03, 0.11, 0.4, 1.7, 9.0])


def linear(levels, spectrum):
    """(distortion, rate) of a Gaussian source at each water level, the curve's own parameters."""
    wet = np.minimum(spectrum, levels[:, None]).sum(1)
    return np.stack([wet, 0.5 * np.log(np.maximum(spectrum / levels[:, None], 1)).sum(1)], 1)


def case(n=N, size=(3, H, W), **changes):
    """Frames of a linear VAE on a spectrum without ties, in a shuffled order."""
    rng = np.random.default_rng(0)
    spectrum = rng.permutation(8 * 0.6 ** np.arange(X))
    levels = LEVELS if n == N else np.geomspace(0.01, 9, n)
    points = linear(levels, spectrum)
    frames = [
        Frame(
            f"{level:.4g}",
            float(level),
            0.5 * np.log(np.maximum(spectrum / level, 1)),
            float(d),
            int((spectrum > level).sum()),
            rng.uniform(-0.2, 1.2, size),
        )
        for level, (d, _) in zip(levels, points, strict=True)
    ]
    arguments = {
        "frames": frames,
        "originals": rng.uniform(0, 1, size),
        "eigenvalues": spectrum,
        "curve": linear(np.geomspace(0.005, 8, 60), spectrum),
        "symbol": "β",
        "curve_name": "the curve",
    }
    return arguments | changes


def drawings(page, start):
    """The drawing of each frame whose label starts so."""
    return re.findall(rf'<svg viewBox="[^"]*" role="img" aria-label="{start}.*?</svg>', page)


def shape(drawing, name):
    return re.search(rf'<(?:path|circle)[^>]*class="{name}"/>', drawing)[0]


def numbers(tag, attribute):
    return [float(v) for v in re.findall(r"-?[\d.]+", re.search(rf' {attribute}="([^"]*)"', tag)[1])]


def test_the_page_is_whole_and_needs_nothing_else():
    page = water_levels(**case()).html
    tags = Tags(page)
    assert not re.search(r"https?:|//|@import|url\(", re.sub(r"data:image/png;base64,[\w+/=]+", "", page))
    assert tags.all("script") == []
    assert {a["href"].partition(",")[0] for a in tags.all("image")} == {"data:image/png;base64"}
    assert len(water_levels(**case(16, (8, 8, 8))).html) < 200_000
    assert len(water_levels(**case(24, (8, 28, 28))).html) < 300_000 + 24 * 8 * 28 * 28 * 4 / 3  # noise has no pattern


def test_the_slider_is_one_group_of_buttons_with_names():
    tags = Tags(water_levels(**case()).html)
    radios = tags.all("input")
    assert {a["type"] for a in radios} == {"radio"}
    assert len({a["name"] for a in radios}) == 1
    assert [a["aria-label"] for a in radios] == ["β = 0.03", "β = 0.11", "β = 0.4", "β = 1.7", "β = 9"]
    assert ["checked" in a for a in radios] == [False, False, True, False, False]
    assert all("data-lm-suppress-shortcuts" in a for a in radios)  # JupyterLab leaves them their keys
    assert len({a["id"] for a in radios}) == N


def test_each_frame_leads_to_its_neighbours():
    tags = Tags(water_levels(**case()).html)
    ids = [a["id"] for a in tags.all("input")]
    steps = [a for a in tags.all("label") if a.get("class") == "step"]
    assert [a["for"] for a in steps] == [ids[i] for i in (1, 0, 2, 1, 3, 2, 4, 3)]
    assert all(a["aria-hidden"] == "true" for a in steps)


def test_numbers_are_those_of_the_frames():
    arguments = case()
    shown = water_levels(**arguments)
    text = "".join(Tags(shown.html).text)
    for line, frame in zip(shown.text.splitlines(), arguments["frames"], strict=True):
        rate = frame.kl.sum()
        assert line.startswith(f"β = {frame.label}: water level T ")
        assert f"rate {rate:.2f} nats, {rate / np.log(2):.2f} bits" in line
        assert line.endswith(f"active latents {frame.active} of {X}")
        assert f"active latents{frame.active} of {X}" in text
        assert float(re.search(r"distortion ([\d.]+)", line)[1]) == pytest.approx(frame.distortion, rel=5e-3)
    assert "water level" not in water_levels(**case(symbol="T")).text  # it is the slider itself


def test_a_point_lies_on_the_curve_and_its_line_supports_it():
    arguments = case()
    page = water_levels(**arguments).html
    points = linear(LEVELS, arguments["eigenvalues"])
    most = 1.06 * np.array([max(points[:, 0].max(), arguments["curve"][-1, 0]), points[:, 1].max()])
    for drawing, level, point in zip(drawings(page, "Rate"), LEVELS, points, strict=True):

        def values(pixels):
            pixels = np.reshape(pixels, (-1, 2))
            return (pixels - [LEFT, TOP + PLANE]) / [INNER, -PLANE] * most  # noqa: B023

        here = shape(drawing, "here")
        assert values(numbers(here, "cx") + numbers(here, "cy"))[0] == pytest.approx(point, abs=1e-3 * most.max())
        line, curve = values(numbers(shape(drawing, "line"), "d")), values(numbers(shape(drawing, "curve"), "d"))
        value = line[:, 1] + line[:, 0] / (2 * level)
        rounding = 0.06 * (most[1] / PLANE + most[0] / INNER / (2 * level))
        assert value == pytest.approx(point[1] + point[0] / (2 * level), abs=rounding)
        assert (curve[:, 1] + curve[:, 0] / (2 * level) > value.min() - 2 * rounding).all()
        assert curve[0, 1] == pytest.approx(most[1], rel=1e-3)  # as far as the plot goes


def test_what_is_above_water_is_told_apart():
    arguments = case()
    page = water_levels(**arguments).html
    for drawing, frame in zip(drawings(page, "Spectrum"), arguments["frames"], strict=True):
        dry, wet = (shape(drawing, name) for name in ("dry", "wet"))
        assert dry.count("z") == frame.active
        assert f"Spectrum: {frame.active} of {X} variances" in drawing
        surface = numbers(shape(drawing, "surface"), "d")[1]
        tops = {name: [float(h) for h in re.findall(r"v-([\d.]+)h", bars)] for name, bars in (("d", dry), ("w", wet))}
        height = TOP + SPECTRUM - surface
        assert min(tops["d"], default=np.inf) > height > max(tops["w"], default=0)
        excess = 2 * frame.kl[frame.kl > 0] / np.log(1.6 * 9 / (LEVELS[0] / 2)) * SPECTRUM
        assert sorted(np.array(tops["d"]) - height) == pytest.approx(sorted(excess), abs=0.11)  # twice the KL, to scale


def test_costs_are_sorted_and_share_a_scale():
    arguments = case()
    deepest = max(frame.kl.max() for frame in arguments["frames"])
    for drawing, frame in zip(drawings(water_levels(**arguments).html, "Spectrum"), arguments["frames"], strict=True):
        heights = [float(h) for h in re.findall(r"v-([\d.]+)h", shape(drawing, "cost"))]
        expected = np.sort(frame.kl[BARS * frame.kl / deepest > 0.05])[::-1] * BARS / deepest
        assert heights == pytest.approx(list(expected), abs=0.051)


def test_images_are_those_of_the_frames():
    arguments = case()
    rows = [a["href"] for a in Tags(water_levels(**arguments).html).all("image")]
    for address, images in zip(rows, [arguments["originals"], *(f.images for f in arguments["frames"])], strict=True):
        strip = np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))
        for k, image in enumerate(images):
            pixels = strip[:, k * (W + 1) : k * (W + 1) + W]
            assert np.abs(pixels - 255 * (1 - image.clip(0, 1))).max() <= 0.5


def test_two_figures_on_a_page_leave_each_other_alone():
    one, other = (water_levels(**case(n)).html for n in (5, 4))
    leave_each_other_alone(one, other)
    assert water_levels(**case()).html == one


def test_the_picture_stands_in():
    bundle = water_levels(**case(24, (8, 8, 8)))._repr_mimebundle_()
    assert list(bundle) == ["text/html", "image/png", "text/plain"]
    data = base64.b64decode(bundle["image/png"])
    assert len(data) < 60_000
    width, height = Image.open(io.BytesIO(data)).size
    assert 600 < width < 1200
    assert 400 < height < 1200
    assert len(bundle["text/plain"].splitlines()) == 24


def test_nothing_is_kept_and_nothing_changed():
    arguments = case()
    before = [np.copy(arguments[name]) for name in ("originals", "eigenvalues", "curve")]
    assert astuple(water_levels(**arguments)) == astuple(water_levels(**arguments))
    for name, array in zip(("originals", "eigenvalues", "curve"), before, strict=True):
        assert np.array_equal(arguments[name], array)


def test_a_sweep_that_never_leaves_the_bottom_is_drawn():
    """Everything collapsed: rate 0 throughout, one latent, one image."""
    frames = [Frame(str(k), 2.0 + k, np.zeros(1), 3.0, 0, np.zeros((1, 2, 2))) for k in range(3)]
    curve = np.array([[1.0, 0.7], [3.0, 0.0]])
    made = water_levels(frames, np.zeros((1, 2, 2)), np.array([1.0, 0.0]), curve, symbol="T", curve_name="c")
    assert "nan" not in made.html
    assert "rate 0.00 nats" in made.text


def test_labels_are_text():
    frames = [frame._replace(label=f'<i>{i}&"') for i, frame in enumerate(case()["frames"])]
    page = water_levels(**case(frames=frames, symbol="<u>", curve_name="<s>")).html
    assert not re.search("<[ius]>", page)
    Tags(page)


def spoilt(index=2, **changes):
    frames = case()["frames"]
    frames[index] = frames[index]._replace(**changes)
    return {"frames": frames}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": case()["frames"][:2]}, "frames must be 3 to 24, got 2"),
        ({"frames": case()["frames"] * 5}, "frames must be 3 to 24, got 25"),
        ({"originals": np.zeros((H, W))}, r"originals must have shape \(n, H, W\), got \(7, 11\)"),
        ({"originals": np.full((3, H, W), 2.0)}, r"originals must lie in \[0, 1\], got \[2, 2\]"),
        ({"originals": np.full((3, H, W), np.nan)}, "originals must be finite, got nan"),
        ({"eigenvalues": np.zeros(3)}, "eigenvalues must be .* with one above zero"),
        ({"eigenvalues": np.eye(3)}, r"eigenvalues must be \(X,\).* got shape \(3, 3\)"),
        ({"curve": case()["curve"][::-1]}, "curve must be .* with distortion increasing"),
        ({"curve": np.array([[0.0, np.inf], [1.0, 0.0]])}, "curve must be finite, got inf"),
        (spoilt(images=np.zeros((2, H, W))), r"frame 2 must have images of shape \(3, 7, 11\).*got \(2, 7, 11\)"),
        (spoilt(kl=np.zeros((2, 2))), r"frame 2 must have kl of shape \(Z,\), got \(2, 2\)"),
        (spoilt(kl=np.array([np.nan])), "frame 2's kl must be finite|frame 2 must have 0 to 1 active"),
        (spoilt(level=0.0), "frame 2 must have a level above zero, got 0.0"),
        (spoilt(active=X + 1), "frame 2 must have 0 to 13 active, got 14"),
        (spoilt(distortion=np.inf), "frame 2's distortion must be finite, got inf"),
        (spoilt(label="0.11"), "labels that differ"),
    ],
)
def test_bad_input_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        water_levels(**case(**changes))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
def test_a_browser_without_scripts_or_network_moves_it(tmp_path):
    from playwright.sync_api import sync_playwright

    file = tmp_path / "page.html"
    file.write_text(f'<!doctype html><meta charset="utf-8">{water_levels(**case(16)).html}', "utf-8")
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        context = browser.new_context(java_script_enabled=False, viewport={"width": 375, "height": 812})
        tab = context.new_page()
        tab.goto(file.as_uri())

        def seen():
            return {
                kind: [i for i, part in enumerate(tab.locator(f".{kind}[data-frame]").all()) if part.is_visible()]
                for kind in ("said", "strip", "plots")
            }

        def only(i):
            return {"said": [i], "strip": [i], "plots": [i]}

        assert seen() == only(7)
        tab.keyboard.press("Tab")
        tab.keyboard.press("ArrowRight")
        tab.keyboard.press("ArrowRight")
        assert seen() == only(9)
        tab.keyboard.press("ArrowLeft")
        assert seen() == only(8)
        tab.locator("input").nth(15).click()
        assert seen() == only(15)
        tab.locator(".said[data-frame='15'] label.step").click()
        assert seen() == only(14)
        assert all(tab.locator(".step").nth(k).bounding_box() is None for k in (0, 1))
        for box in [tab.locator(".chooser > *").nth(k).bounding_box() for k in range(2, 7)]:
            assert box is None or box["x"] + box["width"] <= 375
        assert tab.locator(".said[data-frame='14'] label.step").first.bounding_box()["width"] >= 44
        assert not tab.locator(".plain").is_visible()
        tab.emulate_media(media="print")
        assert tab.locator(".plain img").is_visible()
        assert seen() == {"said": [], "strip": [], "plots": []}
        browser.close()
