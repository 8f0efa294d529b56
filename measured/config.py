"""The declaration of a notebook's parameters: a type and a bound for each, checked before any work starts.

class Config(measured.Config):
    dataset: DatasetName
    betas: list[Positive]
    device: Device

config = Config.load(globals())
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Self, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FilePath,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

__all__ = [
    "Config",
    "Content",
    "Count",
    "File",
    "Index",
    "NonNegative",
    "Positive",
    "Several",
    "ascending",
    "descending",
    "nearest",
]


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: what it probably meant, then what there is."""
    known = list(known)
    near = get_close_matches(str(name), known, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"known: {', '.join(known) or 'none'}"


Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Several = Annotated[int, Field(ge=2)]  # such as seeds that give an error bar
Index = Annotated[int, Field(ge=0)]


def ascending(least: int = 2) -> AfterValidator:
    """For `Annotated[tuple[Positive, ...], ascending(5)]`: at least so many numbers, each above the one before."""

    def check(values: tuple[float, ...]) -> tuple[float, ...]:
        if len(values) < least or sorted(set(values)) != list(values):
            raise ValueError(f"must be {least} or more, each above the one before; sort them, and list none twice")
        return values

    return AfterValidator(check)


def descending(least: int = 2) -> AfterValidator:
    """As `ascending`, each below the one before."""

    def check(values: tuple[float, ...]) -> tuple[float, ...]:
        if len(values) < least or sorted(set(values), reverse=True) != list(values):
            raise ValueError(f"must be {least} or more, each below the one before; sort them, and list none twice")
        return values

    return AfterValidator(check)


class Content:
    """Marks a type whose values name data: `digest_of(value)` is a hash of what they hold, which a record's key takes
    in.

    dataset: Annotated[str, Content(declared_digest)]
    """

    def __init__(self, digest_of: Callable[[Any], str]) -> None:
        self.content_digest = digest_of


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


File = Annotated[FilePath, Content(_sha256)]  # an existing file, whose content counts


class _Bool:
    """Stands in for True or False where a field takes none, because Python counts them as 1 and 0."""

    def __init__(self, value: bool) -> None:
        self.value = value

    def __repr__(self) -> str:
        return repr(self.value)


def _without_bools(value: Any) -> Any:
    if isinstance(value, bool):
        return _Bool(value)
    if isinstance(value, list | tuple):
        return [_without_bools(v) for v in value]
    if isinstance(value, dict):
        return {k: _without_bools(v) for k, v in value.items()}
    return value


def _mentions_bool(annotation: Any) -> bool:
    return annotation is bool or any(_mentions_bool(inner) for inner in get_args(annotation))


class Config(BaseModel):
    """Base of the notebooks' parameter declarations: frozen, without defaults, unknown names forbidden. Numbers
    are finite, may be given as text (YAML reads `1e-3` as text), and are never True or False."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    NOT_IN_KEY: ClassVar[frozenset[str]] = frozenset({"device"})  # names that cannot change a result

    _unfinished: Path | None = PrivateAttr(default=None)

    @field_validator("*", mode="before")
    @classmethod
    def _bool_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        return value if _mentions_bool(annotation) else _without_bools(value)

    @classmethod
    def load(cls, namespace: Mapping[str, Any]) -> Self:
        """The fields by name from a notebook's `globals()`. Other variables are left alone, but a name that
        papermill injected must be a field. ValueError: one line for each problem there is."""
        fields = cls.model_fields
        problems = [
            f"unknown parameter {name!r}; {nearest(name, fields)}"
            for name in _injected(namespace.get("In", ()))
            if name not in fields
        ]
        try:
            config = cls(**{name: namespace[name] for name in fields if name in namespace})
        except ValidationError as error:
            problems += [_line(dict(e)) for e in error.errors(include_url=False)]
        if problems:
            raise ValueError("\n".join(problems))
        return config

    def at_most(self, among: str, **limits: float) -> Self:
        """These parameters if each named one is at most its limit, the largest of it where it has several numbers.
        ValueError naming the first that is not; `among` says of what, as in "for digits"."""
        for name, limit in limits.items():
            value = getattr(self, name)
            largest = max(value) if isinstance(value, tuple | list) else value
            if largest > limit:
                raise ValueError(f"{name} must be at most {limit} {among}, got {value}; lower it")
        return self

    def parameters(self) -> dict[str, Any]:
        """Every field, as JSON has it."""
        return self.model_dump(mode="json")

    def data_digests(self) -> dict[str, str]:
        """The digest of what each field names whose type is marked with `Content`, by the field's name; one for each
        that a list names."""
        return {where: mark.content_digest(value) for where, mark, value in self._contents()}

    def _contents(self) -> Iterator[tuple[str, Content, Any]]:
        for name, field in type(self).model_fields.items():
            yield from _marked(name, field.annotation, field.metadata, getattr(self, name))

    def keeping_in(self, folder: Path) -> Self:
        """These parameters, with a place for the unfinished work of the computation that gets them."""
        copy = self.model_copy()
        copy._unfinished = folder
        return copy

    def unfinished(self, name: str) -> Path | None:
        """Where a long piece of work of that name may keep what it has so far: within the computation of a record a
        folder that is the same when a stopped run is started again, elsewhere None. Names are unique within a part."""
        return self._unfinished / name if self._unfinished else None

    def key_parameters(self) -> dict[str, Any]:
        """The fields that can change a result: all but `NOT_IN_KEY` and the places of files, whose content counts."""
        files = {where.partition("[")[0] for where, _, value in self._contents() if isinstance(value, Path)}
        return {name: value for name, value in self.parameters().items() if name not in self.NOT_IN_KEY | files}


def _marked(where: str, annotation: Any, metadata: Iterable[Any], value: Any) -> Iterator[tuple[str, Content, Any]]:
    """The values within `value` whose type is marked with `Content`: `where`, mark, value."""
    if value is None:
        return
    yield from ((where, mark, value) for mark in metadata if hasattr(mark, "content_digest"))
    inner = get_args(annotation)
    if get_origin(annotation) is Annotated:
        yield from _marked(where, inner[0], inner[1:], value)
    elif get_origin(annotation) in (Union, UnionType):
        kinds = [get_args(one)[0] if get_origin(one) is Annotated else one for one in inner]
        for one, kind in zip(inner, kinds, strict=True):
            if not isinstance(kind, type) or isinstance(value, kind):
                yield from _marked(where, one, (), value)
    elif isinstance(value, list | tuple | dict) and inner:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for i, (key, item) in enumerate(items):
            one = inner[i] if isinstance(value, tuple) and Ellipsis not in inner else inner[isinstance(value, dict)]
            yield from _marked(f"{where}[{key}]", one, (), item)


def _injected(sources: Iterable[str]) -> list[str]:
    """Names set by the last executed cell that begins with "# Parameters", the mark of papermill's own. The
    last one, because a typo corrected in JupyterLab stays in the history of executed cells."""
    marked = [source for source in sources if source.startswith("# Parameters")]
    if not marked:
        return []
    targets = [t for node in ast.parse(marked[-1]).body if isinstance(node, ast.Assign) for t in node.targets]
    return [t.id for t in targets if isinstance(t, ast.Name)]


_REMEDY = {
    "missing": 'set it in the cell tagged "parameters"',
    "float": "write a number such as 0.001",
    "finite": "write a finite number",
    "int": "write a whole number such as 3",
    "bool": "write True or False",
    "string": "write text in quotes",
    "list": "write a list such as [1, 2]",
    "tuple": "write a list such as [1, 2]",
    "path": "give the path of a file that is there",
}


def _line(error: dict[str, Any]) -> str:
    """One problem as `betas[1] must be greater than 0, got -1.0; ...`."""
    where = "".join(f"[{at}]" if isinstance(at, int) else f".{at}" for at in error["loc"]).lstrip(".")
    kind, message = error["type"], error["msg"].removeprefix("Value error, ")
    if kind == "missing":
        return f"{where} is missing; {_REMEDY['missing']}"
    if kind == "value_error" and not message.startswith("must "):  # a validator's own sentence
        return message if not where or message.startswith(where) else f"{where}: {message}"
    must, _, remedy = message.partition("; ")
    must = re.sub(r"^\w+ should |^Path does not (?=point)", "must ", must)
    must = re.sub(r", (unable|got).*| after validation.*", "", must)
    if not remedy:
        name = error["loc"][0]
        remedy = _REMEDY.get(kind.partition("_")[0], f"change {name} in the parameters or with -p {name}=VALUE")
    given = repr(error["input"])
    return f"{where} {must}, got {given if len(given) <= 80 else given[:77] + '...'}; {remedy}"
