"""The outcome of `gptx prove`, for a terminal and for a JSON file."""

from collections.abc import Sequence

from rich.table import Table

from gptx.console import Console
from gptx.proofs.combinations import Proven
from gptx.proofs.full import PROOFS, title


def record(one: Proven) -> dict[str, object]:
    """The outcome of one combination, for a JSON file."""
    return {
        "combination": one.name,
        "rejection": one.rejection,
        "failures": {failure.proof.__name__: failure.reason for failure in one.failures},
    }


def show(found: Sequence[Proven]) -> None:
    """Print in how many models each property holds, the first model of each that lacks it, and the rejections."""
    models = [one for one in found if not one.rejection]
    console = Console()
    table = Table("property", "holds in", title=f"{len(models)} model{'s' * (len(models) != 1)}")
    failed = {proof: [(one, f.reason) for one in models for f in one.failures if f.proof is proof] for proof in PROOFS}
    for proof, cases in failed.items():
        table.add_row(title(proof), f"{len(models) - len(cases)} of {len(models)}" if cases else "all")
    console.print(table)
    for proof, cases in failed.items():
        for one, reason in cases[:1]:
            console.print(f"\nNot true: {title(proof)}.\n  {reason}\n  in {one.name}", soft_wrap=True)
    for one in found:
        if one.rejection:
            console.print(f"\nRejected: {one.name}\n  {one.rejection}", soft_wrap=True)
