"""All parts, most valuable first. Their shares are seconds of eight minutes on one H100."""

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
    kernels.PART,
    kernel_times.PART,
    training.PART,
    strategies.PART,
    resume.PART,
    several_gpus.PART,
    decoding.PART,
    cuda_tests.PART,
)
