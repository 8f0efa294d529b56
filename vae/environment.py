"""The environment variables that say how to compute, each checked where it is read and all of them before a run."""

from __future__ import annotations

import os


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


def run_number() -> int:
    """VAE_RUN, by default 0: which set of random streams this process and its workers draw. Every random number of the
    package comes from here, but how data are split and binarised. ValueError: no whole number."""
    text = os.environ.get("VAE_RUN") or "0"
    if not text.isdigit():
        raise ValueError(f"VAE_RUN must be a whole number, got {text!r}; unset it for the usual random streams")
    return int(text)


def check() -> None:
    """ValueError if any of them is odd."""
    switch("VAE_COMPILE")
    count("VAE_WORKERS")
    count("VAE_CHUNK")
    run_number()
