import base64
import io
import re
import shutil
import xml.etree.ElementTree as ET
from functools import cache
from urllib.parse import unquote

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from tags import Tags, leave_each_other_alone

from measured.figures.chooser import Frame, Gaussians, Stop, choose, posteriors, water_levels
from measured.figures.chooser.plane import MASSES, RADIUS, plane, regions
from measured.figures.chooser.shell import _rounded
from measured.figures.chooser.water import _said

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def line(power, text=""):
    ax = (figure := Figure(figsize=(3.6, 2.5))).subplots()
    ax.plot([0, 1, 2], [0, 1, 2**power], label=f"{power + 0.123456:.6f}")
    ax.set_title(text)
    ax.legend()
    return figure


@cache
def powers(n=5):
    return make(n)


def make(n=5, **arguments):
    stops = [Stop(f"n = {k}", lambda k=k: line(k, "it's <b>&"), f"at 2: {2**k}") for k in range(n)]
    return choose(stops, **{"title": "Powers", "legend": "n"} | arguments)


def drawings(page):
    """The drawings of a page as trees; each must be one."""
    addresses = [a["src"] for a in Tags(page).all("img") if a["src"].startswith("data:image/svg")]
    return [ET.fromstring(unquote(address.partition(",")[2])) for address in addresses]


def texts(drawing):
    return [node.text for node in drawing.iter("{http://www.w3.org/2000/svg}text")]


def test_a_page_needs_nothing_else_and_says_what_it_draws():
    made = powers()
    tags = Tags(made.html)
    assert tags.all("script") == []
    assert not re.search(r"https?:|//|@import|url\(", re.sub(r"src='[^']*'", "", made.html))
    assert {a["src"].partition(":")[0] for a in tags.all("img")} == {"data"}
    assert made.text.splitlines() == [f"n = {k}: at 2: {2**k}" for k in range(5)]
    assert all(f"at 2: {2**k}" in tags.text for k in range(5))
    assert all(a["alt"] == "" for a in tags.all("img"))  # the sentence beside it is what is read
    assert len(made.html) < 40_000
    assert not any("hidden" in a for _, a in tags.seen)  # without styles every stop is there


def test_choices_are_one_group_of_buttons_with_names():
    tags = Tags(make(first=2).html)
    radios = tags.all("input")
    assert {(a["type"], a["name"]) for a in radios} == {("radio", radios[0]["name"])}
    assert [a["aria-label"] for a in radios] == [f"n = {k}" for k in range(5)]
    assert ["checked" in a for a in radios] == [False, False, True, False, False]
    assert all("data-lm-suppress-shortcuts" in a for a in radios)  # JupyterLab leaves them their keys
    ids = [a["id"] for a in radios]
    assert [a["for"] for a in tags.all("label") if "for" in a] == [ids[i] for i in (1, 0, 2, 1, 3, 2, 4, 3)]
    faces = Tags(make(thumbnails=np.zeros((5, 3, 2))).html)
    assert len([a for a in faces.all("img") if a["width"] == "36"]) == len(faces.all("label")) == 5


def test_figures_on_a_page_leave_each_other_alone_and_come_out_the_same():
    leave_each_other_alone(powers().html, powers(16).html)
    assert powers() == make()


def test_what_is_written_stays_while_paths_get_short():
    for k, drawing in enumerate(drawings(powers().html)):
        assert f"{k}.123456" in texts(drawing)
        assert "it's <b>&" in texts(drawing)
    assert _rounded("M 1.26 2 L 3.04 -4.11 L 5 6 C 1 2 3 4 5 6 L 7 8 z") == "M1.3 2 3-4.1 5 6C1 2 3 4 5 6L7 8z"


def test_the_lighter_of_vectors_and_pixels_is_taken_and_what_all_share_is_there_once():
    shared = line(1)
    noise = Figure(figsize=(1, 1))
    noise.subplots().scatter(*np.random.default_rng(0).uniform(size=(2, 3000)))
    page = choose([("a", [noise, shared], "x"), ("b", [line(2), shared], "y")], title="t", legend="l").html
    kinds = [a["src"][:14] for a in Tags(page).all("img")]
    assert kinds == ["data:image/png", "data:image/svg", "data:image/svg"]


