"""Whether torch.compile works here: on a GPU it needs Triton, a C compiler and the headers of Python."""

import functools

import torch
from torch import Tensor

from benchmarks.gpu.part import Settings, Unsupported, one_line
from gptx.errors import ConfigError
from gptx.hardware.compiler import check_compiler


@functools.cache
def compile_fault(device: str) -> str:
    """Why torch.compile does not work on a device, in one line; "": it works. One attempt per process; on a CPU, where
    that can take half a minute beside other work, only the compiler is looked for."""
    if device == "cpu":
        return _missing_on_cpu()
    x = torch.arange(64.0, device=device)
    try:
        torch.compile(_twice)(x)
    except Exception as error:  # many types, by what is missing
        return f"torch.compile does not work here: {one_line(error)}"
    finally:
        torch.compiler.reset()
    return ""


def _missing_on_cpu() -> str:
    try:
        check_compiler(torch.device("cpu"))
    except ConfigError as error:
        return str(error)
    return ""


def _twice(x: Tensor) -> Tensor:
    return (x * 2 + 1).relu()


def needs_compiler(settings: Settings) -> None:
    """Raises Unsupported: torch.compile does not work here."""
    if reason := compile_fault(settings.device):
        raise Unsupported(reason)
