"""Where, with what and how dearly a result was computed."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from measured.config import Config
from measured.project import project

SOURCES = (
    "notebooks",
    "profiles",
    "benchmarks",
)  # what can change a result, beside the package; results/ grows meanwhile


def circumstances(config: Config) -> dict[str, Any]:
    """Commit, versions and hardware. What cannot be known is null."""
    commit, dirty = _git()
    torch = sys.modules.get("torch")  # a computation that did not load it did not use it
    device = getattr(config, "device", "cpu")
    if device == "auto":
        device = "cuda" if torch and torch.cuda.is_available() else "cpu"
    packages = (*project().versions, project().distribution)
    return {
        "commit": commit,
        "dirty": dirty,
        "versions": {"python": platform.python_version(), **{name: package_version(name) for name in packages}},
        "device": device,
        "processor": torch.cuda.get_device_name() if torch and device == "cuda" else _processor(),
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
        root = str(project().root)
        commit = _output("git", "-C", root, "rev-parse", "HEAD")
        changes = _output("git", "-C", root, "status", "--porcelain", "--", project().package, *SOURCES)
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
