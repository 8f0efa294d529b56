import base64
import io
import re
from dataclasses import astuple

import numpy as np
import pytest
from PIL import Image
from tags import Tags, leave_each_other_alone

from measured.figures.chooser import Gaussians, posteriors
from measured.figures.chooser.plane import MASSES, RADIUS, panel

N, G1, G2 = 3, 61, 73


def case(n=N, **changes):
    """Correlated Gaussian posteriors, each with its own window; the best diagonal and full Gaussians are exact."""
    rng = np.random.default_rng(0)
    mean, sd, rho = rng.normal(size=(n, 2)), rng.uniform(0.1, 0.6, (n, 2)), rng.uniform(-0.7, 0.7, n)
    correlation = np.eye(2) + rho[:, None, None] * (1 - np.eye(2))
    covariance = sd[:, :, None] * correlation * sd[:, None, :]
    narrow = np.stack([np.diag(1 / np.diag(np.linalg.inv(c))) for c in covariance])
    span = [mean[:, j, None] + sd[:, j, None] * np.linspace(-6, 6, g) for j, g in ((0, G1), (1, G2))]
    z = np.stack(np.broadcast_arrays(span[0][:, :, None], span[1][:, None, :]), -1) - mean[:, None, None]
    log_joint = -0.5 * np.einsum("nabi,nij,nabj->nab", z, np.linalg.inv(covariance), z) - 17
    gap = -0.5 * np.log(1 - rho**2)
    log_p = np.linspace(-20, -18, n)
    arguments = {
        "images": rng.integers(0, 2, (n, 5, 7)).astype(float),
        "labels": [f"a {i}" for i in range(n)],
        "z1": span[0],
        "z2": span[1],
        "log_joint": log_joint,
        "log_p": log_p,
        "encoder": Gaussians(mean + 0.2, narrow, log_p - gap - 0.25),
        "diagonal": Gaussians(mean, narrow, log_p - gap),
        "full": Gaussians(mean, covariance, log_p),
    }
    return arguments | changes


def test_the_page_is_whole_and_needs_nothing_else():
    page = posteriors(**case()).html
    tags = Tags(page)
    assert not re.search(r"https?:|//|@import|url\(", re.sub(r"data:image/png;base64,[\w+/=]+", "", page))
    assert tags.all("script") == []
    assert {a["href"].partition(",")[0] for a in tags.all("image")} == {"data:image/png;base64"}
    assert len(page) < 60_000
    assert len(posteriors(**case(12)).html) < 200_000


def test_every_choice_is_a_form_element_with_a_name():
    tags = Tags(posteriors(**case()).html)
    radios = tags.all("input", type="radio")
    assert [a["value"] for a in radios] == ["0", "1", "2"]
    assert len({a["name"] for a in radios}) == 1
    assert ["checked" in a for a in radios] == [True, False, False]
    assert [a["value"] for a in tags.all("input", type="checkbox")] == ["encoder", "diagonal", "full"]
    assert all("data-lm-suppress-shortcuts" in a for a in tags.all("input"))  # JupyterLab leaves them their keys
    assert len(tags.all("label")) == len(tags.all("input")) == 6
    assert [t for t in tags.text if t in ("Image", "Gaussians")] == ["Image", "Gaussians"]  # the legends
    drawings = [a for a in tags.all("svg") if a.get("aria-hidden") != "true"]
    assert len(drawings) == N
    assert all(a["role"] == "img" and "amortization gap" in a["aria-label"] for a in drawings)
    assert all(a.get("aria-live") in (None, "polite") for _, a in tags.seen)


def test_two_figures_on_a_page_leave_each_other_alone():
    one, other = (posteriors(**case(n)).html for n in (3, 2))
    leave_each_other_alone(one, other)
    assert posteriors(**case()).html == one


def test_without_styles_every_image_is_there():
    tags = Tags(posteriors(**case()).html)
    assert [a["data-image"] for a in tags.all("div", **{"class": "panel"})] == ["0", "1", "2"]
    assert tags.all("img")[0]["src"].startswith("data:image/png;base64,")
    assert tags.all("img")[0]["alt"]
    assert not any("hidden" in a or a.get("style") == "display:none" for _, a in tags.seen)


def test_numbers_are_differences_of_what_was_given():
    arguments = case()
    shown = posteriors(**arguments)
    approximation = arguments["log_p"] - arguments["diagonal"].elbo
    text = "".join(Tags(shown.html).text)
    for i in range(N):
        line = f"a {i}: ln p(x) = −{20 - i:.2f}, amortization gap 0.250, approximation gap {approximation[i]:.3f} nats"
        assert shown.text.splitlines()[i] == line
        assert line in shown.html
        assert f"approximation gap {approximation[i]:.3f}" in text
        assert f"encoder{approximation[i] + 0.25:.3f}" in text


def test_a_negative_gap_is_printed_and_has_no_bar():
    arguments = case()
    arguments["full"] = arguments["full"]._replace(elbo=arguments["log_p"] + 0.004)
    page = posteriors(**arguments).html
    assert "−0.004" in page
    assert "width:0.0%" in page
    assert "width:-" not in page


