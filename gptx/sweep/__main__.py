"""``python -m gptx.sweep``: how the sweeps under outputs/ stand, what came of them, and an end to those that run."""

import argparse
import difflib
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gptx import cli
from gptx.errors import GptxError, RunFailed
from gptx.runs import journal
from gptx.runs.folder import RunFolder
from gptx.runs.json_log import JsonLog
from gptx.sweep.execute import slurm_cluster
from gptx.sweep.execute.slurm_jobs import jobs_of
from gptx.sweep.state.folder import FOLDER, Sweep, sweeps
from gptx.sweep.state.status import ORDER, Standing, left_out_in, standings

_STYLES = {"running": "cyan", "finished": "green", "failed": "bold red", "refused": "yellow", "stopped": "yellow"}
_HELP = """\
  python -m gptx.sweep status [SWEEP]    every run of it: waiting, running, finished, failed and why
  python -m gptx.sweep collect [SWEEP]   its finished runs into MLflow and side by side, then every failure
  python -m gptx.sweep cancel [SWEEP]    end what waits or runs, after a checkpoint; the same command goes on with it
  python -m gptx.sweep list              the sweeps there are

SWEEP: its name, or its folder; without it the newest. exit code: 0; 1: collect found a failed run; 2: a mistake.
"""


def main(argv: Sequence[str] | None = None) -> int:
    code = 0

    def work() -> None:
        nonlocal code
        parser = cli.Parser(
            "python -m gptx.sweep", description=_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument("what", choices=["status", "collect", "cancel", "list"], metavar="WHAT")
        parser.add_argument("sweep", nargs="?", default="", metavar="SWEEP")
        parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="where the runs lie (outputs)")
        args = parser.parse_args(argv)
        if args.what == "list":
            _list(_sweeps(args.outputs))
        else:
            code = {"status": _status, "collect": _collect, "cancel": _cancel}[args.what](
                _find(args.outputs, args.sweep)
            )

    return cli.exit_code(work) or code


def _sweeps(outputs: Path) -> list[Sweep]:
    if not (found := sweeps(outputs)):
        raise GptxError(f"no sweep in {outputs}: python -m gptx.run -m ... makes one")
    return found


def _find(outputs: Path, given: str) -> Sweep:
    folder = Path(given)
    if given and folder.parent.name == FOLDER and (folder / "plan.json").exists():
        return Sweep(folder.parent.parent, folder.name)
    found = {sweep.name: sweep for sweep in _sweeps(outputs)}
    if not given:
        return list(found.values())[-1]
    if given not in found:
        close = difflib.get_close_matches(given, found, 1, 0.4)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise GptxError(f"no sweep {given} in {outputs}{hint} (python -m gptx.sweep list)")
    return found[given]


def _list(sweeps: list[Sweep]) -> None:
    """On a terminal, whose width no command would leave room for, these follow."""
    console, table = _console(), Table(box=None, pad_edge=False)
    for name in ("sweep", "by", "on", "runs", "finished", *([] if console.is_terminal else ["command"])):
        table.add_column(name, no_wrap=True, justify="right" if name in ("runs", "finished") else "left")
    for sweep in sweeps:
        plan = sweep.plan
        runs = [sweep.outputs / cell["run"] for cell in plan["cells"] if cell["run"]]
        done = sum((run / journal.NAME).exists() and journal.status(run) == "finished" for run in runs)
        cells = (sweep.name, plan["kind"], plan["launcher"], str(len(plan["cells"])), str(done), plan["command"])
        table.add_row(*map(Text, cells[: len(table.columns)]))
    console.print(table)
    for sweep in sweeps if console.is_terminal else []:
        console.print(Text.assemble((f"\n{sweep.name}: ", "bold"), sweep.plan["command"]), soft_wrap=True)


def _status(sweep: Sweep) -> int:
    plan, found = sweep.plan, list(standings(sweep))
    console = _console()
    console.print(f"{sweep.name} ({plan['kind']} on {plan['launcher']}): {_counts(found)}", markup=False)
    console.print(_table(found))
    if not any(one.open for one in found):
        again = {"stopped", "not started", "" if plan["kind"] == "optuna" else "failed"}  # a search tries nothing twice
        if any(one.state in again for one in found):
            console.print(f"again, for what is not finished: {plan['command']}", markup=False)
        console.print(f"python -m gptx.sweep collect {sweep.name}", markup=False)
    return 0


