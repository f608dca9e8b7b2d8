"""Where encoders run, and in which precision."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..pairs import UserError

if TYPE_CHECKING:
    import torch

_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def resolve_devices(device: str) -> list[str]:
    """The torch devices that `device` (auto, cpu, cuda, cuda:N, cuda:all or mps) stands for.

    "auto" is the first GPU if there is one, then mps, then the CPU.
    Raises UserError if the device asked for is not there: nothing falls back silently.
    """
    import torch

    if device == "cpu":
        return ["cpu"]
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    mps = ["mps"] if torch.backends.mps.is_available() else []
    if device == "auto":
        return [*gpus, *mps, "cpu"][:1]
    if device == "mps":
        if not mps:
            raise UserError("There is no mps device here; use --device auto or --device cpu.")
        return mps
    if not re.fullmatch(r"cuda(:\d+|:all)?", device):
        raise UserError(f"There is no device {device!r}; --device takes auto, cpu, cuda, cuda:0, cuda:all or mps.")
    if not gpus:
        why = "finds none (does nvidia-smi?)" if torch.version.cuda else "is built without CUDA"
        raise UserError(
            f"--device {device} asks for a GPU, but torch {torch.__version__} {why}; use --device auto or --device cpu."
        )
    chosen = {"cuda": gpus[:1], "cuda:all": gpus}.get(device, [device])
    if not set(chosen) <= set(gpus):
        raise UserError(f"There is no device {device!r}; this machine has {', '.join(gpus)}.")
    return chosen


def resolve_dtype(dtype: str, device: str) -> torch.dtype:
    """The torch dtype that `dtype` (auto, float32, bfloat16 or float16) stands for on `device` (as "cuda:0").

    "auto" is bfloat16 where the hardware multiplies it, else float32.  Raises UserError for an unknown name.
    """
    import torch

    name = _DTYPES.get(dtype, dtype)
    if name == "auto":
        name = "bfloat16" if _multiplies_bfloat16(device) else "float32"
    if name not in _DTYPES.values():
        raise UserError(f"There is no dtype {dtype!r}; --dtype takes auto, float32, bfloat16 or float16.")
    chosen: torch.dtype = getattr(torch, name)
    return chosen


def _multiplies_bfloat16(device: str) -> bool:
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # Against float32 on ViT-B/32, one thread: 7 times the speed with AMX, twice with AVX-512 BF16 alone (Zen 4).
    return device == "cpu" and torch.backends.mkldnn.is_available() and bool(cpu_flags() & {"amx_bf16", "avx512_bf16"})


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """The CPU's feature flags as Linux names them; empty elsewhere."""
    if not cpuinfo.exists():
        return set()
    match = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
    return set(match[1].split()) if match else set()
