"""Start two workers that each run a function: ``python -m launched FUNCTION FOLDER`` prints the result."""

import atexit
import os
import signal
import sys
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist

from gptx.processes import workers
from gptx.processes.signals import record_stop_signals
from gptx.strategy.ddp import DDP


def signalled_at_the_end(folder: str) -> None:
    """Rank 0 gets a signal after its work."""
    with record_stop_signals():
        pass
    if os.environ["RANK"] == "0":
        os.kill(os.getpid(), signal.SIGTERM)


def aborts_if_the_interpreter_is_finalized(folder: str) -> None:
    """As a thread of gloo may do that releases a tensor then."""
    print("trained")
    atexit.register(os.abort)


def hangs_when_its_peer_dies(folder: str) -> None:
    """Rank 1 dies; rank 0 blocks all signals but SIGKILL."""
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while True:
        signal.pause()


def enters_and_exits_ddp_repeatedly(folder: str) -> None:
    """Create 40 process groups in turn, and leave each while its replica still exists."""
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    arguments = {"rank": int(os.environ["RANK"]), "world_size": 2}
    init = dist.init_process_group
    for attempt in range(40):
        keys = dist.PrefixStore(str(attempt), store)
        with patch.object(dist, "init_process_group", partial(init, store=keys, **arguments)):
            _one_step()


def _one_step() -> None:
    with DDP(nproc=2, timeout=120, restarts=0).open("cpu") as ddp:
        replica = ddp.place(torch.nn.Linear(64, 64))
        replica(torch.ones(8, 64)).sum().backward()
        ddp.sum(torch.ones(1))


if __name__ == "__main__":
    print(workers.start(globals()[sys.argv[1]], (sys.argv[2],), 2, 1, Path(sys.argv[2], "logs")))
