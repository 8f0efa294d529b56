"""Tables as Markdown, for the extensions that show recorded numbers."""

from collections.abc import Iterator


def list_table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield from (":::{list-table}", ":header-rows: 1")
    for row in [head, *rows]:
        yield from (f"{'* -' if i == 0 else '  -'} {cell}" for i, cell in enumerate(row))
    yield ":::"
