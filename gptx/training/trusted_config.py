"""The config of a run whose parts may come from modules of the user's own, which the user has trusted."""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig

from gptx.cli import log
from gptx.config.plain_dict import plain_dict
from gptx.config.saved_config import load_config
from gptx.config.trust import NotTrusted, own_modules
from gptx.errors import ConfigError
from gptx.runs import journal
from gptx.runs.code_copy import CODE, copied, import_from_copy
from gptx.runs.damaged_files import readable
from gptx.runs.folder import RunFolder
from gptx.runs.provenance import changed

_HINT = "--trust-code (in Python: trust_code=True) runs the copy in"


def trusted_config(run: Path, trust: Iterable[str] = (), trust_code: bool = False) -> DictConfig:
    """The config of a run, after which its parts can be built.

    Args:
        trust: modules outside gptx that the run may use, which are on the Python path.
        trust_code: whether the run may use the copy of its modules in the run folder.

    Raises:
        ConfigError: see `load_config`; or a trusted module, or its copy, cannot be used.
    """
    trust = [trust] if isinstance(trust, str) else list(trust)
    recorded = _recorded(run) if trust_code else {}
    if trust_code:
        trust += import_from_copy(run, recorded)
    try:
        cfg = load_config(run, trust)
    except NotTrusted as error:
        hint = f"; {_HINT} {run / CODE}" if copied(run, _recorded(run)) and not trust_code else ""
        raise ConfigError(f"{error}{hint}") from None
    if modules := own_modules(plain_dict(cfg)):
        _check(run, modules, recorded or _recorded(run))
    return cfg


def _recorded(run: Path) -> dict[str, str]:
    """The hashes of the user's own modules with which a run was started, by name."""
    with readable(run / journal.NAME):
        start = RunFolder(run).start_record()
    return start.code if start else {}


def _check(run: Path, modules: Iterable[str], recorded: dict[str, str]) -> None:
    """Reject modules that are not there, and warn of those that have changed."""
    hint = f"; {_HINT} {run / CODE}" if copied(run, recorded) else ""
    for module in modules:
        if find_spec(module.partition(".")[0]) is None:
            raise ConfigError(f"{run}: {module} is not on the Python path: add its folder to PYTHONPATH{hint}")
    for name in changed(recorded):
        if any(f"{module}.".startswith(f"{name}.") for module in modules):
            log.warning("%s has changed since %s was started, and may compute something else%s", name, run, hint)
