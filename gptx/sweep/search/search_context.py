"""The objects that all trials of a search share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gptx.sweep.execute.dashboard import Dashboard
from gptx.sweep.execute.launcher import Launcher
from gptx.sweep.plan.partial_keys import PartialKeys
from gptx.sweep.search.optuna_study import SearchOptions
from gptx.sweep.search.space import Space
from gptx.sweep.state.folder import Sweep
from gptx.sweep.state.records import SweepJournal


@dataclass(frozen=True)
class SearchContext:
    """The objects that all trials of a search share.

    Attributes:
        common: arguments that every run of the sweep gets.
        follow: called with the folder of each run before it starts.
        keys: the keys that only some points have; None: all points have all keys.
    """

    options: SearchOptions
    space: Space
    common: Sequence[str]
    launcher: Launcher
    sweep: Sweep
    journal: SweepJournal
    dashboard: Dashboard
    follow: Callable[[Path], None]
    keys: PartialKeys | None = None
