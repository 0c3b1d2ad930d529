"""What two workers of gptx's launcher do: ``python -m launched FUNCTION FOLDER`` prints what it says in the end."""

import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist

from gptx.processes import noted_signals
from gptx.strategy import workers
from gptx.strategy.ddp import DDP


def signalled_at_the_end(folder: str) -> None:
    """Rank 0 has finished, and waits for its launcher, when it gets a signal; rank 1 goes on until it has."""
    sent = Path(folder, "sent")
    with noted_signals():
        if os.environ["RANK"] == "0":
            threading.Thread(target=_signal_when_waiting, args=(sent,), daemon=True).start()
            return
        while not sent.exists():
            time.sleep(0.002)


def _signal_when_waiting(sent: Path) -> None:
    main = threading.main_thread().ident or 0
    while not _waits(sys._current_frames()[main]):
        time.sleep(0.002)
    os.kill(os.getpid(), signal.SIGINT)
    sent.touch()


def _waits(frame: object) -> bool:
    code = getattr(frame, "f_code", None)
    return code is not None and code.co_name == "wait" and code.co_filename.endswith("synchronize.py")


def leaves_again_and_again(folder: str) -> None:
    """Forty process groups, one after the other, each left with its replica still held."""
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    here = {"rank": int(os.environ["RANK"]), "world_size": 2}
    begin = dist.init_process_group
    for attempt in range(40):
        keys = dist.PrefixStore(str(attempt), store)
        with patch.object(dist, "init_process_group", partial(begin, store=keys, **here)):
            _one_step()


def _one_step() -> None:
    with DDP(nproc=2, timeout=30).open("cpu") as ddp:
        replica = ddp.place(torch.nn.Linear(64, 64))
        replica(torch.ones(8, 64)).sum().backward()
        ddp.sum(torch.ones(1))


if __name__ == "__main__":
    print(workers.start(globals()[sys.argv[1]], (sys.argv[2],), 2, 1))
