"""The addresses of artifacts in MLflow's database, which are absolute: they are corrected after the store was moved.

A store may come from somebody else. MLflow reads and writes wherever an address leads, so all must lead into the store.
"""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from gptx.errors import ConfigError, RunFailed

_COLUMNS = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}
_TAG = "select value from trace_tags where key = 'mlflow.artifactLocation'"
_REFERENCES = ("mlflow-artifacts", "models", "runs")  # schemes of addresses that MLflow looks up in the database
_EMPTY_DEFAULT = (
    "where experiment_id = 0 and name = 'Default' and lifecycle_stage = 'active'"
    " and not exists (select 1 from runs where runs.experiment_id = experiments.experiment_id)"
)
_ROOT = "/.mlflow/artifacts"  # the end of the address of a store's artifacts


def correct_addresses(database: Path, artifacts: Path) -> None:
    """Let every address in the database of a store point below the folder ``artifacts``, which is beside the database.

    A store that is used under two names of one folder is not changed. The empty experiment ``Default`` that MLflow
    creates is hidden.

    Raises:
        ConfigError: an address leads out of the folder, or the database would change addresses by itself.
        RunFailed: the database cannot be read, or has wrong addresses and cannot be written.
    """
    try:
        with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
            for old in _other_roots(connection, artifacts):
                _replace(connection, old, artifacts.as_uri())
            if connection.execute(f"select 1 from experiments {_EMPTY_DEFAULT}").fetchone():
                connection.execute(f"update experiments set lifecycle_stage = 'deleted' {_EMPTY_DEFAULT}")
            if foreign := next(_foreign(connection, artifacts), ""):
                raise ConfigError(
                    f"{database} {foreign}: gptx does not use such a store. Without the folder {database.parent}, gptx "
                    "sync writes it again from the journals"
                )
    except sqlite3.Error as error:
        raise RunFailed(f"cannot open the MLflow store {database}: {error}") from error


def _other_roots(connection: sqlite3.Connection, artifacts: Path) -> list[str]:
    """The addresses of artifact folders of a store other than ``artifacts``."""
    columns = [(table, column) for table, names in _COLUMNS.items() for column in names]
    query = " union ".join(f"select distinct substr({c}, 1, instr({c}, '{_ROOT}')) from {t}" for t, c in columns)
    found = [f"{start}{_ROOT[1:]}" for (start,) in connection.execute(query) if start]
    return [root for root in found if root != artifacts.as_uri() and not _same_folder(root, artifacts)]


def _foreign(connection: sqlite3.Connection, artifacts: Path) -> Iterator[str]:
    """What in a database leads out of its folder of artifacts."""
    for kind, name, sql in connection.execute("select type, name, sql from sqlite_master"):
        body = str(sql).upper().partition("BEGIN")[2]
        if kind == "view" or (kind == "trigger" and re.search("INSERT|UPDATE|DELETE|REPLACE", body)):
            yield f"has the {kind} {name}"
    queries = {f"{t}.{c}": f"select distinct {c} from {t}" for t, columns in _COLUMNS.items() for c in columns}
    for name, query in {**queries, "trace_tags": _TAG}.items():
        for (address,) in connection.execute(query):
            if address and not _is_inside(str(address), artifacts):
                yield f"has an address outside its own folder, in {name}: {address}"


def _is_inside(address: str, artifacts: Path) -> bool:
    parts = urlsplit(address)
    path = unquote(parts.path)
    if ".." in path.split("/") or parts.query or parts.fragment or parts.netloc:
        return False
    if parts.scheme in _REFERENCES:
        return True
    return parts.scheme == "file" and (
        Path(path).is_relative_to(artifacts) or _below_same_folder(Path(path), artifacts)
    )


def _below_same_folder(path: Path, folder: Path) -> bool:
    """Whether a path is below a folder, whichever name of the folder the path uses."""
    return any(parent.name == folder.name and _same_folder(parent.as_uri(), folder) for parent in (path, *path.parents))


def _same_folder(uri: str, folder: Path) -> bool:
    path = Path(unquote(urlsplit(uri).path))
    return path.exists() and folder.exists() and path.samefile(folder)


def _replace(connection: sqlite3.Connection, old: str, new: str) -> None:
    """Replace the beginning of all addresses below the folder ``old``."""
    for table, columns in _COLUMNS.items():
        for column in columns:
            connection.execute(
                f"update {table} set {column} = ? || substr({column}, ?) where substr({column}, 1, ?) in (?, ?)",
                (new, len(old) + 1, len(old) + 1, old, f"{old}/"),
            )
