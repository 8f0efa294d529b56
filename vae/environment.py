"""The environment variables that say how to run, each checked where it is read and all of them before a run."""

from __future__ import annotations

import os

from vae.config import nearest

MODES = ("auto", "compute", "published")


def records_mode() -> str:
    """VAE_RECORDS: where records come from, by default "auto". ValueError: an unknown one."""
    mode = os.environ.get("VAE_RECORDS") or "auto"
    if mode not in MODES:
        raise ValueError(f"VAE_RECORDS {mode!r} is unknown; {nearest(mode, MODES)}")
    return mode


def switch(variable: str) -> bool | None:
    """A variable that is 0 or 1, or None if it is unset. ValueError: anything else."""
    text = os.environ.get(variable, "")
    if text not in ("", "0", "1"):
        raise ValueError(f"{variable} must be 0 or 1, got {text!r}; unset it, and the trainer chooses")
    return text == "1" if text else None


def count(variable: str) -> int | None:
    """A variable that is a number from 1 up, or None if it is unset. ValueError: anything else."""
    text = os.environ.get(variable, "")
    if text and not (text.isdigit() and int(text)):
        raise ValueError(
            f"{variable} must be a whole number from 1 up, got {text!r}; unset it, and the trainer chooses"
        )
    return int(text) if text else None


def check() -> None:
    """ValueError if any of them is odd."""
    records_mode()
    switch("VAE_COMPILE")
    count("VAE_WORKERS")
    count("VAE_CHUNK")
