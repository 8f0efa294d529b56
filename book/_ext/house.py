"""`{house} picture | rooms | way`: the page *The house*, drawn from what the packages import.

A room is a module or a folder of a package. It stands one floor above the highest room that it imports from.
"""

import ast
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from measured.project import project

Imports = Mapping[str, set[str]]  # room -> rooms of the same package

PACKAGES = ("measured", "vae")  # from top to bottom
WIDTH, LETTER = 380, 7.3  # of the picture and of a letter, in units of about a pixel
BOX, FLOOR, PAD = 28, 58, 12  # heights of a box and of a floor; the space around a package
WAY = (  # what a number goes through, and where that is defined
    ("parameters", "the first cell of a notebook", ""),
    ("Config", "every value checked", "measured.config:Config"),
    ("Dataset", "verified, known by its digest", "vae.data.images:Dataset"),
    ("Ensemble", "all members of a sweep", "vae.models.ensemble:Ensemble"),
    ("train", "one loop for all of them", "vae.train.trainer:train"),
    ("diagnostics", "numbers for each datum", "vae.diagnostics"),
    ("table", "a row for each number", "measured.tables:Table"),
    ("record", "on disk, found by its key", "measured.record.store:Record"),
    ("Measured", "value, error, n, unit", "measured.quantity:Measured"),
    ("figure, verdict", "drawn, judged by a limit", "measured.quantity:Verdict"),
    ("page", "text, outputs, downloads", ""),
)


# The rooms, from the code


def room_of(file: Path, package: Path) -> str:
    return file.relative_to(package).parts[0].removesuffix(".py")


def imports(package: Path) -> dict[str, set[str]]:
    """Every room of a package, and the rooms that its files import from, wherever in a file."""
    files = [file for file in sorted(package.rglob("*.py")) if file.parent != package or file.stem[:2] != "__"]
    found: dict[str, set[str]] = {room_of(file, package): set() for file in files}
    for file in files:
        here = room_of(file, package)
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                paths = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                paths = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            rooms = {path.split(".")[1] for path in paths if path.startswith(f"{package.name}.")}
            found[here] |= rooms & found.keys() - {here}
    return found


def reachable(graph: Imports, room: str) -> set[str]:
    return set().union(*({below} | reachable(graph, below) for below in graph[room]))


def arrows(graph: Imports) -> dict[str, set[str]]:
    """The imports that do not follow from others: who imports what imports noise need not be seen to import noise."""
    return {
        room: {one for one in below if not any(one in reachable(graph, other) for other in below)}
        for room, below in graph.items()
    }


def floors(graph: Imports) -> list[list[str]]:
    """The rooms from the ground up; within a floor, near what they stand on. CycleError: a circle of imports."""
    height: dict[str, int] = {}
    for room in TopologicalSorter(graph).static_order():
        height[room] = max((height[below] + 1 for below in graph[room]), default=0)
    storeys = [sorted(room for room in graph if height[room] == level) for level in range(max(height.values()) + 1)]
    drawn, place = arrows(graph), {}
    above = {room: [up for up, below in drawn.items() if room in below] for room in graph}
    for _ in range(4):  # the barycentres settle soon
        for storey in storeys:
            for i, room in enumerate(storey):
                place[room] = (i + 0.5) / len(storey)
        for storey in storeys:
            near = {room: [place[other] for other in (*drawn[room], *above[room])] or [place[room]] for room in storey}
            storey.sort(key=lambda room: (sum(near[room]) / len(near[room]), room))
    return storeys


