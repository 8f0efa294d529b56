"""A contender in a process of its own, pinned and with its number of threads, that works when it is asked to."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import time
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Worker:
    """`ask("run", 100)` is contender.run(100) in the other process; `post` and `result` are the halves of it."""

    def __init__(
        self,
        contender: str,
        case: str,
        members: int,
        dtype: str = "float32",
        *,
        threads: int = 1,
        cores: Sequence[int] = (),
        options: Mapping[str, Any] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        eigen = "true" if threads > 1 else "false"
        environment = dict.fromkeys(THREAD_VARIABLES, str(threads)) | {
            "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={eigen} intra_op_parallelism_threads={threads}",
            "JAX_PLATFORMS": "cpu",
            "TQDM_DISABLE": "1",
            **(variables or {}),
        }
        before = dict(os.environ)
        os.environ.update(environment)  # what a process starts with; libraries read it once
        try:
            here, there = multiprocessing.get_context("spawn").Pipe()
            arguments = (there, contender, case, members, dtype, tuple(cores), dict(options or {}))
            self.process = multiprocessing.get_context("spawn").Process(target=_serve, args=arguments, daemon=True)
            self.process.start()
            there.close()
        finally:
            os.environ.clear()
            os.environ.update(before)
        self.name, self.connection = f"{contender} {case} E={members} {dtype}", here

    def post(self, command: str, *arguments: Any) -> None:
        self.connection.send((command, arguments))

    def result(self) -> Any:
        try:
            good, value = self.connection.recv()
        except EOFError:
            raise RuntimeError(f"{self.name} died; perhaps the memory did not suffice") from None
        if not good:
            raise RuntimeError(f"{self.name} failed:\n{value}")
        return value

    def ask(self, command: str, *arguments: Any) -> Any:
        self.post(command, *arguments)
        return self.result()

    def stop(self) -> None:
        self.connection.close()  # which ends it, unless it is busy
        self.process.join(timeout=10)
        self.process.kill()
        self.process.join()


def _serve(
    connection: Connection,
    name: str,
    case: str,
    members: int,
    dtype: str,
    cores: Sequence[int],
    options: dict[str, Any],
) -> None:
    try:
        if cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)
        module = importlib.import_module(f"benchmarks.contenders.{name}")
        contender = module.Contender(CASES[case], members, dtype, **options)
    except BaseException:
        connection.send((False, traceback.format_exc()))
        return
    about = {
        "step_members": contender.step_members,
        "compile_seconds": getattr(contender, "compile_seconds", 0.0),
    }
    connection.send((True, about))
    while True:
        try:
            command, arguments = connection.recv()
        except EOFError:
            return
        try:
            if command == "run":
                begin = time.process_time()
                steps, seconds = contender.run(*arguments)
                value = steps, seconds, time.process_time() - begin
            elif command == "memory":
                value = _peak_megabytes()
            else:
                value = getattr(contender, command)(*arguments)
            connection.send((True, value))
        except Exception:
            connection.send((False, traceback.format_exc()))


def _peak_megabytes() -> float | None:
    """The most memory this program has held; None but on Linux. `getrusage` counts what started the process too."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM")), None)
