"""The options of the Slurm launcher (launch/slurm.yaml), and what they mean for submitit."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gptx.errors import ConfigError

_PASSED_ON = ("partition", "account", "qos", "constraint", "array_parallelism")  # submitit has the same names


@dataclass(frozen=True)
class ArrayShape:
    """The properties that all jobs of one array share."""

    nodes: int
    processes_per_node: int
    device: str

    def describe(self, runs: int) -> str:
        """A text such as "3 runs, each on 2 nodes with 4 processes per node"."""
        nodes, each = _count(self.nodes, "node"), _count(self.processes_per_node, "process", "processes")
        return f"{_count(runs, 'run')}, each on {nodes} with {each}{' per node' if self.nodes > 1 else ''}"


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """The keys of launch/slurm.yaml. That file describes them."""

    device: str
    per_node: int
    partition: str
    account: str
    qos: str
    constraint: str
    gpus_per_node: int
    cpus: int
    mem_gb: float
    minutes: int
    signal_delay: int
    requeues: int
    array_parallelism: int
    setup: list[str]
    python: str
    sbatch: dict[str, Any]
    wait: bool

    def check(self) -> None:
        """Raises:
        ConfigError: a value is out of range.
        """
        minimum = dict.fromkeys(("per_node", "cpus", "minutes", "array_parallelism"), 1)
        minimum |= dict.fromkeys(("gpus_per_node", "mem_gb", "signal_delay", "requeues"), 0)
        for key, least in minimum.items():
            if getattr(self, key) < least:
                raise ConfigError(f"hydra.launcher.{key}={getattr(self, key)}: expected at least {least}")
        if self.device not in ("cuda", "cpu"):
            raise ConfigError(f"hydra.launcher.device={self.device}: expected cuda or cpu")
        if self.signal_delay >= 60 * self.minutes:
            raise ConfigError(
                f"hydra.launcher.signal_delay={self.signal_delay} (seconds) is not shorter than "
                f"hydra.launcher.minutes={self.minutes}; use a longer time limit or a smaller signal_delay"
            )

    def for_submitit(self, shape: ArrayShape, name: str, code: Path) -> Mapping[str, object]:
        """The keyword arguments for submitit's executor.

        Args:
            name: name of the jobs.
            code: folder with the copy of the code that the jobs use.
        """
        each = shape.processes_per_node
        gpus = self.gpus_per_node or (each if shape.device == "cuda" else 0)
        found = {key: value for key, value in asdict(self).items() if key in _PASSED_ON and value}
        found |= {"nodes": shape.nodes, "ntasks_per_node": 1, "cpus_per_task": self.cpus * each, "time": self.minutes}
        found |= {"mem": f"{int(1e9 * self.mem_gb * each / 2**20)}M"} if self.mem_gb else {}  # Slurm's M is 2^20 bytes
        found |= {"gpus_per_node": gpus} if gpus else {}
        # The copy comes before the working folder, which may hold files that are being edited.
        path = f"export PYTHONSAFEPATH=1 PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}"
        found["setup"] = [*self.setup, path, f"PYTHONPATH+=:{shlex.quote(str(Path.cwd()))}"]
        extra = {"requeue": True, **self.sbatch}  # also on clusters that do not requeue by default
        return found | {"signal_delay_s": self.signal_delay, "job_name": name, "additional_parameters": extra}


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