def sentence(package: Path, room: str) -> str:
    """What a room says of itself, in the first paragraph of its docstring."""
    file = package / room / "__init__.py" if (package / room).is_dir() else package / f"{room}.py"
    return " ".join((ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").split("\n\n")[0].split())


# The picture


class Box(NamedTuple):
    name: str
    x: float  # of its centre
    y: float  # of its upper edge
    width: float


def svg(name: str, height: float, title: str, description: str, body: str) -> str:
    return (
        f'<figure class="house"><svg viewBox="0 0 {WIDTH} {height:g}" role="img" '
        f'aria-labelledby="{name}-title {name}-text"><title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-text">{escape(description)}</desc><defs><marker id="{name}-tip" viewBox="0 0 8 8" '
        'refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>'
        f"{body}</svg></figure>"
    )


def drawn_box(box: Box, kind: str = "room") -> str:
    left = box.x - box.width / 2
    return (
        f'<rect class="{kind}" data-name="{box.name}" x="{left:g}" y="{box.y:g}" width="{box.width:g}" '
        f'height="{BOX}" rx="5"/><text x="{box.x:g}" y="{box.y + BOX / 2:g}">{escape(box.name)}</text>'
    )


def arrow(name: str, start: tuple[float, float], end: tuple[float, float], label: str) -> str:
    (x, y), (to_x, to_y) = start, end
    bend = (to_y - y) / 2
    return (
        f'<path class="arrow" {label} marker-end="url(#{name}-tip)" '
        f'd="M{x:g} {y:g}C{x:g} {y + bend:g} {to_x:g} {to_y - bend:g} {to_x:g} {to_y:g}"/>'
    )


def placed(graph: Imports, top: float) -> tuple[dict[str, Box], float]:
    """The boxes of a package whose frame begins at `top`, and where the frame ends."""
    storeys = floors(graph)[::-1]
    boxes = {}
    for level, storey in enumerate(storeys):
        widths = [len(room) * LETTER + 14 for room in storey]
        gap = (WIDTH - 2 * PAD - sum(widths)) / (len(storey) + 1)
        x = PAD + gap
        for room, width in zip(storey, widths, strict=True):
            boxes[room] = Box(room, x + width / 2, top + 30 + level * FLOOR, width)
            x += width + gap
    return boxes, top + 30 + (len(storeys) - 1) * FLOOR + BOX + PAD


def picture(root: Path) -> str:
    """Both packages, their rooms on floors, the notebooks above them."""
    body, said, y = [], [], 1.0
    roof = Box("notebooks", WIDTH / 2, y, WIDTH - 2 * PAD)
    body.append(drawn_box(roof, "roof"))
    y = roof.y + BOX + 26
    for package in PACKAGES:
        graph = imports(root / package)
        boxes, bottom = placed(graph, y)
        body.append(f'<rect class="frame" x="1" y="{y:g}" width="{WIDTH - 2}" height="{bottom - y:g}" rx="8"/>')
        body.append(f'<text class="package" x="{PAD}" y="{y + 14:g}">{package}/</text>')
        start = (WIDTH / 2, roof.y + BOX) if package == PACKAGES[0] else None
        if start:
            body.append(arrow("house", start, (WIDTH / 2, y), f'data-from="notebooks" data-to="{package}"'))
        else:  # past the package in between, along the edge
            edge = WIDTH - 5
            body.append(
                f'<path class="arrow" data-from="notebooks" data-to="{package}" marker-end="url(#house-tip)" '
                f'd="M{edge - 8} {roof.y + BOX}V{y:g}"/>'
            )
        for room, below in arrows(graph).items():
            for i, one in enumerate(sorted(below, key=lambda one: boxes[one].x), 1):
                up, down = boxes[room], boxes[one]
                start_x = up.x - up.width / 2 + up.width * i / (len(below) + 1)
                label = f'data-from="{package}.{room}" data-to="{package}.{one}"'
                body.append(arrow("house", (start_x, up.y + BOX), (down.x, down.y), label))
        body += [drawn_box(box) for box in boxes.values()]
        said += [f"{package}.{room} imports {', '.join(sorted(below))}." for room, below in graph.items() if below]
        said += [f"{package}.{room} imports no other." for room, below in graph.items() if not below]
        y = bottom + 18
    text = "Notebooks import from both packages, and these not from each other. " + " ".join(said)
    return svg("house", y - 17, "The rooms of both packages, and what imports what", text, "".join(body))


def way() -> str:
    """The way of a number, from parameters to page."""
    body, step = [], BOX + 18
    for i, (name, note, _) in enumerate(WAY):
        box = Box(name, 76, 1 + i * step, 136)
        body.append(drawn_box(box))
        body.append(f'<text class="note" x="158" y="{box.y + BOX / 2:g}">{escape(note)}</text>')
        if i:
            body.append(arrow("way", (76, box.y - 18), (76, box.y), ""))
    text = "From top to bottom: " + "; ".join(f"{name}: {note}" for name, note, _ in WAY) + "."
    return svg("way", len(WAY) * step - 16, "What a number goes through", text, "".join(body))


def rooms(root: Path) -> Iterator[str]:
    """Every room with what it says of itself and what it imports."""
    for package in PACKAGES:
        graph = imports(root / package)
        yield from ("", f"From the top of `{package}/` down:", "")
        for room in [room for storey in reversed(floors(graph)) for room in sorted(storey)]:
            folder = "/" if (root / package / room).is_dir() else ".py"
            below = f" Imports {', '.join(sorted(graph[room]))}." if graph[room] else ""
            yield f"- `{room}{folder}`: {sentence(root / package, room)}{below}"


class House(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()  # the packages lie outside this tree
        root, what = project().root, self.arguments[0]
        if what == "rooms":
            box = nodes.container(classes=["rooms"])
            self.state.nested_parse(StringList(list(rooms(root)), "house"), 0, box)
            return [box]
        return [nodes.raw("", {"picture": lambda: picture(root), "way": way}[what](), format="html")]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("house", House)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
