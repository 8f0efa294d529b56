"""Where, with what and how dearly a result was computed."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vae.config import Config, resolve_device
from vae.record.paths import project_root

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "vae-measured")
SOURCES = ("vae", "notebooks", "profiles", "benchmarks")  # what can change a result; results/ grows meanwhile


def circumstances(config: Config) -> dict[str, Any]:
    """Commit, versions and hardware. What cannot be known is null."""
    commit, dirty = _git()
    device = resolve_device(name) if (name := getattr(config, "device", None)) else None
    cuda = device is not None and device.type == "cuda"
    torch = sys.modules.get("torch")  # a computation that did not load it did not use it
    return {
        "commit": commit,
        "dirty": dirty,
        "versions": {"python": platform.python_version(), **{name: package_version(name) for name in PACKAGES}},
        "device": device.type if device else "cpu",
        "processor": torch.cuda.get_device_name() if torch and cuda else _processor(),
        "threads": torch.get_num_threads() if torch else None,
    }


def peak_memory_mb() -> int | None:
    """The most memory this process has held so far; null on Windows."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))  # macOS counts bytes, Linux kB


def _git() -> tuple[str | None, bool | None]:
    """The commit, and whether the sources differ from it."""
    try:
        root = project_root()
        commit = _output("git", "-C", str(root), "rev-parse", "HEAD")
        changes = _output("git", "-C", str(root), "status", "--porcelain", "--", *SOURCES)
    except (ValueError, OSError, subprocess.SubprocessError):
        return None, None
    return commit, bool(changes)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


def package_version(name: str) -> str | None:
    """The version of an installed package, null where there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str | None:
    """The model of the CPU, which decides the last digits of a sum."""
    try:
        if sys.platform == "darwin":
            return _output("sysctl", "-n", "machdep.cpu.brand_string")
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, subprocess.SubprocessError, StopIteration):
        return platform.processor() or platform.machine() or None
