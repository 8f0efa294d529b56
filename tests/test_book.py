"""The built book (`make book` first): whole, linked, and readable on a phone with the network cut."""

import csv
import functools
import http.server
import json
import re
import shutil
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from sphinx_external_toc.parsing import parse_toc_yaml

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "quick" / "html"
PAGES = list(parse_toc_yaml(ROOT / "_toc.yml"))
NOTEBOOKS = [page for page in PAGES if page.startswith("notebooks/")]
READINGS = [page for page in PAGES if page not in NOTEBOOKS and (ROOT / f"{page}.ipynb").exists()]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LEFT = "net::ERR_ABORTED"  # the browser went on to the next page: no fault of this one
PHONE = {"width": 390, "height": 844}
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
LOOK = """async () => {
    if (window.MathJax) await MathJax.startup.promise;
    const all = selector => [...document.querySelectorAll(selector)];
    const box = element => element.getBoundingClientRect();
    const apart = (a, b) => a.right <= b.left + 1 || b.right <= a.left + 1
        || a.bottom <= b.top + 1 || b.bottom <= a.top + 1;
    return {
        formulas: all('.math').length,
        typeset: all('.math mjx-container').length,
        errors: all('mjx-merror, [data-mjx-error]').map(e => e.textContent),
        raw: all('nav, h1, h2, h3, p, td').filter(e => /\\\\[([]/.test(e.innerText)).map(e => e.innerText.slice(0, 80)),
        width: document.documentElement.scrollWidth,
        covered: all('div.math > .eqno').filter(e => {
            const formula = e.parentElement.querySelector('mjx-container');
            return formula && !apart(box(e), box(formula));
        }).map(e => e.innerText),
        broken: all('img').filter(i => i.complete && !i.naturalWidth).map(i => i.src),
    };
}"""

pytestmark = pytest.mark.skipif(not (HTML / "index.html").exists(), reason="no book is built: make book")


@functools.cache
def soup(file):
    return BeautifulSoup(file.read_text("utf-8"), "html.parser")


def files():
    return sorted(HTML.rglob("*.html"))


@pytest.mark.parametrize("page", PAGES)
def test_every_page_of_the_contents_exists(page):
    assert soup(HTML / f"{page}.html").h1


def test_the_front_page_is_where_the_build_says():
    target = soup(HTML / "index.html").find("meta", {"http-equiv": "refresh"})["content"].split("url=")[1]
    assert target == f"{PAGES[0]}.html"


def test_nothing_is_loaded_from_elsewhere():
    external = re.compile(r"^\s*(https?:)?//")
    for file in files():
        for tag in soup(file).find_all(["script", "img", "iframe", "source", "link"]):
            if tag.name != "link" or {"stylesheet", "icon", "preload"} & set(tag.get("rel", [])):
                assert not external.match(tag.get("src") or tag.get("href") or ""), f"{file.name}: {tag}"
        assert "unpkg.com" not in file.read_text("utf-8")
    for file in HTML.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", file.read_text("utf-8")), file


@functools.cache
def anchors(file):
    """Every id and name in a page, looked for once: thousands of links point into the longest of them."""
    return {tag.get(key) for key in ("id", "name") for tag in soup(file).find_all(attrs={key: True})}


def test_internal_links_and_anchors_resolve():
    broken = []
    for file in files():
        for tag in soup(file).find_all("a", href=True):
            link = urlsplit(tag["href"])
            if link.scheme or link.netloc:
                continue
            target = (file.parent / unquote(link.path)).resolve() if link.path else file
            if not target.is_file():
                broken.append(f"{file.relative_to(HTML)}: {tag['href']}")
            elif link.fragment and target.suffix == ".html":
                if unquote(link.fragment) not in anchors(target):
                    broken.append(f"{file.relative_to(HTML)}: {tag['href']}")
    assert not broken


