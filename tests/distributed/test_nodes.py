"""Runs on two machines, each with a torchrun of its own: signals, lost machines, and how such runs resume.

The machines are two network namespaces where the system permits them, and two processes elsewhere.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from command import DEADLINE, Gptx, pausing, records, same, send, the_first, until, unused_port, words
from conftest import Maker

from gptx.runs import journal

pytestmark = pytest.mark.full


@dataclass(frozen=True)
class Node:
    """A machine: its address, and the command prefix that runs a command on it."""

    address: str
    prefix: list[str]


BRIDGE = """
set -e
for i in 0 1; do
    ip netns add {name}$i
    ip -n {name}$i link set lo up
    mkdir -p /etc/netns/{name}$i
    printf '127.0.0.1 localhost\\n10.213.77.1 {name}0\\n10.213.77.2 {name}1\\n' > /etc/netns/{name}$i/hosts
done
ip -n {name}0 link add veth0 type veth peer name veth0 netns {name}1
for i in 0 1; do
    ip -n {name}$i addr add 10.213.77.$((i + 1))/24 dev veth0
    ip -n {name}$i link set veth0 up
    ip netns exec {name}$i unshare --uts true
done
"""


@pytest.fixture(scope="session")
def nodes() -> Iterator[list[Node]]:
    """Two machines, as separate as this system permits."""
    name = f"gptx{os.getpid()}n"
    try:
        has_namespaces = os.geteuid() == 0 and not subprocess.run(["sh", "-c", BRIDGE.format(name=name)]).returncode
        if has_namespaces:
            prefixes = [["ip", "netns", "exec", f"{name}{i}", "unshare", "--uts", "sh", "-c"] for i in (0, 1)]
            names = [f'hostname {name}{i}; exec "$0" "$@"' for i in (0, 1)]
            yield [Node(f"10.213.77.{i + 1}", [*prefixes[i], names[i]]) for i in (0, 1)]
        else:
            yield [Node("127.0.0.1", [])] * 2
    finally:
        for i in (0, 1) if os.geteuid() == 0 else ():
            subprocess.run(["sh", "-c", f"ip netns del {name}{i}; rm -rf /etc/netns/{name}{i}"], capture_output=True)


class Torchrun:
    """The torchrun of one machine."""

    def __init__(self, gptx: Gptx, node: Node, *options: str) -> None:
        self.gptx, self.node = gptx, node
        self.options = ["--nproc-per-node=1", f"--local-addr={node.address}", *options]

    def start(self, *overrides: str, **env: str) -> None:
        command = [sys.executable, "-m", "torch.distributed.run", *self.options, "-m", "gptx.run"]
        self.process = self.gptx.start_as([*self.node.prefix, *command], *overrides, **env)

    def power_off(self) -> None:
        """Kill torchrun and its workers, as a loss of power does."""
        agent = psutil.Process(self.process.pid)
        send((agent, *agent.children(recursive=True)), signal.SIGKILL)
        self.process.communicate(timeout=DEADLINE)

    def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and stderr."""
        _, err = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, err


def all_ranks_paused(gptx: Gptx) -> bool:
    return all((gptx.cwd / f"paused-{rank}").exists() for rank in (0, 1))


def test_run_resumes_when_both_machines_start_again_after_one_was_lost(
    gptx: Gptx, nodes: list[Node], reference: Callable[..., Path]
) -> None:
    where = [f"--master-addr={nodes[0].address}", f"--master-port={unused_port()}"]
    first, second = (Torchrun(gptx, node, "--nnodes=2", f"--node-rank={i}", *where) for i, node in enumerate(nodes))
    for torchrun in (first, second):
        torchrun.start(*words("ddp"), **pausing(gptx, 17))
    assert until(lambda: all_ranks_paused(gptx), first.process), first.end()
    the_first(gptx)
    second.power_off()
    (gptx.cwd / "go").touch()
    code, err = first.end()
    assert code == 1
    [line] = [line for line in err.splitlines() if line.startswith("gptx: worker")]
    assert "worker 0 (of 0..1) lost the connection to another worker: RuntimeError" in line
    assert "logs/rank-0000.log" in line
    assert "Traceback" in (gptx.folder / "logs" / "rank-0000.log").read_text()
    assert journal.status(gptx.folder) == "failed"
    assert gptx.orphans() == []

    for torchrun in (first, second):
        torchrun.start(*words("ddp"))
    assert [torchrun.end()[0] for torchrun in (first, second)] == [0, 0]
    assert [record["step"] for record in records(gptx.folder, "resume")] == [10]
    same(gptx.folder, reference("ddp"))


def test_run_resumes_when_the_lost_machine_returns(
    gptx: Gptx, nodes: list[Node], reference: Callable[..., Path]
) -> None:
    """The torchrun of the other machine waits for it. (By default torch 2.13 shares the store of the first round: when
    rank 0 survives, a machine that joins later does not find it.)"""
    fresh = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    where = ["--rdzv-backend=c10d", f"--rdzv-endpoint={nodes[0].address}:{unused_port()}", "--rdzv-id=1"]
    first, second = (Torchrun(gptx, node, "--nnodes=2", "--max-restarts=2", *where) for node in nodes)
    for torchrun in (first, second):
        torchrun.start(*words("fsdp"), **fresh, **pausing(gptx, 17))
    assert until(lambda: all_ranks_paused(gptx), first.process), first.end()
    the_first(gptx)
    second.power_off()
    (gptx.cwd / "go").touch()
    second.start(*words("fsdp"), **fresh)
    ends = [torchrun.end() for torchrun in (first, second)]
    assert [code for code, _ in ends] == [0, 0], "".join(err for _, err in ends)
    assert [record["step"] for record in records(gptx.folder, "resume")] == [10]
    same(gptx.folder, reference("fsdp"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_run_resumes_after_a_signal_to_torchrun(
    gptx: Gptx, reference: Callable[..., Path], number: signal.Signals
) -> None:
    forwarded = "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", forwarded]
    run = gptx.start_as([*torchrun, "-m", "gptx.run"], *words("ddp"), **pausing(gptx, 17))
    assert until(lambda: all_ranks_paused(gptx), run), run.communicate()
    run.send_signal(number)
    (gptx.cwd / "go-after-signal").touch()
    _, err = run.communicate(timeout=DEADLINE)
    assert run.returncode != 0 and "gptx: interrupted; the same command resumes" in err
    assert gptx.orphans() == []
    assert journal.status(gptx.folder) == "interrupted"
    done = gptx(*words("ddp"))
    assert done.code == 0, done.err
    assert [record["step"] >= 17 for record in records(gptx.folder, "resume")] == [True]  # no step was lost
    same(gptx.folder, reference("ddp"))


def test_run_that_is_finished_on_the_first_machine_only_ends_with_a_message(make: Maker, nodes: list[Node]) -> None:
    """The machines do not share a folder: the second one prints a message, and neither waits."""
    first, second = make("first machine"), make("second machine")
    assert first("strategy=ddp").code == 0
    where = [f"--master-addr={nodes[0].address}", f"--master-port={unused_port()}"]
    torchruns = [
        Torchrun(gptx, node, "--nnodes=2", f"--node-rank={i}", *where)
        for i, (gptx, node) in enumerate(zip((first, second), nodes, strict=True))
    ]
    for torchrun in torchruns:
        torchrun.start("strategy=ddp")
    ends = [torchrun.end() for torchrun in torchruns]
    assert [code for code, _ in ends] == [0, 0], ends
    assert "gptx: the run is finished, but not in" in ends[1][1] and "paths.outputs" in ends[1][1]
    assert not second.folders()
