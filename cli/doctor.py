"""`pairclean doctor`: what this machine offers to pairclean."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from .console import Console
from .options import takes
from .text import size

if TYPE_CHECKING:
    from rich.console import RenderableType

_PACKAGES = ("torch", "torchvision", "open_clip_torch", "pyarrow", "pandas", "numpy", "scikit-learn", "pillow", "rich")


@takes("json")
def doctor(console: Console) -> None:
    """Show versions, devices, and what else this machine offers."""
    found = {"versions": _versions(), "devices": _devices(), "machine": _machine(), "default model": _default_model()}
    console.print(found, lambda: _summary(found))


def _versions() -> dict[str, str]:
    import pairclean

    faiss = "faiss-gpu" if _version("faiss-gpu") else "faiss-cpu"
    packages = {name: _version(name) or "not installed" for name in (*_PACKAGES, faiss)}
    return {"pairclean": pairclean.__version__, "python": platform.python_version(), **packages}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> dict[str, str]:
    from pairclean.embed import resolve_devices, resolve_dtype

    try:
        import torch
    except Exception as error:  # this command is there to show a broken driver or wheel
        return {"torch": f"cannot be imported: {error}"}
    devices = {}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(index)
        devices[f"cuda:{index}"] = f"{about.name}, {size(about.total_memory)}"
    if not devices:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        devices["cuda"] = f"none found (torch is {built})"
    devices["mps"] = "yes" if torch.backends.mps.is_available() else "no"
    chosen = resolve_devices("auto")[0]
    precision = str(resolve_dtype("auto", chosen)).removeprefix("torch.")
    return {**devices, "faiss GPUs": _faiss_gpus(), "auto chooses": f"{chosen} in {precision}"}


def _faiss_gpus() -> str:
    try:
        import faiss

        return str(faiss.get_num_gpus()) if hasattr(faiss, "get_num_gpus") else "0 (built for the CPU)"
    except Exception as error:  # as above
        return f"faiss cannot be imported: {error}"


def _machine() -> dict[str, str]:
    from pairclean.embed.device import cpu_flags
    from pairclean.execution import available_cores

    fast = sorted(flag for flag in cpu_flags() if flag.startswith("amx") or flag in ("avx2", "avx512f", "avx512_bf16"))
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": str(available_cores()),
        "CPU flags": ", ".join(fast) or "none of AMX, AVX-512 BF16",
        "free disk here": size(shutil.disk_usage(os.getcwd()).free),
    }


def _default_model() -> dict[str, str]:
    from pairclean.embed import DEFAULT_MODEL, DEFAULT_PRETRAINED, weights_are_here

    name = f"{DEFAULT_MODEL} {DEFAULT_PRETRAINED}"
    try:
        here = weights_are_here(DEFAULT_MODEL, DEFAULT_PRETRAINED)
    except Exception as error:  # as above
        return {name: f"cannot be looked up: {error}"}
    return {name: "in the local cache" if here else "not in the local cache; it is downloaded when first used"}


def _summary(found: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    from .summary import facts_table

    groups: list[RenderableType] = []
    for group, rows in found.items():
        groups += [Text(group, style="bold"), Padding(facts_table(*rows.items()), (0, 0, 1, 2))]
    return Group(*groups)
