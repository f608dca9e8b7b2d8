"""Fixtures that several test modules share."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Tests compare bytes with those of commands that run on one thread, and rounding depends on the number of threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The same examples every time: what is new is looked for by `python -m benchmarks.fuzz_readers`.
settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the development data and models; tests that need it skip where it is missing."""
    root = Path(os.environ.get("PAIRCLEAN_TEST_DATA", Path(__file__).resolve().parents[2] / "shared"))
    if not (root / "data").is_dir():
        pytest.skip("the development data is not here; name its folder in PAIRCLEAN_TEST_DATA")
    return root


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """An object store on this machine, by the address of an empty bucket: `s3://` of fsspec leads to it."""
    server_of = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    import fsspec

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    before = fsspec.config.conf.get("s3")
    fsspec.config.conf["s3"] = {"endpoint_url": f"http://{host}:{port}", "key": "any", "secret": "any"}
    try:
        fsspec.filesystem("s3").mkdir("pairs")
        yield "s3://pairs"
    finally:
        fsspec.config.conf.pop("s3") if before is None else fsspec.config.conf.update(s3=before)
        server.stop()


@pytest.fixture(params=["cpu:0", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    """A device on which torch computes what NumPy does on the plain "cpu"."""
    if request.param == "cuda" and not pytest.importorskip("torch").cuda.is_available():
        pytest.skip("there is no GPU here")
    return str(request.param)
