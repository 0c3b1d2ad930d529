"""Generated tables in README.md and docs/, between the markers <!-- NAME --> and <!-- /NAME -->."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def generated_table(page: str, name: str) -> str:
    """The text between a page's two markers."""
    text = (ROOT / page).read_text()
    return text.partition(f"<!-- {name} -->\n")[2].partition(f"\n<!-- /{name} -->")[0]


def files(page: str) -> dict[str, str]:
    """The files that a page shows, by name: fenced code blocks with a title."""
    text = (ROOT / page).read_text()
    return dict(re.findall(r'```(?:python|yaml) title="([^"]+)"\n(.*?)```', text, re.DOTALL))