@pytest.mark.parametrize("page", NOTEBOOKS)
def test_a_notebooks_page_says_how_it_was_run(page):
    file = HTML / f"{page}.html"
    banner = soup(file).find(class_="run-banner")
    assert "How this page was run" in banner.text
    assert "NOT RECORDED" not in banner.text or not (ROOT / ".git").exists()  # only git knows the commit
    links = {Path(a["href"]).suffix: file.parent / a["href"] for a in banner.find_all("a")}
    notebook = json.loads(links[".ipynb"].read_text("utf-8"))
    assert any(cell.get("outputs") for cell in notebook["cells"])
    with links[".csv"].open(newline="", encoding="utf-8") as table:
        assert len(list(csv.DictReader(table))) > 0


@pytest.mark.parametrize("page", [page for page in PAGES if page not in NOTEBOOKS])
def test_prose_has_no_banner(page):
    assert not soup(HTML / f"{page}.html").find(class_="run-banner")


@pytest.mark.parametrize("page", READINGS)
def test_what_the_records_say_is_shown_and_the_code_folded(page):
    main = soup(HTML / f"{page}.html").main
    cells = [
        cell for cell in json.loads((ROOT / f"{page}.ipynb").read_text("utf-8"))["cells"] if cell["cell_type"] == "code"
    ]
    assert len(main.select(".cell.tag_hide-input")) == len(cells)
    assert len(main.select(".cell_output table")) >= 2
    assert len(main.select(".cell_output img[alt]")) == sum("mystnb" in cell["metadata"] for cell in cells)


def test_the_house_has_a_picture_with_a_text():
    pictures = soup(HTML / "book" / "house.html").select("figure.house svg")
    assert len(pictures) == 2
    assert all(len(picture.desc.text) > 100 for picture in pictures)


def test_the_scoreboard_shows_every_claim_and_leads_to_its_evidence():
    from measured import claims

    rows = soup(HTML / f"{PAGES[0]}.html").select("table.scoreboard tbody tr")
    assert len(rows) == len(claims.ledger(ROOT))
    for row in rows:
        assert row.find("a", string="Evidence")["href"].endswith("#verdicts")
        assert row.find(class_="verdict")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=HTML)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def seen(address):
    """What a phone's browser without a network sees of each page: one visit each, the judgement is the tests'."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    found = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = browser.new_page(viewport=PHONE)
        log = []
        tab.on("request", lambda request: log.append(("request", request.url)))
        tab.on("requestfailed", lambda r: log.append(("failed", r.url)) if r.failure != LEFT else None)
        tab.on("response", lambda reply: log.append(("failed", reply.url)) if reply.status >= 400 else None)
        tab.on("pageerror", lambda error: log.append(("console", str(error))))
        tab.on("console", lambda line: log.append(("console", line.text)) if line.type == "error" else None)
        for page in [*PAGES, "search", "genindex"]:
            log.clear()
            tab.goto(f"{address}/{page}.html", wait_until="load")
            found[page] = tab.evaluate(LOOK) | {"log": list(log)}
        browser.close()
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_formula_is_typeset(seen, page):
    assert seen[page]["typeset"] == seen[page]["formulas"]
    assert seen[page]["errors"] == []
    assert seen[page]["raw"] == []


def test_the_book_has_formulas(seen):
    assert sum(page["typeset"] for page in seen.values()) > 0


@pytest.mark.parametrize("page", [*PAGES, "search", "genindex"])
def test_no_request_leaves_and_the_console_is_clean(seen, address, page):
    assert [entry for entry in seen[page]["log"] if entry[0] != "request"] == []
    elsewhere = [url for _, url in seen[page]["log"] if not url.startswith((address, "data:", "blob:"))]
    assert elsewhere == []
    assert seen[page]["broken"] == []


@pytest.mark.parametrize("page", [*PAGES, "search", "genindex"])
def test_a_page_fits_a_phone(seen, page):
    assert seen[page]["width"] <= PHONE["width"]
    assert seen[page]["covered"] == []