def test_the_picture_stands_in():
    bundle = powers(16)._repr_mimebundle_()
    assert list(bundle) == ["text/html", "image/png", "text/plain"]
    data = base64.b64decode(bundle["image/png"])
    width, height = Image.open(io.BytesIO(data)).size
    assert 800 < width < 1000
    assert 300 < height < 600
    assert len(data) < 60_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: make(25), "stops must be 2 to 24, got 25"),
        (lambda: make(first=5), "first must be 0 to 4, got 5"),
        (lambda: make(thumbnails=np.zeros((4, 2, 2))), "thumbnails must be 5, one for each stop, got 4"),
        (lambda: make(thumbnails=np.full((5, 2, 2), 9)), r"thumbnails must be \(H, W\) in \[0, 1\]"),
        (lambda: choose([("a", line(1), ""), ("a", line(2), "")], title="", legend=""), "labels that differ, got 'a'"),
        (lambda: choose([("a", [], ""), ("b", [], "")], title="", legend=""), "drawing each, got none for 'a'"),
    ],
)
def test_bad_stops_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        change()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
def test_a_browser_without_scripts_or_network_moves_it(tmp_path):
    from playwright.sync_api import sync_playwright

    (file := tmp_path / "page.html").write_text(f'<!doctype html><meta charset="utf-8">{powers(16).html}', "utf-8")
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        tab = browser.new_context(java_script_enabled=False, viewport={"width": 375, "height": 812}).new_page()
        tab.goto(file.as_uri())

        def seen():
            return [i for i, stop in enumerate(tab.locator(".stop").all()) if stop.is_visible()]

        assert seen() == [0]
        for key in ("Tab", "ArrowRight", "ArrowRight", "ArrowLeft", "ArrowRight"):
            tab.keyboard.press(key)
        assert seen() == [2]
        tab.locator("input").nth(15).click()
        tab.locator(".stop").nth(15).locator("label").click()
        assert seen() == [14]
        assert tab.locator(".stop").nth(14).locator("label").first.bounding_box()["width"] >= 44
        for part in tab.locator(".chooser *").all():
            if (box := part.bounding_box()) is not None:
                assert box["x"] + box["width"] <= 375
        tab.emulate_media(media="print")
        assert seen() == [14]  # what was chosen is printed
        assert not tab.locator(".plain").is_visible()
        browser.close()


N, G1, G2 = 3, 61, 73


def gaussian_case():
    """Correlated Gaussian posteriors, each with its own window; the best diagonal and full Gaussians are exact."""
    rng = np.random.default_rng(0)
    mean, sd, rho = rng.normal(size=(N, 2)), rng.uniform(0.1, 0.6, (N, 2)), rng.uniform(-0.7, 0.7, N)
    covariance = sd[:, :, None] * (np.eye(2) + rho[:, None, None] * (1 - np.eye(2))) * sd[:, None, :]
    narrow = np.stack([np.diag(1 / np.diag(np.linalg.inv(c))) for c in covariance])
    span = [mean[:, j, None] + sd[:, j, None] * np.linspace(-6, 6, g) for j, g in ((0, G1), (1, G2))]
    z = np.stack(np.broadcast_arrays(span[0][:, :, None], span[1][:, None, :]), -1) - mean[:, None, None]
    log_p, gap = np.array([-20.0, -19, -18]), -0.5 * np.log(1 - rho**2)
    return {
        "images": rng.integers(0, 2, (N, 5, 7)).astype(float),
        "labels": ["a 4", "a 5", "a 4"],
        "z1": span[0],
        "z2": span[1],
        "log_joint": -0.5 * np.einsum("nabi,nij,nabj->nab", z, np.linalg.inv(covariance), z) - 17,
        "log_p": log_p,
        "encoder": Gaussians(mean + 0.2, narrow, log_p - gap - 0.25),
        "diagonal": Gaussians(mean, narrow, log_p - gap),
        "full": Gaussians(mean, covariance, log_p + 0.004),
    }


def test_losses_are_differences_of_what_was_given():
    arguments = gaussian_case()
    gaps = arguments["log_p"] - arguments["diagonal"].elbo
    lines = posteriors(**arguments).text.splitlines()
    for i, (name, gap) in enumerate(zip(("a 4", "a 5", "a 4 (2)"), gaps, strict=True)):
        assert lines[i] == (
            f"{name}: ln p(x) = −{20 - i}.00, amortization gap 0.250, approximation gap {gap:.3f} nats; "
            f"ELBO below ln p(x): encoder {gap + 0.25:.3f}, best diagonal {gap:.3f}, best full −0.004"
        )


