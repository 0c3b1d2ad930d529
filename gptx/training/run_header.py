"""What a run prints before it trains: where it is stored, what it trains, and on what."""

import os
import sys

from omegaconf import DictConfig

from gptx.hardware.cpu import threads
from gptx.runs.checkpoint_files import newest
from gptx.runs.folder import RunFolder
from gptx.runs.preflight_facts import RunFacts
from gptx.runs.provenance import command_line
from gptx.terminal import echo


def print_header(cfg: DictConfig, folder: RunFolder, facts: RunFacts, end: int) -> None:
    """Print the facts of a run to stderr.

    Args:
        end: the last step.

    Raises:
        BrokenPipeError: stderr is a pipe whose reader has ended.
    """
    done = newest(folder.checkpoints) or (facts.resume_source.step if facts.resume_source else 0)
    rows, context = cfg.trainer.batch_size, cfg.model.context
    lines = {
        "folder": folder.path,
        "command": command_line(),
        "device": f"{facts.hardware.device} ({facts.hardware.name}), {facts.dtype}{_threads(cfg, facts)}",
        "strategy": f"{cfg.variant.strategy}, {_count(facts.processes, 'process', 'es')}",
        "model": f"{cfg.variant.model}, {facts.n_params:,.0f} parameters",
        "data": f"{cfg.variant.data} as {cfg.variant.tokenizer}, {facts.data.train_tokens or 0:,} training tokens, "
        f"{facts.data.val_tokens or 0:,} validation tokens",
        "step": f"{rows} rows x {context} tokens = {rows * context:,} tokens",
        "steps": f"{end:,}" + f", the first {done:,} are trained already" * bool(done),
    }
    width = max(map(len, lines))
    echo(folder.path.name, *(f"  {key:<{width}}  {value}" for key, value in lines.items()), file=sys.stderr)


def _threads(cfg: DictConfig, facts: RunFacts) -> str:
    if facts.hardware.device != "cpu":
        return ""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", facts.processes))
    each = " per process" * (facts.processes > 1)
    return f", {_count(threads(cfg.runtime.threads, here), 'thread', 's')}{each}"


def _count(number: int, noun: str, plural: str) -> str:
    return f"{number} {noun}{plural * (number != 1)}"
