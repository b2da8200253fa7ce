"""What a run was computed with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = "numpy", "numba", "llvmlite", "pillow", "tifffile", "matplotlib", "safetensors"


def environment() -> dict[str, Any]:
    """Versions, system and processor, in types that JSON knows; nothing that names a computer.

    Returns
    -------
    dict
        ``minidl``, ``python``, ``packages``, ``system``, ``machine``, ``processor`` (its model),
        ``features`` (instruction sets that the kernels look for), ``vector_bytes``, ``cores`` and
        ``threads``.
    """
    import minidl
    from minidl.kernels import simd

    return {
        "minidl": minidl.__version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "features": sorted(simd.FEATURES & _NAMED),
        "vector_bytes": simd.REGISTER_BYTES,
        "cores": os.cpu_count(),
        "threads": minidl.get_num_threads(),
    }


_NAMED = {"sse4.2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512vnni", "neon"}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """Its model, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())
