"""HTML as the tests read it."""

import re
from html.parser import HTMLParser

VOID = {"input", "img", "image", "path", "rect", "circle", "br"}


class Tags(HTMLParser):
    """Refuses tags that do not nest, and keeps what it saw."""

    def __init__(self, page):
        super().__init__()
        self.open, self.seen, self.text = [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), f"{tag} has an attribute twice"
        self.seen.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    def all(self, tag, **wanted):
        return [a for t, a in self.seen if t == tag and all(a.get(k) == v for k, v in wanted.items())]


def leave_each_other_alone(one, other):
    """Asserts that two figures' pages have names of their own, and styles that reach nothing else."""
    names = [Tags(page).all("div", role="figure")[0]["id"] for page in (one, other)]
    assert names[0] != names[1]
    for page, name in zip((one, other), names, strict=True):
        style = page.partition("<style>")[2].partition("</style>")[0]
        for selector in re.findall(r"([^{}]+)\{", style):
            assert all(part.strip().startswith((f"#{name}", "@media")) for part in selector.split(","))
