"""A resume certificate as a table on the terminal."""

from pathlib import Path

from rich.table import Table

from gptx.console import Console
from gptx.training.certificate import Certificate


def show(certificate: Certificate, folder: Path) -> None:
    """Print the conditions of run and repetition, the comparisons and the conclusion."""
    console = Console()
    table = Table("", "the run", "the repetition")
    for key, value in vars(certificate.again).items():
        run = ", ".join(dict.fromkeys(str(vars(side)[key]) for side in certificate.run))
        table.add_row(key, run, str(value))
    for kind, comparison in certificate.compared.items():
        table.add_row(kind, "", str(comparison))
    console.print(table)
    steps = f"steps {certificate.first_step} to {certificate.last_step}"
    console.print(f"{steps}: {certificate.conclusion}", soft_wrap=True)
    console.print(f"{certificate.seconds:.1f} s   {folder / 'certificate.json'}", soft_wrap=True)
