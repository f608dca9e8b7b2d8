"""Devices and dtypes by name; the GPUs are pretended."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pairclean.embed import device as module
from pairclean.embed.device import cpu_flags, resolve_devices, resolve_dtype
from pairclean.pairs import UserError


def pretend(
    monkeypatch: pytest.MonkeyPatch, *, gpus: int = 0, capability: tuple[int, int] = (9, 0), mps: bool = False
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("asked", "gpus", "mps", "expected"),
    [
        ("auto", 0, False, ["cpu"]),
        ("auto", 0, True, ["mps"]),
        ("auto", 2, False, ["cuda:0"]),
        ("cpu", 2, False, ["cpu"]),
        ("cuda", 2, False, ["cuda:0"]),
        ("cuda:1", 2, False, ["cuda:1"]),
        ("cuda:all", 3, False, ["cuda:0", "cuda:1", "cuda:2"]),
        ("mps", 0, True, ["mps"]),
    ],
)
def test_devices(monkeypatch: pytest.MonkeyPatch, asked: str, gpus: int, mps: bool, expected: list[str]) -> None:
    pretend(monkeypatch, gpus=gpus, mps=mps)
    assert resolve_devices(asked) == expected


@pytest.mark.parametrize(
    ("asked", "gpus", "sentence"),
    [
        ("cuda", 0, r"--device cuda asks for a GPU, but torch .* use --device auto or --device cpu\."),
        ("cuda:all", 0, "asks for a GPU"),
        ("cuda:2", 2, r"There is no device 'cuda:2'; this machine has cuda:0, cuda:1\."),
        ("mps", 0, "There is no mps device here"),
        ("gpu", 1, r"There is no device 'gpu'; --device takes auto, cpu"),
        ("cuda:x", 1, r"There is no device 'cuda:x'"),
    ],
)
def test_missing_devices(monkeypatch: pytest.MonkeyPatch, asked: str, gpus: int, sentence: str) -> None:
    pretend(monkeypatch, gpus=gpus)
    with pytest.raises(UserError, match=sentence):
        resolve_devices(asked)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx2"}, torch.float32),
        ({"avx512f", "avx512_vnni"}, torch.float32),
        ({"avx512_bf16"}, torch.bfloat16),
        ({"amx_tile", "amx_bf16"}, torch.bfloat16),
    ],
)
def test_auto_dtype_on_a_cpu(monkeypatch: pytest.MonkeyPatch, flags: set[str], expected: torch.dtype) -> None:
    monkeypatch.setattr(module, "cpu_flags", lambda: flags)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert resolve_dtype("auto", "cpu") is expected
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert resolve_dtype("auto", "cpu") is torch.float32


def test_auto_dtype_on_others(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus=1, capability=(8, 0))
    assert resolve_dtype("auto", "cuda:0") is torch.bfloat16
    pretend(monkeypatch, gpus=1, capability=(7, 5))
    assert resolve_dtype("auto", "cuda:0") is torch.float32
    assert resolve_dtype("auto", "mps") is torch.float32


def test_dtype_by_name() -> None:
    assert [resolve_dtype(name, "cpu") for name in ("float32", "bf16", "bfloat16", "float16", "fp32")] == [
        torch.float32,
        torch.bfloat16,
        torch.bfloat16,
        torch.float16,
        torch.float32,
    ]
    with pytest.raises(UserError, match="There is no dtype 'int8'; --dtype takes auto, float32"):
        resolve_dtype("int8", "cpu")


def test_cpu_flags(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(
        "processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16\nvmx flags\t: x\n\nprocessor\t: 1\nflags\t\t: other\n"
    )
    assert cpu_flags(file) == {"fpu", "avx2", "avx512_bf16"}
    assert cpu_flags(tmp_path / "missing") == set()
