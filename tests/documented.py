"""Generated tables in README.md and docs/, between the markers <!-- NAME --> and <!-- /NAME -->."""

import re

from command import ROOT

# A run of a documented command in a few seconds, on another text.
FEW_STEPS = (
    "model.n_layer=1",
    "model.d_model=32",
    "model.context=32",
    "trainer.max_steps=4",
    "trainer.eval_every=2",
    "trainer.val_tokens=1024",
    "runtime.sample_tokens=8",
    "tracking=off",
)


def generated_table(page: str, name: str) -> str:
    """The text between a page's two markers."""
    text = (ROOT / page).read_text()
    return text.partition(f"<!-- {name} -->\n")[2].partition(f"\n<!-- /{name} -->")[0]


def files(page: str) -> dict[str, str]:
    """The files that a page shows, by name: fenced code blocks with a title."""
    text = (ROOT / page).read_text()
    return dict(re.findall(r'```(?:python|yaml) title="([^"]+)"\n(.*?)```', text, re.DOTALL))
