"""The command: compose -> check -> start the workers -> train. ``python -m gptx.run --help`` teaches its use.

Run again, the same command goes on with an interrupted run and shows the result of a finished one.
"""

import contextlib
import os
import shlex
import signal
import sys
import traceback
import uuid
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gptx.cli import Parser
from gptx.config import compose, conf_dir, explain, plain_dict, run_name
from gptx.errors import GptxError
from gptx.journal import Journal
from gptx.preflight import folder_of, preflight
from gptx.runfolder import RunFolder, write_json
from gptx.tracking import Follower

if TYPE_CHECKING:
    from gptx.strategy.base import Strategy

EXIT_INTERRUPTED = 130


def main() -> None:
    """The command line, as ``python -m gptx.run`` has it."""
    try:
        _command()
    except SystemExit as end:
        if end.code and "RANK" in os.environ:  # a worker's broken process group would wait for its peers, or abort
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else 1)
        raise


def _command() -> None:
    """Run the command line; every error meant for the user is one line and an exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them its own way
    try:
        _check_flags()
        hydra.main(str(conf_dir()), "config", version_base="1.3")(_task)()
    except (HydraException, OmegaConfBaseException) as error:
        _fail(explain(error, sys.argv[1:]), 2)
    except GptxError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:  # a disk that is full or not writable
        _fail(f"{error}; the same command goes on from the last checkpoint", 1)
    except KeyboardInterrupt:
        _fail("interrupted; the same command goes on from the last checkpoint", EXIT_INTERRUPTED)


def _check_flags() -> None:
    """Flags may stand anywhere among the overrides, and a wrong one gets a line as every mistake does."""
    parser = get_args_parser()
    parser.prog = "python -m gptx.run"
    parser.error = partial(Parser.error, parser)  # type: ignore[method-assign, arg-type]
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word.startswith("~") or ("=" in word and word[0] != "-"))
    parser.parse_args(sys.argv[1:])


def _fail(text: str, code: int) -> NoReturn:
    print(f"gptx: {text}", file=sys.stderr)
    raise SystemExit(code)


def _task(_: DictConfig) -> None:
    """One run. Hydra's own composition is not used: ours is checked."""
    try:
        code = run(compose(HydraConfig.get().overrides.task))
    except GptxError as error:  # not left to Hydra, which would add a line of its own
        _fail(str(error), error.exit_code)
    raise SystemExit(code)


def run(cfg: DictConfig) -> int:
    """Train, resume or show one run; returns the exit code."""
    folder, name = folder_of(cfg)
    if folder.finished() and not cfg.force:
        if _rank() == 0:
            _summary(cfg, folder, "finished already")
        return 0
    strategy, processes, facts = preflight(cfg)
    if _rank() > 0:  # another worker of torchrun: the first keeps the books
        from gptx.train import worker

        worker(plain_dict(cfg), str(folder.path))
        return 0
    with folder.lock():
        folder.settle()
        if folder.finished() and not cfg.force:  # by another command, while this one was getting ready
            _summary(cfg, folder, "finished already")
            return 0
        replaced = folder.set_aside(Path(cfg.paths.outputs)) if cfg.force else None
        _begin(cfg, folder, name, facts, replaced)
        follower = Follower.start([folder.path], plain_dict(cfg)["tracking"], Path(cfg.paths.outputs))
        try:
            code = _train(cfg, folder, strategy, processes)
        finally:
            warning = follower.finish() if follower else None
    if warning:
        print(f"gptx: {warning}", file=sys.stderr)
    if code == 0:
        _summary(cfg, folder, "finished")
    return code


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _begin(cfg: DictConfig, folder: RunFolder, name: str, facts: dict[str, Any], replaced: str | None) -> None:
    """Write down what the run is, or that it goes on."""
    from gptx.provenance import git, versions

    with Journal(folder.path) as book:
        here = {"pid": os.getpid(), "host": os.uname().nodename}
        _describe(cfg, folder, facts.pop("tokenizer"))
        remarks = facts.pop("remarks")
        if folder.start_record():
            from gptx.checkpoint import set_damaged_aside, steps

            set_damaged_aside(folder.checkpoints, lambda text: _warn(book, text))
            saved = steps(folder.checkpoints)
            (folder.path / "result.json").unlink(missing_ok=True)  # of the attempt before; the journal keeps it
            _warn_of_other_hardware(folder, facts, book)
            book.write("resume", step=int(saved[-1].name[5:]) if saved else 0, **here)
            return
        book.write(
            "start",
            uid=uuid.uuid4().hex,
            identity=name,
            name=run_name(cfg),
            study=cfg.study,
            variant=plain_dict(cfg)["variant"],
            seed=cfg.seed,
            config={key: value for key, value in plain_dict(cfg).items() if key != "variant"},
            command=shlex.join(["python", "-m", "gptx.run", *(w for w in sys.argv[1:] if not w.startswith("force="))]),
            git=git(),
            versions=versions(),
            replaces=replaced,
            **facts,
            **here,
        )
        for remark in remarks:
            _warn(book, remark)


