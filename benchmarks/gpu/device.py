"""Part 1: the device, the versions of the software, the rates of matrix products and of copies."""

import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.compiler import compile_fault
from benchmarks.gpu.part import Part, Partial, Results, Row, Settings, Unsupported
from benchmarks.gpu.timing import seconds_per_call
from benchmarks.report import markdown_table
from gptx.hardware.cpu import cores
from gptx.hardware.description import describe_hardware
from gptx.runs.units import human

MATRIX = (4096, 8192, 16384)  # widths of square matrices; the best rate counts
COPY = 2**30  # bytes
LEAST = 0.3  # seconds of a measurement
LEAST_BF16 = 1.5  # until the clock has settled: MFU is a share of this rate
ENVIRONMENT = ("PYTORCH_CUDA_ALLOC_CONF", "LD_LIBRARY_PATH")
DTYPES = {"bf16": torch.bfloat16, "tf32": torch.float32, "fp32": torch.float32}


@dataclass(frozen=True)
class Facts:
    """The machine and its software. ``gpus``: the name of each GPU; ``memory``: bytes of the first, or of the RAM."""

    name: str
    gpus: list[str]
    memory: int
    capability: str
    multiprocessors: int
    cpu: str
    cores: int
    versions: dict[str, str]
    wrong: str = ""

    @property
    def text(self) -> str:
        software = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return f"{max(1, len(self.gpus))} x {self.name}, {human(self.memory, 'B')}, {software}"


@dataclass(frozen=True)
class Rate:
    """The rate of a matrix product in TFLOP/s, and that of each width; of a copy in GB/s, on the device itself read and
    written bytes together."""

    what: str
    rate: float
    unit: str
    by_width: dict[int, float]
    wrong: str = ""

    @property
    def text(self) -> str:
        return f"{self.rate:,.1f} {self.unit}"


def cases(settings: Settings) -> Mapping[str, str]:
    names = ["matrix bf16", "copy on the device", "facts", "matrix tf32", "matrix fp8", "matrix fp32"]
    copies = ["copy to the device, pinned", "copy from the device, pinned", "copy to the device, pageable"]
    if settings.toy:
        names, copies = ["matrix bf16", "copy on the device", "facts", "matrix fp32"], []
    return {name: name for name in (*names, *copies)}


def measure(case: str, settings: Settings, partial: Partial) -> Any:
    device = torch.device(settings.device)
    if case == "facts":
        return facts(device)
    return matrix_rate(case, device) if case.startswith("matrix") else copy_rate(case, device)


def facts(device: torch.device) -> Facts:
    hardware, gpu = describe_hardware(device), device.type == "cuda"
    properties = torch.cuda.get_device_properties(0) if gpu else None
    found = {"python": platform.python_version(), "torch": torch.__version__}
    if gpu:
        found |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
        if torch.distributed.is_nccl_available():
            found |= {"nccl": ".".join(map(str, torch.cuda.nccl.version()))}
    found |= {"C compiler": shutil.which("gcc") or shutil.which("cc") or "none, so that nothing can be compiled"}
    found |= {"torch.compile": compile_fault(device.type) or "works"}
    if gpu:
        found |= {"cuDNN attention": "on" if torch.backends.cuda.cudnn_sdp_enabled() else "off"}
    found |= {name: number for name in ("triton", "flash-attn") if (number := installed(name))}
    return Facts(
        name=hardware.name,
        gpus=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if gpu else [],
        memory=properties.total_memory if properties else hardware.memory_bytes,
        capability=f"{properties.major}.{properties.minor}" if properties else "",
        multiprocessors=properties.multi_processor_count if properties else 0,
        cpu=hardware.cpu,
        cores=cores(),
        versions=found | {key: os.environ[key] for key in ENVIRONMENT if key in os.environ},
    )


def installed(package: str) -> str:
    """The version of a package; "" if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def matrix_rate(case: str, device: torch.device) -> Rate:
    """Products of random matrices: with zeros a GPU draws less power and runs faster."""
    dtype, gpu = case.removeprefix("matrix "), device.type == "cuda"
    if dtype == "fp8" and torch.cuda.get_device_capability(device) < (8, 9):
        raise Unsupported("fp8 needs compute capability 8.9")
    before = torch.get_float32_matmul_precision()
    if dtype == "tf32":
        torch.set_float32_matmul_precision("high")
    try:
        widths = MATRIX if gpu else (512,)
        least = 0.05 if not gpu else LEAST_BF16 if dtype == "bf16" else LEAST
        rates = {width: product_rate(dtype, width, device, least) for width in widths}
    finally:
        torch.set_float32_matmul_precision(before)
    return Rate(case, max(rates.values()), "TFLOP/s", rates)


def product_rate(dtype: str, width: int, device: torch.device, least: float) -> float:
    """TFLOP/s of a product of two square matrices."""
    a, b = (torch.randn(width, width, device=device) for _ in range(2))
    if dtype == "fp8":
        one = torch.ones((), device=device)
        low, high = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t()  # the second one by columns

        def work() -> Tensor:
            product: Tensor = torch._scaled_mm(
                low, high, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
            )
            return product
    else:
        x, y = a.to(DTYPES[dtype]), b.to(DTYPES[dtype])
        out = torch.empty_like(x)

        def work() -> Tensor:
            return torch.mm(x, y, out=out)

    return 2 * width**3 / seconds_per_call(work, device, least) / 1e12


def copy_rate(case: str, device: torch.device) -> Rate:
    gpu, cpu = device.type == "cuda", torch.device("cpu")
    size = COPY if gpu else 2**24
    places = cpu if case.startswith("copy to") else device, cpu if case.startswith("copy from") else device

    def buffer(place: torch.device) -> Tensor:
        return torch.ones(size, dtype=torch.uint8, device=place, pin_memory=place == cpu and "pinned" in case)

    source, target = map(buffer, places)
    seconds = seconds_per_call(lambda: target.copy_(source, non_blocking=True), device, LEAST if gpu else 0.05)
    moved = 2 * size if case == "copy on the device" else size
    return Rate(case, moved / seconds / 1e9, "GB/s", {})


def rate_of(results: Results, case: str) -> float | None:
    """A rate that this part has measured: TFLOP/s or GB/s; None: it was not measured."""
    rows = results["device"].measured() if "device" in results else []
    return next((row.figures["rate"] for row in rows if row.case == case), None)


def tables(rows: Sequence[Row], results: Results) -> str:
    lines = [f"{row.text}." for row in rows if row.case == "facts"]
    rates = [row for row in rows if row.case != "facts"]
    head = ("", "rate", "by width of the matrices")
    table = markdown_table(
        head,
        [
            (row.case, row.text, ", ".join(f"{width}: {rate:,.0f}" for width, rate in row.figures["by_width"].items()))
            for row in rates
        ],
        left=1,
    )
    return "\n\n".join([*lines, table] if rates else lines)


PART = Part("device", "Device and rates", 25, 60, cases, measure, tables)