def test_regions_and_ellipses_hold_the_mass_that_they_say():
    arguments = case(1)
    mean, covariance = arguments["full"].mean[0], arguments["full"].covariance[0]
    found = panel(arguments["z1"][0], arguments["z2"][0], arguments["log_joint"][0], [(mean, covariance)])
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))
    for share, (ring,) in zip(MASSES, found.regions, strict=True):
        radius = np.linalg.norm((ring - mean) @ whiten.T, axis=1)
        assert radius == pytest.approx(np.full(len(ring), (-2 * np.log(1 - share)) ** 0.5), rel=0.03)
    assert np.linalg.norm((found.ellipses[0] - mean) @ whiten.T, axis=1) == pytest.approx(np.full(73, RADIUS))
    for ring in (*found.regions[0], *found.ellipses):
        assert (np.abs(ring - found.centre) < found.half).all()


def test_two_modes_and_a_density_of_zero_are_drawn():
    z = np.linspace(-3, 3, 101)
    with np.errstate(divide="ignore"):
        log_joint = np.log(np.exp(-20 * (np.abs(z)[:, None] - 2) ** 2 - 20 * z**2) * (z[:, None] > -2.9))
    found = panel(z, z, log_joint, [(np.zeros(2), np.eye(2))])
    assert [len(rings) for rings in found.regions] == [2, 2, 2]
    assert {np.sign(ring[0, 0]) for ring in found.regions[0]} == {-1.0, 1.0}


def test_the_picture_stands_in():
    bundle = posteriors(**case(12))._repr_mimebundle_()
    assert list(bundle) == ["text/html", "image/png", "text/plain"]
    data = base64.b64decode(bundle["image/png"])
    assert len(data) < 100_000
    width, height = Image.open(io.BytesIO(data)).size
    assert 600 < width < 1200
    assert 400 < height < 1200
    assert len(bundle["text/plain"].splitlines()) == 12


def test_nothing_is_kept_and_nothing_changed():
    arguments = case()
    before = {k: [np.copy(a) for a in (v if isinstance(v, Gaussians) else [v])] for k, v in arguments.items()}
    assert astuple(posteriors(**arguments)) == astuple(posteriors(**arguments))
    for name, arrays in before.items():
        after = arguments[name] if isinstance(arguments[name], Gaussians) else [arguments[name]]
        assert all(np.array_equal(a, b) for a, b in zip(arrays, after, strict=True))


def test_labels_are_text():
    page = posteriors(**case(labels=["<i>&", '"', "c"])).html
    assert "&lt;i&gt;&amp;" in page
    assert "<i>&" not in page
    Tags(page)


def spoilt(name, change):
    owner, _, field = name.partition(".")
    arguments = case()
    old = arguments[owner]
    if field:
        return arguments | {owner: old._replace(**{field: change(getattr(old, field).copy())})}
    return arguments | {owner: change(list(old) if owner == "labels" else old.copy())}


def put(index, value):
    def change(array):
        array[index] = value
        return array

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("images", lambda a: a[0], r"images must have shape \(n, H, W\).*got \(5, 7\)"),
        ("images", lambda a: np.repeat(a, 5, 0), r"n from 1 to 12, got \(15, 5, 7\)"),
        ("images", lambda a: 255 * a, r"images must lie in \[0, 1\], got \[0, 255\]"),
        ("labels", lambda a: a[:2], "labels must be 3, one for each image, got 2"),
        ("z1", lambda a: a[:2], r"z1 must have shape \(3, 61\) for 3 images, got \(2, 61\)"),
        ("z2", lambda a: a[:, ::-1], "z2 must increase"),
        ("log_joint", lambda a: a.swapaxes(1, 2), r"log_joint must have shape \(3, 61, 73\).*got \(3, 73, 61\)"),
        ("log_joint", put((1, 2, 3), np.nan), "log_joint must be finite, got nan for image 1"),
        ("log_joint", put(2, -np.inf), "log_joint must be above -inf somewhere, got -inf everywhere for image 2"),
        ("log_joint", lambda a: np.roll(a, 25, 1), "z1 and z2 must hold the posterior, got .* 99% for image 0"),
        ("log_p", put(2, np.inf), "log_p must be finite, got inf for image 2"),
        ("encoder.mean", lambda a: a[:, :1], r"encoder.mean must have shape \(3, 2\)"),
        ("diagonal.covariance", lambda a: a[:, 0], r"diagonal.covariance must have shape \(3, 2, 2\).*got \(3, 2\)"),
        ("full.covariance", put(1, np.zeros((2, 2))), "full.covariance must be positive definite, got .* for image 1"),
        ("full.elbo", put(0, np.nan), "full.elbo must be finite, got nan for image 0"),
    ],
)
def test_bad_input_is_named(name, change, message):
    with pytest.raises(ValueError, match=message):
        posteriors(**spoilt(name, change))
