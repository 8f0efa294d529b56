"""Many models of one shape as one: parameters stacked over a leading member axis E, any function mapped over them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from vae.check import Numbers, tensor

Member = Mapping[str, Any]  # one model's declaration: {"seed": 0, "beta": 4.0, ...}


@dataclass(frozen=True)
class Ensemble:
    """E models: `params` and `buffers` map names to (E, ...) tensors; `members` declares each one; `model` is
    the bare form.
    """

    model: nn.Module
    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    members: tuple[Member, ...]

    def __len__(self) -> int:
        return len(self.members)

    def map(self, f: Callable[..., Any], *args: Any, in_dims: Sequence[int | None] | None = None) -> Any:
        """f(model, *args) of every member, as one vectorised call; results gain a leading E.

        `f` is a pure function of a model. `in_dims` says per argument which axis runs over members; None (the
        default) gives all members the same argument. Without autograd unless the parameters ask for it.
        """
        dims = tuple(in_dims) if in_dims is not None else (None,) * len(args)
        if len(dims) != len(args):
            raise ValueError(
                f"in_dims must have one entry per argument, got {len(dims)} for {len(args)}; add the missing"
            )

        def one(params: dict[str, Tensor], buffers: dict[str, Tensor], *rest: Any) -> Any:
            return functional_call(self.model, (params, buffers), (f, *rest))

        return torch.vmap(one, in_dims=(0, 0, *dims))(self.params, self.buffers, *args)

    def map_rows(self, f: Callable[..., dict[str, Tensor]], *rows: Numbers, chunk: int = 128) -> dict[str, Tensor]:
        """f(model, *rows) of every member over data of any length: (E, N, ...) for each of f's named results (n, ...),
        on the CPU in float64.

        `rows` are tensors or arrays (N, ...) that belong together, wherever they are; numbers are taken in the
        parameters' dtype. They go through in chunks of `chunk`, which bounds the memory and changes nothing else: f
        treats rows one by one. No autograd. ValueError: PyTorch was told to use TF32, which is too coarse for a score
        in nats.
        """
        device, dtype = self.device, self.dtype
        precision = torch.get_float32_matmul_precision()
        if device.type == "cuda" and dtype == torch.float32 and precision != "highest":
            raise ValueError(
                f"float32 matrix products must have the precision 'highest', got {precision!r}; "
                "call torch.set_float32_matmul_precision('highest') before scoring"
            )
        parts = zip(*(tensor("rows", row).split(chunk) for row in rows), strict=True)
        results: list[dict[str, Tensor]] = []
        with torch.no_grad():
            for part in parts:
                there = (row.to(device, dtype if row.is_floating_point() else None) for row in part)
                results.append({name: value.cpu() for name, value in self.map(f, *there).items()})
        return {name: torch.cat([result[name] for result in results], dim=1).double() for name in results[0]}

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(iter(self.params.values())).device

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' dtype."""
        return next(iter(self.params.values())).dtype

    def declared(self, members: Sequence[Member]) -> Ensemble:
        """The same models with other declarations. ValueError: another number of them."""
        if len(members) != len(self):
            raise ValueError(f"members must be {len(self)}, one for each model, got {len(members)}")
        return replace(self, members=tuple(members))

    def latent_dim(self, x: Numbers, name: str = "x") -> int:
        """Z, the latents of models with an encoder, as it says of data x (N, X). ValueError: it cannot read them."""
        x = tensor(name, x)
        row = x[:1].to(self.device, self.dtype)
        try:
            with torch.no_grad():
                return self.map(lambda model, x: model.encode(x).mean, row).shape[-1]
        except RuntimeError as error:
            raise ValueError(
                f"{name} must have as many columns as the models were built for, got shape {tuple(x.shape)} ({error}); "
                "pass data of that size, or build the models for these"
            ) from error

    def column(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """One number of every member, as a tensor (E,) on the parameters' device."""
        return torch.tensor([m[name] for m in self.members], dtype=dtype or self.dtype, device=self.device)

    def to(self, *args: Any, **kwargs: Any) -> Ensemble:
        """A copy on another device or in another dtype; arguments as for `Tensor.to`."""
        return replace(
            self,
            params={k: v.to(*args, **kwargs) for k, v in self.params.items()},
            buffers={k: v.to(*args, **kwargs) for k, v in self.buffers.items()},
        )

    def take(self, rows: Sequence[int]) -> Ensemble:
        """The ensemble of some of its members."""
        rows = list(rows)  # a tuple would index several axes
        return replace(
            self,
            params={k: v[rows] for k, v in self.params.items()},
            buffers={k: v[rows] for k, v in self.buffers.items()},
            members=tuple(self.members[i] for i in rows),
        )

    def member(self, index: int) -> Any:
        """One member as an ordinary module, of the kind that was stacked, with its own copy of the parameters."""
        module = copy.deepcopy(self.model).to_empty(device=self.device)
        state = {k: v[index] for k, v in (self.params | self.buffers).items()}
        for name, value in state.items():  # to_empty keeps the bare form's dtype, which may differ
            owner, _, leaf = name.rpartition(".")
            target = module.get_submodule(owner)
            old = getattr(target, leaf)
            setattr(target, leaf, nn.Parameter(value.clone()) if isinstance(old, nn.Parameter) else value.clone())
        return module


def stack(
    build: Callable[[Member], nn.Module], members: Sequence[Member], *, dtype: torch.dtype = torch.float32
) -> Ensemble:
    """Builds each member and stacks them. Members must agree in shape; what differs (a seed, a beta) is in `members`.

    The modules need a `forward(f, *args)` that returns f(self, *args), as `vae.models.vae.VAE` has.

    >>> from vae.models import linear_vae_model
    >>> from vae.noise import generator
    >>> members = [{"seed": seed, "beta": beta} for seed in (0, 1) for beta in (0.5, 1.0, 4.0)]
    >>> ensemble = stack(lambda m: linear_vae_model(64, 2, 0.1, generator(m["seed"], "init")), members)
    >>> len(ensemble), ensemble.map(lambda model, x: model.encode(x).mean, torch.zeros(5, 64)).shape
    (6, torch.Size([6, 5, 2]))
    """
    if not members:
        raise ValueError("members must not be empty, got no declaration; pass at least one, such as [{'seed': 0}]")
    modules = [build(m) for m in members]

    def stacked(named: str) -> dict[str, Tensor]:
        rows = [dict(getattr(module, named)()) for module in modules]
        for name in rows[0]:
            shapes = {tuple(row[name].shape) if name in row else None for row in rows}
            if len(shapes) > 1:
                raise ValueError(
                    f"members must have equal shapes, got {shapes} for {name!r}; build one ensemble per shape"
                )
        return {name: torch.stack([row[name].detach() for row in rows]).to(dtype) for name in rows[0]}

    return Ensemble(
        copy.deepcopy(modules[0]).to("meta"), stacked("named_parameters"), stacked("named_buffers"), tuple(members)
    )
