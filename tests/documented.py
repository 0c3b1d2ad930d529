"""Generated tables in README.md and docs/, between the markers <!-- NAME --> and <!-- /NAME -->."""

from pathlib import Path

ROOT = Path(__file__).parents[1]


def generated_table(page: str, name: str) -> str:
    """The text between a page's two markers."""
    text = (ROOT / page).read_text()
    return text.partition(f"<!-- {name} -->\n")[2].partition(f"\n<!-- /{name} -->")[0]
