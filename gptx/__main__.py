"""``gptx COMMAND``: all commands under one name. Each is also ``python -m gptx.COMMAND``."""

import difflib
import os
import sys
from importlib import import_module

from gptx import cli
from gptx.errors import ConfigError
from gptx.terminal import echo

COMMANDS = {
    "run": "train, resume or show one run",
    "sweep": "run every combination of several values; list, status, collect, cancel sweeps",
    "compare": "compare finished runs: a table, with error bars",
    "ui": "show all runs in MLflow",
    "generate": "continue a text with a trained model",
    "new": "write a working attention, encoding, window, ... of your own, to change",
    "variants": "list all variants: paper, cost, what each rejects",
    "prove": "check the properties that every variant must have: causality, gradients, cache, documents, cost",
    "certify": "train a part of a run again and compare it bit for bit",
    "sync": "write the journals of runs to MLflow",
}
MODULES = {"sweep": "gptx.sweep.__main__", "compare": "gptx.compare.__main__"}
COMPLETION = ("-sc", "--shell-completion")


def main(argv: list[str] | None = None) -> int:
    """Run ``gptx`` with these arguments, or with those of the process; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if any(argument in COMPLETION for argument in arguments[:1]):
        return _complete(arguments)
    if arguments[:1] == ["--version"]:
        from gptx import __version__

        echo(f"gptx {__version__}")
        return 0
    if not arguments or arguments[0] in ("-h", "--help"):
        return cli.exit_code(lambda: echo(_help()))
    return cli.exit_code(lambda: _run(*arguments))


def _run(command: str, *arguments: str) -> int:
    if command not in COMMANDS:
        close = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise ConfigError(f"unknown command '{command}'.{hint} Commands: {', '.join(COMMANDS)}.")
    module = import_module(MODULES.get(command, f"gptx.{command}"))
    return int(module.main(list(arguments)))


def _help() -> str:
    return "\n".join(
        [
            "gptx trains and compares variants of GPT: which is better, by how much, how certainly, and at what cost?",
            "",
            "usage: gptx COMMAND [ARGUMENT ...]",
            "",
            *(f"  {command:<10}{what}" for command, what in COMMANDS.items()),
            "",
            "gptx COMMAND --help explains a command; -v shows diagnostics, -q errors only.",
            'eval "$(gptx -sc install=bash)" completes commands, options and keys in this shell (zsh, fish: the same).',
            "",
            cli.exit_code_table(),
        ]
    )


def _complete(arguments: list[str]) -> int:
    """Shell completion. Hydra's script asks for the choices with the line typed so far in COMP_LINE."""
    from gptx import run

    words = os.environ.get("COMP_LINE", "").split(" ")
    if any(argument.startswith("query=") for argument in arguments):
        if len(words) <= 2:
            echo(" ".join(COMMANDS))
            return 0
        if words[1] not in ("run", "sweep"):
            return 0  # the shell completes names of files
        os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
    return run.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
