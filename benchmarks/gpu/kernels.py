"""Part 2a: each kernel equals the reference in float64, forward and backward, eager and compiled."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.attention import Case
from benchmarks.gpu.compiler import needs_compiler
from benchmarks.gpu.part import GOOD, Part, Partial, Results, Row, Settings, Unsupported
from benchmarks.gpu.sdpa_backends import BACKENDS, KERNELS, backend_of
from benchmarks.report import markdown_table

# Of the relative difference, see `difference`. bf16 has 8 bits: on a CPU the reference kernel itself differs by up to
# 0.065. fp32 must be computed without TF32, which has 10 bits.
BOUNDS = {"fp32": 2e-4, "bf16": 0.1}
WINDOW = 256  # tokens
# No multiples of a kernel's block. With 64 tokens more than a multiple of 128 and a mask, the backward of cuDNN, which
# torch 2.11 chooses by default on an H100, can return nan (pytorch issue 196678).
CONTEXT, CONTEXT_WITH_BIAS = 1000, 1088
OUTPUTS = ("y", "dq", "dk", "dv")


@dataclass(frozen=True)
class Problem:
    """One call of a kernel. ``window``: tokens, 0 is full attention; ``bias``: that of ALiBi."""

    kernel: str
    dtype: str
    window: int
    bias: bool
    compiled: bool

    def __str__(self) -> str:
        parts = [self.kernel, self.dtype, f"window {self.window}" if self.window else "full"]
        return ", ".join([*parts, *["alibi"] * self.bias, "compiled" if self.compiled else "eager"])


@dataclass(frozen=True)
class Differences:
    """The largest relative difference of each tensor from the reference, see `difference`."""

    problem: Problem
    worst: dict[str, float]
    bound: float

    @property
    def text(self) -> str:
        return ", ".join(f"{name} {value:.1e}" for name, value in self.worst.items())

    @property
    def wrong(self) -> str:
        bad = [name for name, value in self.worst.items() if not value <= self.bound]
        return f"{', '.join(bad)}: expected at most {self.bound:g}" if bad else ""


def cases(settings: Settings) -> Mapping[str, Problem]:
    """bf16 comes before fp32, eager before compiled: training takes bf16, and compilation takes seconds a case."""
    problems = toys() if settings.toy else [*eager("bf16"), *compiled("bf16"), *eager("fp32"), *compiled("fp32")]
    return {str(problem): problem for problem in problems}


def eager(dtype: str) -> Iterator[Problem]:
    for window in (0, WINDOW):
        for kernel in (*KERNELS, *BACKENDS, "auto"):
            yield Problem(kernel, dtype, window, False, False)
    for kernel in (*KERNELS, *BACKENDS):
        yield Problem(kernel, dtype, WINDOW, True, False)


def compiled(dtype: str) -> Iterator[Problem]:
    for kernel in ("flex", "sdpa", "banded", "flash"):
        for window in (0, WINDOW):
            yield Problem(kernel, dtype, window, False, True)


def toys() -> Iterator[Problem]:
    for kernel in (*KERNELS, *BACKENDS):
        yield Problem(kernel, "bf16", 0, False, False)
    yield Problem("banded", "fp32", WINDOW, True, False)
    yield Problem("sdpa", "fp32", 0, False, True)


def measure(problem: Problem, settings: Settings, partial: Partial) -> Differences:
    torch.compiler.reset()  # after eight shapes of a function torch would compile it no more
    device = torch.device(settings.device)
    context = 80 if settings.toy else CONTEXT_WITH_BIAS if problem.bias else CONTEXT
    window = min(problem.window, context // 4)
    case = Case(4, 64, context, window, problem.bias, problem.dtype, 2, device)
    inputs = case.inputs()
    with backend_of(problem.kernel) as kernel:
        if reason := rejection(case, kernel):
            raise Unsupported(reason)
        if problem.compiled or "flex" in (case.chosen() if kernel == "auto" else kernel):
            needs_compiler(settings)
        if problem.compiled:
            compile_forward(case, kernel)
        found = case.step(kernel, case.mask(kernel), inputs)
    expected = reference(case, inputs)
    worst = {name: difference(a, b) for name, a, b in zip(OUTPUTS, found, expected, strict=True)}
    return Differences(problem, worst, BOUNDS[problem.dtype])


def rejection(case: Case, kernel: str) -> str:
    """Why the kernel cannot compute the case; "": it can."""
    if kernel == "flash" and case.dtype == "fp32":
        return "flash computes in bf16"
    return case.kernel(kernel).rejects(case.visible, case.pos, case.device.type) or ""


def compile_forward(case: Case, kernel: str) -> None:
    module = case.kernel(kernel)
    module.forward = torch.compile(module.forward, fullgraph=True)  # type: ignore[method-assign]


def reference(case: Case, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Output and gradients of the reference kernel in float64, for the same inputs."""
    high = replace(case, dtype="fp32", kernels={})  # without autocast
    doubles = [x.detach().double().requires_grad_(x.requires_grad) for x in inputs]
    return high.step("reference", high.mask("reference"), doubles)


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest |found - expected| / (|expected| + r), r being the root mean square of ``expected``: the first tokens
    see few others, so that their outputs are much larger than r, and so is what rounding changes."""
    found, expected = found.detach().double(), expected.detach().double()
    size = expected.abs() + expected.pow(2).mean().sqrt()
    return float(((found - expected).abs() / size).max())


def tables(rows: Sequence[Row], results: Results) -> str:
    """The largest error by kernel and dtype. Only rows with figures are given; `document` lists the others."""
    kernels = list(dict.fromkeys(row.figures["problem"]["kernel"] for row in rows))
    head = ("kernel", *(f"{dtype}, {how}" for dtype in BOUNDS for how in ("eager", "compiled")))
    table = markdown_table(head, [(name, *_cells(rows, name)) for name in kernels], left=1)
    wrong = sum(row.state not in GOOD for row in rows)
    verdict = f"{wrong} of {len(rows)} cases differ by more" if wrong else f"none of {len(rows)} cases differs by more"
    return (
        "Largest relative difference |a - b| / (|b| + r) of output and gradients a from those of the reference in "
        f"float64 b, whose root mean square is r, over full attention, a window of {WINDOW} and ALiBi; allowed are "
        f"{BOUNDS['fp32']:g} in fp32 and {BOUNDS['bf16']:g} in bf16: "
        f"{verdict}.\n\n{table}"
    )


def _cells(rows: Sequence[Row], kernel: str) -> Iterator[str]:
    for dtype in BOUNDS:
        for compiled_ in (False, True):
            key = {"kernel": kernel, "dtype": dtype, "compiled": compiled_}
            fits = [row for row in rows if all(row.figures["problem"][name] == value for name, value in key.items())]
            yield f"{max(max(row.figures['worst'].values()) for row in fits):.1e}" if fits else ""


PART = Part("kernels", "Kernels equal the reference", 80, 40, cases, measure, tables)
