"""Where MLflow keeps its rows: the embedded sqlite store under ``outputs/.mlflow``, or a server.

With ``gptx.tracking.replay`` and ``gptx.ui`` the only user of mlflow, which is imported when a store is opened.
"""

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gptx.errors import GptxError, RunFailed

if TYPE_CHECKING:
    from mlflow import MlflowClient

FOLDER = ".mlflow"


def store_uri(outputs: Path, uri: str) -> str:
    """``uri``, or the embedded store of ``outputs`` when it is empty."""
    return uri or f"sqlite:///{(outputs / FOLDER / 'mlflow.db').resolve()}"


class Store:
    """An open MLflow store.

    Raises GptxError for a uri of no known kind, RunFailed for a store that does not answer.
    """

    def __init__(self, outputs: Path, uri: str = "") -> None:
        quiet()
        self.folder = (outputs / FOLDER).resolve()
        self.uri = store_uri(outputs, uri)
        if self.uri.startswith("sqlite:///"):
            self._initialise(Path(self.uri.removeprefix("sqlite:///")))
        self.client = self._connect()
        self._experiments: dict[str, str] = {}

    def experiment(self, name: str) -> str:
        """Id of the experiment of this name, made or restored when need be."""
        if name not in self._experiments:
            with self.lock():
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    self._experiments[name] = self.client.create_experiment(name, self._artifacts())
                else:
                    self._experiments[name] = found.experiment_id
                    if found.lifecycle_stage != "active":
                        self.client.restore_experiment(found.experiment_id)
        return self._experiments[name]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One process at a time of those that share ``outputs``: look-up-then-create is no transaction."""
        name = hashlib.sha256(self.uri.encode()).hexdigest()[:12]
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{name}.lock").touch()
        with flocked(self.folder / f"{name}.lock"):
            yield

    def _artifacts(self) -> str | None:
        """A server chooses its own place; a database would put artifacts into the working directory."""
        return None if self.uri.startswith("http") else (self.folder / "artifacts").as_uri()

    def _initialise(self, path: Path) -> None:
        """Migrations of a fresh store: under a lock, in a file that gets its name when all is done.

        Two processes that migrate one file leave it broken for ever, and so does a kill half-way.
        """
        with self.lock():
            if path.exists():
                return
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

            fresh = path.with_suffix(".new")
            fresh.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            artifacts = (self.folder / "artifacts").as_uri()
            store = SqlAlchemyStore(f"sqlite:///{fresh}", artifacts)  # type: ignore[no-untyped-call]
            store._dispose_engine()  # type: ignore[no-untyped-call]
            fresh.rename(path)

    def _connect(self) -> "MlflowClient":
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        check_uri(self.uri)
        try:
            client = MlflowClient(self.uri, registry_uri=self.uri)
            client.search_experiments(max_results=1)
        except (MlflowException, ImportError, OSError, ValueError) as error:
            raise RunFailed(f"the MLflow store {self.uri} does not answer: {one_line(error)}") from error
        return client


def check_uri(uri: str) -> None:
    """Refuse what cannot be a store ("": the embedded one). Without mlflow, so that a typo costs no run its rows."""
    if uri and not uri.startswith(("http://", "https://", "sqlite:///", "postgresql", "mysql", "mssql")):
        raise GptxError(f"{uri!r} is no MLflow store: expected http://host:port or sqlite:////absolute/file.db")


def quiet() -> None:
    """Before mlflow is imported: no telemetry, no chatter, and a dead server costs seconds, not minutes."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("mlflow", "alembic", "urllib3", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def flocked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the existing file ``path``; the kernel frees it when the process dies."""
    with open(path, "r+b") as file:  # NFS locks only what is open for writing
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def one_line(error: BaseException) -> str:
    """The first line of an error's text, short enough for a terminal."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:200]
