"""The declaration of a notebook's parameters: a type and a bound for each, checked before any work starts.

class Config(vae.Config):
    dataset: DatasetName
    betas: list[Positive]
    device: Device

config = Config.load(globals())
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

if TYPE_CHECKING:
    import torch

__all__ = ["Config", "Count", "Device", "Index", "NonNegative", "Positive", "nearest", "resolve_device"]

DeviceName = Literal["auto", "cpu", "cuda", "mps"]


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: what it probably meant, then what there is."""
    known = list(known)
    near = get_close_matches(str(name), known, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"known: {', '.join(known) or 'none'}"


def resolve_device(name: str) -> torch.device:
    """The device meant by `name`: "auto" is CUDA where there is one, else the CPU; never MPS, which lacks
    float64, unless it is asked for. ValueError: unknown name, or hardware that is not there."""
    import torch  # here, because listing experiments needs no torch

    if name not in get_args(DeviceName):
        raise ValueError(f"device {name!r} is unknown; {nearest(name, get_args(DeviceName))}")
    cuda = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "cpu")
    if name == "cuda" and not cuda or name == "mps" and not torch.backends.mps.is_available():
        raise ValueError(
            f"device {name!r} is absent: PyTorch {torch.__version__} sees none on this machine; "
            "use 'auto' or 'cpu', or install a build of PyTorch that supports it"
        )
    return torch.device(name)


def _available(name: str) -> str:
    resolve_device(name)
    return name


Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Device = Annotated[DeviceName, AfterValidator(_available)]


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

    def parameters(self) -> dict[str, Any]:
        """Every field, as JSON has it."""
        return self.model_dump(mode="json")

    def key_parameters(self) -> dict[str, Any]:
        """The fields that can change a result: all but `NOT_IN_KEY`."""
        return {name: value for name, value in self.parameters().items() if name not in self.NOT_IN_KEY}


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
    must = re.sub(r"^\w+ should ", "must ", must)
    must = re.sub(r", (unable|got).*| after validation.*", "", must)
    if not remedy:
        name = error["loc"][0]
        remedy = _REMEDY.get(kind.partition("_")[0], f"change {name} in the parameters or with -p {name}=VALUE")
    given = repr(error["input"])
    return f"{where} {must}, got {given if len(given) <= 80 else given[:77] + '...'}; {remedy}"
