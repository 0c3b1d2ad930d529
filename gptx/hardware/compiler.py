"""Whether torch.compile can build its code on this machine: torch itself says so only after training has begun."""

import os
import shutil
import tempfile
from pathlib import Path

import torch

from gptx.errors import ConfigError


def check_compiler(device: torch.device) -> None:
    """Check what ``compile=true`` needs besides torch: a C++ compiler on a CPU, a C compiler on CUDA, and paths without
    spaces, which torch does not quote in the command of the compiler.

    Raises:
        ConfigError: one is missing; says what would work.
    """
    if device.type == "cuda":
        compiler = next(filter(shutil.which, filter(None, (os.environ.get("CC"), "gcc", "clang", "cc"))), None)
        if compiler is None:
            raise ConfigError("compile=true needs a C compiler: install gcc, name one in CC, or use compile=false")
    elif device.type == "cpu":
        _check_cpp_compiler()
        for what, path in (("torch is installed in", Path(torch.__file__).parent), ("torch compiles in", _cache())):
            if " " in str(path):
                raise ConfigError(
                    f"compile=true: {what} {path}, and torch.compile cannot use a path with a space; use an "
                    "environment (or TORCHINDUCTOR_CACHE_DIR) without one, or compile=false"
                )


def _check_cpp_compiler() -> None:
    from torch._inductor import config
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, OSError):
        named = config.cpp.cxx[-1] if isinstance(config.cpp.cxx, list | tuple) else config.cpp.cxx
        raise ConfigError(
            f"compile=true needs a C++ compiler, and {named} cannot be started: install one (such as the package g++), "
            "name one in CXX, or use compile=false"
        ) from None


def _cache() -> str:
    """The folder in which torch.compile builds its code."""
    return os.environ.get("TORCHINDUCTOR_CACHE_DIR") or tempfile.gettempdir()
