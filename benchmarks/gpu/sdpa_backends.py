"""The kernels that the benchmark compares: those of gptx, and sdpa with each of its backends enforced."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.part import Unsupported

BACKENDS = {
    "sdpa: flash": SDPBackend.FLASH_ATTENTION,
    "sdpa: cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa: efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa: math": SDPBackend.MATH,
}
KERNELS = ("sdpa", "flex", "banded", "flash", "reference")
MISSING = (
    "No available kernel",
    "No viable backend",
    "No execution plans",
    "No valid execution plans",
)  # torch's words for a backend that cannot compute a case


@contextmanager
def backend_of(kernel: str) -> Iterator[str]:
    """Enforce the backend that the name of a kernel contains; yields the name of gptx's kernel.

    Raises:
        Unsupported: the backend cannot compute what is called in the context.
    """
    if kernel not in BACKENDS:
        yield kernel
        return
    with warnings.catch_warnings(), sdpa_kernel([BACKENDS[kernel]]):
        warnings.simplefilter("ignore")  # torch warns of each reason why it rejects a backend
        try:
            yield "sdpa"
        except RuntimeError as error:
            if any(words in str(error) for words in MISSING):
                raise Unsupported("torch has no such backend for this case") from None
            raise
