"""Processes that start in a moment: everything heavy is imported once, no thread is started, and each is a fork."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image
from small import use_small

from pairclean.options import STAGES
from pairclean.report import html

use_small(pytest.MonkeyPatch())
#: What is heavy is imported before any fork, so that the children need not do it again.
HEAVY = ("faiss", "safetensors.torch", "scipy.stats", "sklearn.feature_extraction.text", "sklearn.linear_model")
for module in (*HEAVY, "pairclean_cli.summary", *(f"pairclean.stages.{stage}" for stage in STAGES)):
    import_module(module)
Image.init()
html._template()


def fork(work: Callable[[], None], said: Path | None = None) -> int:
    """Does it in another process, whose id is returned; what that prints goes to the file `said`."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        if said is not None:
            file = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            os.dup2(file, 1)
            os.dup2(file, 2)
        work()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    os._exit(status)


def ended(pid: int, *, within: float = 60) -> int:
    """How it ended: its exit status, or minus the signal; one that does not end in time is killed: -9."""
    limit = time.monotonic() + within
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > limit:
            os.kill(pid, signal.SIGKILL)
            limit = float("inf")
        time.sleep(0.02)
