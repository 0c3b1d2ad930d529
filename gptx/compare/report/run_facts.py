"""How the runs of a report were made: samples of text, commands, machines, versions."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gptx.compare.formatting import count
from gptx.compare.report.shown_arms import ShownArm
from gptx.compare.run_rows import RunRow

_LONGEST = 2000  # characters of a sample that are shown


@dataclass(frozen=True)
class TextSample:
    """Text that a run of an arm generated after training."""

    arm: str
    seed: str
    text: str


@dataclass(frozen=True)
class RunFact:
    """A property of the runs with its values, each with the number of runs that have it if there are several."""

    name: str
    values: tuple[str, ...]


def samples(arms: Sequence[ShownArm]) -> list[TextSample]:
    """One for each arm, of the first run that has one."""
    found = []
    for one in arms:
        row = next((row for row in one.rows if row.result.sample), None)
        if row is not None:
            text = row.result.sample
            cut = f"{text[:_LONGEST]} …" if len(text) > _LONGEST else text
            found.append(TextSample(one.arm.name, str(row.seed_label), cut))
    return found


def commands(rows: Iterable[RunRow]) -> list[str]:
    """The commands of the runs, without repetitions."""
    return list(dict.fromkeys(row.result.command for row in rows if row.result.command))


def run_facts(rows: Sequence[RunRow]) -> list[RunFact]:
    """Machines, precision, data, code and versions of all runs with a record."""
    known = [row for row in rows if row.result.uid or row.result.name]
    values: dict[str, list[str]] = {
        "hardware": [row.hardware for row in known],
        "GPU": [row.result.hardware.name for row in known if row.device not in ("", "cpu")],
        "processes × threads": [f"{row.result.processes} × {row.result.threads or '?'}" for row in known],
        "precision": [row.result.dtype for row in known],
        "data": [f"{row.variant.get('data', '?')} {row.result.corpus_hash[:8]}" for row in known],
        "tokenizer": [f"{row.variant.get('tokenizer', '?')} {row.result.tokenizer_hash[:8]}" for row in known],
        "git commit": [_commit(row) for row in known],
    }
    packages = sorted({name for row in known for name in row.result.versions})
    values |= {name: [str(row.result.versions.get(name, "")) for row in known] for name in packages}
    return [RunFact(name, _counted(found)) for name, found in values.items() if any(found)]


def _commit(row: RunRow) -> str:
    git = row.result.git
    return f"{git.commit[:12]}{' with changes' * git.dirty}" if git.commit else ""


def _counted(values: Sequence[str]) -> tuple[str, ...]:
    found = Counter(value or "unknown" for value in values)
    if len(found) == 1:
        return tuple(found)
    return tuple(f"{value} ({count(n, 'run')})" for value, n in found.most_common())