def _describe(cfg: DictConfig, folder: RunFolder, tokenizer: dict[str, Any]) -> None:
    """config.yaml and tokenizer.json: all that a run needs beside its weights. Written once."""
    if not (folder.path / "config.yaml").exists():
        write_json(folder.path / "tokenizer.json", tokenizer)
        OmegaConf.save(cfg, folder.path / ".config.part", resolve=True)
        (folder.path / ".config.part").rename(folder.path / "config.yaml")


def _warn_of_other_hardware(folder: RunFolder, facts: dict[str, Any], book: Journal) -> None:
    start = folder.start_record() or {}
    before, now = ({**f["hardware"], "dtype": f["dtype"], "processes": f.get("processes")} for f in (start, facts))
    watched = ("dtype", "name", "processes")
    changed = [f"{key} {before.get(key)} -> {now[key]}" for key in watched if before.get(key) != now[key]]
    if changed:
        _warn(book, f"goes on otherwise than it began ({', '.join(changed)}): the result is not the same bit for bit")


def _warn(book: Journal, text: str) -> None:
    book.write("event", step=max(0, book.last_step), level="warning", text=text)
    print(f"gptx: {text}", file=sys.stderr)


def _train(cfg: DictConfig, folder: RunFolder, strategy: "Strategy", processes: int) -> int:
    """Train in this process or in workers; whatever happens, the journal says how it ended."""
    from gptx.strategy import workers
    from gptx.train import Interrupted, fit, threads, worker

    number = 0
    try:
        if workers.launched() or strategy.in_process:
            fit(cfg, str(folder.path))
        else:
            number = workers.start(worker, (plain_dict(cfg), str(folder.path)), processes, threads(cfg, processes))
    except (Interrupted, KeyboardInterrupt) as stop:
        number = next((n for n in stop.args if n), signal.SIGINT)
    except (GptxError, OSError) as error:
        with contextlib.suppress(GptxError, OSError):  # on a full disk: the journal then has no end, and that says it
            folder.end("failed", error=str(error).splitlines()[-1])  # of a worker's traceback: what was raised
        raise
    except Exception as error:
        folder.end("failed", error=f"{type(error).__name__}: {error}")
        traceback.print_exc()
        return 1
    if folder.finished():  # a signal in the last moment comes too late
        return 0
    folder.end("interrupted")
    print(f"gptx: interrupted; the same command goes on from the last checkpoint in {folder.path}", file=sys.stderr)
    return 128 + (number or signal.SIGINT)


def _summary(cfg: DictConfig, folder: RunFolder, how: str) -> None:
    from gptx.summary import brief, show

    result = folder.result()
    assert result is not None
    (brief if cfg.runtime.brief else show)(result, folder.path, how)


if __name__ == "__main__":
    main()