def test_regions_and_ellipses_hold_the_mass_that_they_say():
    arguments = gaussian_case()
    z1, z2, log_joint, full = (arguments[name] for name in ("z1", "z2", "log_joint", "full"))
    levels = regions(z1[0], z2[0], log_joint[0] - log_joint[0].max())
    assert -levels == pytest.approx(-np.log(1 - np.array(MASSES)), rel=0.05)  # of a Gaussian in two dimensions
    ax = Figure().subplots()
    plane(ax, z1[0], z2[0], log_joint[0], 3 * [(full.mean[0], full.covariance[0])])
    outline = ax.transData.inverted().transform(ax.patches[0].get_verts()) - full.mean[0]
    radius = np.linalg.norm(outline @ np.linalg.inv(np.linalg.cholesky(full.covariance[0])).T, axis=1)
    assert radius == pytest.approx(np.full(len(outline), RADIUS), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("z2", lambda a: a[:, ::-1], "z2 must increase"),
        ("log_joint", lambda a: a.swapaxes(1, 2), r"log_joint must have shape \(3, 61, 73\).*got \(3, 73, 61\)"),
        ("log_joint", lambda a: np.nan * a, "log_joint must be finite, got nan"),
        (
            "log_joint",
            lambda a: a - np.inf,
            "got -inf everywhere for image 0",
        ),
        ("log_joint", lambda a: np.roll(a, 25, 1), "z1 and z2 must hold the posterior, got .* 99% for image 0"),
        ("full.covariance", lambda a: 0 * a, "full.covariance must be positive definite, got eigenvalue 0"),
        ("full.elbo", lambda a: np.nan * a, "full.elbo must be finite, got nan for image 0"),
    ],
)
def test_bad_posteriors_are_named(name, change, message):
    arguments = gaussian_case()
    owner, _, field = name.partition(".")
    old = arguments[owner]
    new = old._replace(**{field: change(getattr(old, field).copy())}) if field else change(old.copy())
    with pytest.raises(ValueError, match=message):
        posteriors(**arguments | {owner: new})


LEVELS = np.array([0.03, 0.4, 9.0])
SPECTRUM = 8 * 0.6 ** np.arange(13)


def sweep(**changes):
    """Frames of a linear VAE; `changes` are to the last of them."""
    rng = np.random.default_rng(0)
    frames = []
    for level in LEVELS:
        kl, distortion = 0.5 * np.log(np.maximum(SPECTRUM / level, 1)), float(np.minimum(SPECTRUM, level).sum())
        images = rng.uniform(-0.2, 1.2, (3, 7, 11))
        frames.append(Frame(f"{level:.4g}", float(level), kl, distortion, int((SPECTRUM > level).sum()), images))
    frames[-1] = frames[-1]._replace(**{k: v for k, v in changes.items() if k in Frame._fields})
    arguments = {"frames": frames, "originals": rng.uniform(0, 1, (3, 7, 11)), "eigenvalues": rng.permutation(SPECTRUM)}
    arguments |= {"curve": np.array([[0.5, 9.0], [3.0, 2.0], [20.0, 0.0]]), "symbol": "β", "curve_name": "the curve"}
    return arguments | {k: v for k, v in changes.items() if k in arguments}


def test_numbers_are_those_of_the_frames():
    made = water_levels(**sweep())
    for said, frame in zip(made.text.splitlines(), sweep()["frames"], strict=True):
        rate = frame.kl.sum()
        assert said.startswith(f"β = {frame.label}: water level T ")
        assert f"rate {rate:.2f} nats, {rate / np.log(2):.2f} bits, distortion " in said
        assert said.endswith(f"active latents {frame.active} of 13")
    assert "water level" not in _said(sweep()["frames"][0], "T", "latents")  # it is the slider itself
    assert len(made.html) < 60_000
    assert ["the curve" in texts(drawing) for drawing in drawings(made.html)].count(True) == 3


def test_a_sweep_that_never_leaves_the_bottom_is_drawn():
    """Everything collapsed: rate 0 throughout, one latent, one image."""
    frames = [Frame(str(k), 2.0 + k, np.zeros(1), 3.0, 0, np.zeros((1, 2, 2))) for k in range(2)]
    curve, spectrum = np.array([[1.0, 0.7], [3.0, 0.0]]), np.array([1.0, 0.0])
    made = water_levels(frames, np.zeros((1, 2, 2)), spectrum, curve, symbol="T", curve_name="<u>")
    assert "rate 0.00 nats" in made.text
    assert any("<u>" in texts(drawing) for drawing in drawings(made.html))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"originals": np.zeros((7, 11))}, r"originals must have 3 axes .* got shape \(7, 11\)"),
        ({"originals": np.full((3, 7, 11), 2.0)}, r"originals must lie in \[0, 1\], got \[2, 2\]"),
        ({"curve": np.array([[3.0, 0.0], [1.0, 1.0]])}, "curve must be .* with distortion increasing"),
        ({"images": np.zeros((2, 7, 11))}, r"frames\[2\].images must have shape \(3, 7, 11\).*got \(2, 7, 11\)"),
        ({"kl": np.array([np.nan])}, r"frames\[2\].kl must be finite, got nan"),
        ({"level": 0.0}, r"frames\[2\].level must be above zero, got 0.0"),
    ],
)
def test_bad_frames_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        water_levels(**sweep(**changes))
