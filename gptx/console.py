"""Rich's console and text for output that may come from others: see `gptx.terminal`."""

from typing import Any

import rich.console
import rich.text

from gptx.terminal import visible


class Console(rich.console.Console):
    """Prints text as it is: no markup, no emoji codes, no highlighting, and control characters made visible.

    Args:
        options: see `rich.console.Console`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> rich.text.Text:
        """Every string that is printed, also in a table or a panel, passes here."""
        return super().render_str(visible(text), **options)


class VisibleText(rich.text.Text):
    """A styled text with its control characters made visible.

    Args:
        options: see `rich.text.Text`.
    """

    def __init__(self, text: str = "", *arguments: Any, **options: Any) -> None:
        super().__init__(visible(text), *arguments, **options)

    def append(self, text: "rich.text.Text | str", *arguments: Any, **options: Any) -> "VisibleText":
        super().append(visible(text) if isinstance(text, str) else text, *arguments, **options)
        return self
