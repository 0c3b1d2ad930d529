"""All parts, most valuable first: training speed beside nanoGPT's is what a GPU is asked for before all else, and each
part that is cut off keeps its first cases. Their shares are seconds of eight minutes on one H100."""

from benchmarks.gpu import (
    cuda_tests,
    decoding,
    device,
    kernel_times,
    kernels,
    resume,
    several_gpus,
    strategies,
    training,
)
from benchmarks.gpu.part import Part

PARTS: tuple[Part, ...] = (
    device.PART,
    training.PART,
    kernels.PART,
    kernel_times.PART,
    strategies.PART,
    resume.PART,
    several_gpus.PART,
    decoding.PART,
    cuda_tests.PART,
)
