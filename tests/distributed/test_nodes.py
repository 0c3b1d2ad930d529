"""Several machines, each with a torchrun of its own: here two network namespaces where that is permitted, else two
processes; what a signal or a death does to them, and how they go on."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from command import DEADLINE, Gptx, pausing, records, same, send, the_first, until, unused_port, words
from conftest import Maker

from gptx.runs import journal

Nodes = list[tuple[str, list[str]]]  # each one's address, and the command that a command on it begins with
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
def nodes() -> Iterator[Nodes]:
    """Two machines, as far as this one lets us."""
    name = f"gptx{os.getpid()}n"
    try:
        made = os.geteuid() == 0 and not subprocess.run(["sh", "-c", BRIDGE.format(name=name)]).returncode
        if made:
            here = [["ip", "netns", "exec", f"{name}{i}", "unshare", "--uts", "sh", "-c"] for i in (0, 1)]
            names = [f'hostname {name}{i}; exec "$0" "$@"' for i in (0, 1)]
            yield [(f"10.213.77.{i + 1}", [*here[i], names[i]]) for i in (0, 1)]
        else:
            yield [("127.0.0.1", [])] * 2
    finally:
        for i in (0, 1) if os.geteuid() == 0 else ():
            subprocess.run(["sh", "-c", f"ip netns del {name}{i}; rm -rf /etc/netns/{name}{i}"], capture_output=True)


class Machine:
    """One of them: it starts its torchrun, and may lose its power."""

    def __init__(self, gptx: Gptx, node: tuple[str, list[str]], *options: str) -> None:
        self.gptx, (self.address, self.prefix) = gptx, node
        self.options = ["--nproc-per-node=1", f"--local-addr={self.address}", *options]

    def start(self, *overrides: str, **env: str) -> None:
        command = [sys.executable, "-m", "torch.distributed.run", *self.options, "-m", "gptx.run"]
        self.torchrun = self.gptx.start_as([*self.prefix, *command], *overrides, **env)

    def off(self) -> None:
        """All at once: torchrun, and what it started."""
        agent = psutil.Process(self.torchrun.pid)
        send((agent, *agent.children(recursive=True)), signal.SIGKILL)
        self.torchrun.communicate(timeout=DEADLINE)

    def end(self) -> tuple[int, str]:
        _, err = self.torchrun.communicate(timeout=DEADLINE)
        return self.torchrun.returncode, err


def everybody(gptx: Gptx) -> bool:
    return all((gptx.cwd / f"paused-{rank}").exists() for rank in (0, 1))


def test_a_machine_is_lost_and_both_are_started_again(gptx: Gptx, nodes: Nodes, reference: Callable[..., Path]) -> None:
    where = [f"--master-addr={nodes[0][0]}", f"--master-port={unused_port()}"]
    first, second = (Machine(gptx, node, "--nnodes=2", f"--node-rank={i}", *where) for i, node in enumerate(nodes))
    for machine in (first, second):
        machine.start(*words("ddp"), **pausing(gptx, 17))
    assert until(lambda: everybody(gptx), first.torchrun), first.end()
    the_first(gptx)
    second.off()
    (gptx.cwd / "go").touch()
    code, err = first.end()
    assert code == 1
    [line] = [line for line in err.splitlines() if line.startswith("gptx: worker")]
    assert "worker 0 (of 0..1) lost the connection to another worker: RuntimeError" in line
    assert "logs/rank-0000.log" in line
    assert "Traceback" in (gptx.folder / "logs" / "rank-0000.log").read_text()
    assert journal.status(gptx.folder) == "failed"
    assert gptx.orphans() == []

    for machine in (first, second):
        machine.start(*words("ddp"))
    assert [machine.end()[0] for machine in (first, second)] == [0, 0]
    assert [record["step"] for record in records(gptx.folder, "resume")] == [10]
    same(gptx.folder, reference("ddp"))


@pytest.mark.slow
def test_a_machine_is_lost_and_comes_back(gptx: Gptx, nodes: Nodes, reference: Callable[..., Path]) -> None:
    """The other one's torchrun has stayed, and waits for it. (torch 2.13 has to be told not to keep the first round's
    store: where the first rank survives, it tells a newcomer nothing of it.)"""
    fresh = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    where = ["--rdzv-backend=c10d", f"--rdzv-endpoint={nodes[0][0]}:{unused_port()}", "--rdzv-id=1"]
    first, second = (Machine(gptx, node, "--nnodes=2", "--max-restarts=2", *where) for node in nodes)
    for machine in (first, second):
        machine.start(*words("fsdp"), **fresh, **pausing(gptx, 17))
    assert until(lambda: everybody(gptx), first.torchrun), first.end()
    the_first(gptx)
    second.off()
    (gptx.cwd / "go").touch()
    second.start(*words("fsdp"), **fresh)
    ends = [machine.end() for machine in (first, second)]
    assert [code for code, _ in ends] == [0, 0], "".join(err for _, err in ends)
    assert [record["step"] for record in records(gptx.folder, "resume")] == [10]
    same(gptx.folder, reference("fsdp"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_to_torchrun_leaves_a_run_that_goes_on(
    gptx: Gptx, reference: Callable[..., Path], number: signal.Signals
) -> None:
    handed_on = "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", handed_on]
    run = gptx.start_as([*torchrun, "-m", "gptx.run"], *words("ddp"), **pausing(gptx, 17))
    assert until(lambda: everybody(gptx), run), run.communicate()
    run.send_signal(number)
    (gptx.cwd / "go-when-told").touch()
    _, err = run.communicate(timeout=DEADLINE)
    assert run.returncode != 0 and "gptx: interrupted; the same command resumes" in err
    assert gptx.orphans() == []
    assert journal.status(gptx.folder) == "interrupted"
    done = gptx(*words("ddp"))
    assert done.code == 0, done.err
    assert [record["step"] >= 17 for record in records(gptx.folder, "resume")] == [True]  # nothing was lost
    same(gptx.folder, reference("ddp"))


def test_nobody_waits_for_a_run_that_is_finished_elsewhere(make: Maker, nodes: Nodes) -> None:
    """Machines without a folder in common: only the first knows."""
    here, there = make("first machine"), make("second machine")
    assert here("strategy=ddp").code == 0
    where = [f"--master-addr={nodes[0][0]}", f"--master-port={unused_port()}"]
    machines = [
        Machine(gptx, node, "--nnodes=2", f"--node-rank={i}", *where)
        for i, (gptx, node) in enumerate(zip((here, there), nodes, strict=True))
    ]
    for machine in machines:
        machine.start("strategy=ddp")
    ends = [machine.end() for machine in machines]
    assert [code for code, _ in ends] == [0, 0], ends
    assert "gptx: the run is finished, but not in" in ends[1][1] and "paths.outputs" in ends[1][1]
    assert not there.folders()
