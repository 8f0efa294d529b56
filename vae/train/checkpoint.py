"""Unfinished work on disk, in safetensors: written whole or not at all, verified when read, never unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

ABOUT, SUM = "about", "sha256"  # stored as bytes among the tensors, so that a file is read in one go


def claim(folder: Path, identity: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, Any]:
    """Make `folder` the place of the run that `identity` describes, and keep `plan` there; returns the plan that an
    earlier, unfinished call for the same run has left, or this one.

    Both must be plain JSON. ValueError: the folder holds another run, is damaged, or cannot be written.
    """
    file = folder / "run.json"
    if file.exists():
        try:
            there = json.loads(file.read_text())
            known, found = dict(there["identity"]), dict(there["plan"])
            if known.keys() != identity.keys() or found.keys() != plan.keys():
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{file} is damaged; delete {folder} to start afresh") from None
        if differ := [name for name in identity if known.get(name) != identity[name]]:
            raise ValueError(
                f"{folder} holds the checkpoints of another run: {', '.join(differ)} differ; "
                "choose another folder, or delete it"
            )
        if any(path != file for path in folder.iterdir()):
            return found  # what is there was made by that plan
    _replace(file, json.dumps({"identity": dict(identity), "plan": dict(plan)}).encode())
    return dict(plan)


def write(file: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Store tensors and some words about them, plain JSON, as `file`, in place of an older one."""
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content[ABOUT] = torch.frombuffer(bytearray(json.dumps(dict(about)).encode()), dtype=torch.uint8)
    content[SUM] = torch.frombuffer(bytearray(_digest(content)), dtype=torch.uint8)
    _replace(file, save(content))


def read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and words as `write` took them. ValueError naming the file: it is damaged."""
    try:
        content = load(file.read_bytes())
        whole = content.pop(SUM).numpy().tobytes() == _digest(content)
    except (SafetensorError, KeyError, ValueError):
        whole = False
    if not whole:
        raise ValueError(f"checkpoint {file} is damaged; delete it, and what it held is computed again")
    return content, json.loads(content.pop(ABOUT).numpy().tobytes())


def _digest(tensors: Mapping[str, Tensor]) -> bytes:
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return found.digest()


def _replace(file: Path, content: bytes) -> None:
    """Write under another name, then rename; once more if another run of the same work has just cleaned up."""
    for last in (False, True):
        part = file.with_name(f".{file.name}-{uuid.uuid4().hex[:8]}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(content)
            os.replace(part, file)
            return
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            if last or not isinstance(error, FileNotFoundError):
                raise ValueError(
                    f"{file.parent} cannot be written ({error.strerror}); choose another checkpoint folder"
                ) from error
