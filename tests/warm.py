"""A process that has loaded torch and runs commands in forks of itself: each starts seconds earlier than a new one.

`WarmParent` starts this file as a script and sends it one request at a time: a module, its arguments, the working
directory, the environment, and the three standard streams. The script forks. The child runs the module as ``python -m``
does, and the script returns its exit code. Processes that the child starts through multiprocessing are forks, too:
`_fork_instead_of_spawn` gives them what a new interpreter would have.
"""

import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import traceback
import weakref
from collections.abc import Callable, Sequence
from multiprocessing import util
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NoReturn

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

# What a run imports. Nothing in it starts a thread.
MODULES = ("gptx.sweep.execute.prewarm_imports", "gptx.training.run_lifecycle", "gptx.training.rank_process")


class WarmProcess:
    """A command in a fork; the part of `subprocess.Popen` that the tests use. It leads a new session.

    Args:
        status: a pipe from which the process id and the exit code are read.
        files: the files to which the output is written and from which it is read at the end.
    """

    def __init__(self, status: int, files: tuple[IO[str], IO[str]]) -> None:
        self._status, self._files = os.fdopen(status), files
        self.pid = int(self._status.readline())
        self.returncode: int | None = None
        self.stdout = self.stderr = None

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self._end()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None and not select.select([self._status], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return self._end()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; returns stdout and stderr."""
        self.wait(timeout)
        return self._texts

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _end(self) -> int:
        if self.returncode is None:
            self.returncode = int(self._status.readline())
            self._status.close()
            self._texts = _read(self._files[0]), _read(self._files[1])
        return self.returncode


def _read(file: IO[str]) -> str:
    """The text of a file, which is closed."""
    with file:
        file.seek(0)
        return file.read()


class WarmParent:
    """The handle of the script.

    Args:
        env: environment variables of the script.
        modules: what it imports.
    """

    def __init__(self, env: dict[str, str], modules: tuple[str, ...] = MODULES) -> None:
        self._socket, child_socket = socket.socketpair()
        script = [sys.executable, __file__, str(child_socket.fileno()), *modules]
        # Threads that a library starts while it loads would not survive the fork.
        self._process = subprocess.Popen(script, pass_fds=[child_socket.fileno()], env=env | {"OMP_NUM_THREADS": "1"})
        child_socket.close()

    def start(self, words: list[str], cwd: Path, env: dict[str, str], streams: Sequence[int] = ()) -> WarmProcess:
        """Start ``python -m WORDS`` in a fork.

        Args:
            streams: descriptors of its stdin, stdout and stderr. Default: an empty stdin, and two files, whose text
                `communicate` returns. If stdin is a terminal, it becomes that of the process.
        """
        files = TemporaryFile("w+"), TemporaryFile("w+")  # noqa: SIM115 - closed by the process
        reader, writer = os.pipe()
        request = json.dumps({"words": words, "cwd": str(cwd), "env": env}) + "\n"
        with open(os.devnull) as null:
            streams = streams or (null.fileno(), files[0].fileno(), files[1].fileno())
            socket.send_fds(self._socket, [request.encode()], [*streams, writer])
        os.close(writer)
        return WarmProcess(reader, files)

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


def _serve(connection: socket.socket) -> list[str]:
    """Fork for each request. Return in each child with the arguments of its command; the parent exits at the end."""
    data, files = b"", []
    while True:
        received, new, *_ = socket.recv_fds(connection, 1 << 16, 4)
        if not received:
            os._exit(0)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # those of earlier requests
                pass
        data, files = data + received, files + new
        if data.endswith(b"\n"):
            if os.fork() == 0:
                connection.close()
                return _start(json.loads(data), files)
            for descriptor in files:
                os.close(descriptor)
            data, files = b"", []


def _start(request: dict[str, Any], files: list[int]) -> list[str]:
    """Fork the command and return in it; the parent reports its process id, waits, and reports its exit code."""
    *streams, status = files
    if pid := os.fork():
        os.write(status, f"{pid}\n".encode())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.write(status, f"{code}\n".encode())
        os._exit(0)
    os.setsid()
    os.close(status)
    for target, descriptor in enumerate(streams):
        os.dup2(descriptor, target)
        os.close(descriptor)
    if os.isatty(0):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[0] = request["cwd"]  # as ``python -m`` does
    return list(request["words"])


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

        def run() -> None:
            _forget_parent(set(descriptors))
            sys.argv = arguments[arguments.index("-c") :]
            del sys.argv[1]
            exec(code, {})

        _exit_with(run)

    util.spawnv_passfds = fork


def _forget_parent(descriptors: set[int]) -> None:
    """Undo what a new process would not inherit: finalizers, Hydra's state, Python's signal handlers, and open files.

    A finalizer of the parent would run at this process's exit, for example delete a temporary folder.
    """
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.detach()
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


def _exit_with(run: Callable[[], object]) -> NoReturn:
    """Run the module of a process and end the process as an interpreter would, but without releasing the objects that
    it shares with its parent: that would copy the memory of all of them."""
    status, interrupted = 0, False
    try:
        run()
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException as error:
        traceback.print_exc()
        status, interrupted = 1, isinstance(error, KeyboardInterrupt)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = 120  # as python does if the output cannot be written
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    os._exit(status)


def main() -> NoReturn:
    connection, *modules = sys.argv[1:]
    for module in modules:
        importlib.import_module(module)
    gc.freeze()  # otherwise each child's garbage collector would copy the memory that it shares with this process
    module, *sys.argv[1:] = _serve(socket.socket(fileno=int(connection)))
    _fork_instead_of_spawn()
    sys.modules.pop(module, None)
    _exit_with(lambda: runpy.run_module(module, run_name="__main__", alter_sys=True))


if __name__ == "__main__":
    main()
