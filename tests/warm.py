"""A process that has loaded torch and runs commands in forks of itself: each starts seconds earlier than a new one.

`WarmParent` starts this file as a script and sends it one request at a time: a module, its arguments, the working
directory, the environment, and the three standard streams. The script forks. The child runs the module as ``python -m``
does, and the script returns its exit code. Processes that the child starts through multiprocessing are forks, too:
`_fork_instead_of_spawn` gives them what a new interpreter would have.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
from multiprocessing import util
from pathlib import Path
from tempfile import TemporaryFile
from typing import NoReturn

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

# What a run imports. Nothing in it starts a thread.
MODULES = ("gptx.sweep.execute.preload", "gptx.training.run", "gptx.training.session")


class WarmParent:
    """The handle of the script."""

    def __init__(self, env: dict[str, str], modules: tuple[str, ...] = MODULES) -> None:
        self._socket, theirs = socket.socketpair()
        script = [sys.executable, __file__, str(theirs.fileno()), *modules]
        # Threads that a library starts while it loads would not survive the fork.
        self._process = subprocess.Popen(script, pass_fds=[theirs.fileno()], env=env | {"OMP_NUM_THREADS": "1"})
        theirs.close()

    def run(self, words: list[str], cwd: Path, env: dict[str, str], timeout: float) -> tuple[int, str, str]:
        """Run ``python -m WORDS`` in a fork; returns its exit code, stdout and stderr.

        Raises:
            TimeoutError: it took longer than ``timeout`` seconds; it has been killed.
        """
        with TemporaryFile("w+") as out, TemporaryFile("w+") as err, open(os.devnull) as null:
            request = json.dumps({"words": words, "cwd": str(cwd), "env": env}) + "\n"
            socket.send_fds(self._socket, [request.encode()], [file.fileno() for file in (null, out, err)])
            pid = self._number()
            self._socket.settimeout(timeout)
            try:
                code = self._number()
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise
            out.seek(0)
            err.seek(0)
            return code, out.read(), err.read()

    def _number(self) -> int:
        line = b""
        while not line.endswith(b"\n"):
            line += self._socket.recv(1)
        return int(line)

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


def _serve(connection: socket.socket) -> list[str]:
    """Fork for each request. Returns in the children, with the words of their command; the parent exits at the end."""
    data, descriptors = b"", []
    while True:
        received, streams, *_ = socket.recv_fds(connection, 1 << 16, 3)
        if not received:
            os._exit(0)
        data += received
        descriptors = [*streams] if streams else descriptors  # they come with the first bytes
        if not data.endswith(b"\n"):
            continue
        request, data = json.loads(data), b""
        pid = os.fork()
        if pid == 0:
            connection.close()
            return _become(request, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        connection.sendall(f"{pid}\n".encode())
        status = os.waitpid(pid, 0)[1]
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _become(request: dict[str, object], descriptors: list[int]) -> list[str]:
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.chdir(str(request["cwd"]))
    os.environ.clear()
    os.environ.update(request["env"])  # type: ignore[call-overload]
    sys.path[0] = str(request["cwd"])  # as ``python -m`` does
    return list(request["words"])  # type: ignore[call-overload]


def _fork_instead_of_spawn() -> None:
    """Let multiprocessing's "spawn" and "forkserver" fork this process where they would start an interpreter."""
    spawn = util.spawnv_passfds

    def fork(executable: bytes, arguments: list[str], descriptors: list[int]) -> int:
        code = arguments[arguments.index("-c") + 1]
        if not code.startswith(("from multiprocessing.spawn", "from multiprocessing.forkserver")):
            return spawn(executable, arguments, descriptors)
        sys.stdout.flush()
        sys.stderr.flush()
        if pid := os.fork():
            return pid
        status = 1
        try:
            _forget_parent(set(descriptors))
            sys.argv = arguments[arguments.index("-c") :]
            del sys.argv[1]
            exec(code, {})
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            traceback.print_exc()
        os._exit(_at_exit(status))

    util.spawnv_passfds = fork


def _forget_parent(descriptors: set[int]) -> None:
    """Undo what a new process would not inherit: Hydra's state, Python's signal handlers, and open files."""
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2 and descriptor not in descriptors | {null}:
            with contextlib.suppress(OSError):
                os.dup2(null, descriptor, inheritable=False)  # not closed: an object of the parent may close it later


def _at_exit(status: int) -> int:
    """What an interpreter does at its end; the parent's frames, which are still below, must not be unwound."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def main() -> NoReturn:
    connection, *modules = sys.argv[1:]
    for module in modules:
        importlib.import_module(module)
    gc.freeze()  # otherwise each child's garbage collector would copy the memory that it shares with this process
    module, *sys.argv[1:] = _serve(socket.socket(fileno=int(connection)))
    _fork_instead_of_spawn()
    sys.modules.pop(module, None)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    main()