def _counts(found: list[Standing]) -> str:
    counts = Counter(one.state for one in found)
    return ", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state])


def _table(found: list[Standing]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for title, one in _gathered(found):
        job = f"job {one.job}" if one.job else ""
        table.add_row(Text(title), Text(one.state, _STYLES.get(one.state, "")), job, Text(one.told))
    return table


def _gathered(found: list[Standing]) -> Iterator[tuple[str, Standing]]:
    """Each with its title; those that are refused for one reason together, at the end."""
    refused: dict[str, list[Standing]] = {}
    for one in found:
        if one.state == "refused":
            refused.setdefault(one.told, []).append(one)
        else:
            yield one.title, one
    for alike in refused.values():
        more = f" and {len(alike) - 1} more" if alike[1:] else ""
        yield alike[0].title + more, alike[0]


def _collect(sweep: Sweep) -> int:
    from gptx.compare.render import show
    from gptx.sweep.closing import list_reasons
    from gptx.sweep.plan import learning_rates
    from gptx.tracking.sync import send

    found = list(standings(sweep))
    begun = [one.folder for one in found if one.folder and (one.folder / journal.NAME).exists()]
    for uri in sorted({uri for folder in begun if (uri := _uri(folder)) is not None}):
        _, failures = send([folder for folder in begun if _uri(folder) == uri], sweep.outputs, uri)
        for line in failures:
            print(f"gptx: not in MLflow: {line}", file=sys.stderr)
    plan, done = sweep.plan, [one.folder for one in found if one.state == "finished" and one.folder]
    if plan.get("lr"):
        done = learning_rates.show_choices(plan["cells"], sweep.outputs, left_out_in(sweep, plan))
    if done:
        show(done)
    if still := [one for one in found if one.open]:
        print(f"\n{len(still)} of {len(found)} are not done yet ({_counts(still)}): collect again when they are")
    for state in ("left out", "pruned"):
        list_reasons(state, {one.title: one.told for one in found if one.state == state}, len(found))
    bad = [one for one in found if one.state in ("failed", "refused", "stopped", "not started")]
    if bad:
        print(f"\n{len(bad)} of {len(found)} did not finish:", file=sys.stderr)
    for title, one in _gathered(bad):
        print(f"  {title}\n    {': '.join(filter(None, (one.state, one.told)))}", file=sys.stderr)
    return int(any(one.state == "failed" for one in found))


def _uri(folder: Path) -> str | None:
    """The store that a run's config names; None: it is not tracked."""
    start = RunFolder(folder).start_record()
    tracking = start.config.get("tracking", {}) if start else {}
    return str(tracking.get("uri", "")) if tracking.get("enabled") else None


def _cancel(sweep: Sweep) -> int:
    holder = _holder(sweep)
    if holder:  # first, for it would try again what is cancelled under its hands
        with suppress(ProcessLookupError):
            os.kill(holder, signal.SIGTERM)
    jobs = [one.job for one in standings(sweep) if one.open and one.job] if jobs_of(sweep) else []
    slurm_cluster.cancel(jobs)
    if jobs:
        with JsonLog(sweep.path, shared=bool(holder)) as book:
            book.write("cancelled", jobs=jobs)
    if not jobs and not holder:
        print(f"{sweep.name}: nothing waits or runs")
        return 0
    what = [*([f"{len(jobs)} jobs"] if jobs else []), *([f"the command, process {holder}"] if holder else [])]
    print(f"{sweep.name}: {' and '.join(what)} told to end; runs write a checkpoint, and the same command goes on")
    return 0


def _holder(sweep: Sweep) -> int:
    """The process of this machine that is at work on a sweep; 0: none is."""
    if not journal.locked(sweep.path):
        return 0
    said = (sweep.path / journal.LOCK).read_text()
    found = re.fullmatch(r"process (\d+) on (.+)", said.strip())
    if not found or found[2] != os.uname().nodename:
        raise RunFailed(f"{sweep.name} is at work elsewhere ({said.strip()}): cancel it there")
    return int(found[1])


def _console() -> Console:
    """Nothing is folded on its way into a file or a pipe."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 10_000)


if __name__ == "__main__":
    sys.exit(main())
