"""The MLflow store: an sqlite database under ``outputs/.mlflow``, or a server. mlflow is imported when it is opened."""

import hashlib
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from gptx.errors import GptxError, RunFailed
from gptx.regular_files import open_regular, refuse_link, refuse_links
from gptx.runs.atomic_files import flocked
from gptx.tracking.moved_store import correct_addresses

if TYPE_CHECKING:
    from mlflow import MlflowClient

FOLDER = ".mlflow"
_ANSWER = 8.0  # seconds in which a server must begin to answer


def store_uri(outputs: Path, uri: str) -> str:
    """``uri``, or the address of the database under ``outputs`` if it is empty."""
    return uri or _uri_of((outputs / FOLDER).resolve() / "mlflow.db")


def _uri_of(database: Path) -> str:
    """The address of a database. Characters that have a meaning in addresses are escaped."""
    return "sqlite:///" + re.sub("[?#%]", lambda found: f"%{ord(found[0]):02X}", str(database))


@contextmanager
def _no_stray_folder(uri: str) -> Iterator[None]:
    """Remove the empty folder that MLflow creates when it reads the address of a database without decoding it."""
    literal = Path(uri.removeprefix("sqlite:///"))
    stray = [folder for folder in literal.parents if "%" in str(folder) and not folder.exists()]
    try:
        yield
    finally:
        for folder in stray:
            with suppress(OSError):
                folder.rmdir()


def without_password(uri: str) -> str:
    """An address for messages."""
    return re.sub(r"(://[^:/@]*:)[^/]*@", r"\1***@", uri)


class Store:
    """An open MLflow store.

    Raises:
        GptxError: the kind of the uri is unknown, or the folder under ``outputs`` is or contains a symbolic link.
        RunFailed: the store does not answer.
    """

    def __init__(self, outputs: Path, uri: str = "") -> None:
        quiet()
        refuse_link(outputs / FOLDER)
        for name in ("mlflow.db", "artifacts", *(f"mlflow.db-{kind}" for kind in ("journal", "wal", "shm"))):
            refuse_link(outputs / FOLDER / name)
        refuse_links(outputs / FOLDER / "artifacts")
        self.folder = (outputs / FOLDER).resolve()
        self.uri = store_uri(outputs, uri)
        with _no_stray_folder(self.uri):
            if self.uri.startswith("sqlite:///"):
                database = Path(unquote(self.uri.removeprefix("sqlite:///").partition("?")[0]))
                self._initialise(database)
                if database.resolve().parent == self.folder:
                    correct_addresses(database, self.folder / "artifacts")
            self.client = self._connect()
        self._experiments: dict[str, str] = {}

    def experiment(self, name: str) -> str:
        """The id of the experiment with this name. It is created or restored if necessary."""
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
        """Allow one process at a time among those that share ``outputs``: MLflow cannot find or create atomically."""
        name = hashlib.sha256(self.uri.encode()).hexdigest()[:12]
        self.folder.mkdir(parents=True, exist_ok=True)
        open_regular(self.folder / f"{name}.lock", "a").close()
        with flocked(self.folder / f"{name}.lock"):
            yield

    def _artifacts(self) -> str | None:
        """Where artifacts are stored. A server decides itself; a database would default to the working directory."""
        return None if self.uri.startswith("http") else (self.folder / "artifacts").as_uri()

    def _initialise(self, path: Path) -> None:
        """Create a database under a lock and a temporary name, and rename it when its migrations are complete.

        Two processes that migrate one file, or a kill in between, would leave it damaged.
        """
        with self.lock():
            if path.exists():
                return
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

            new = path.with_suffix(".new")
            new.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            artifacts = (self.folder / "artifacts").as_uri()
            store = SqlAlchemyStore(_uri_of(new), artifacts)  # type: ignore[no-untyped-call]
            store._dispose_engine()  # type: ignore[no-untyped-call]
            new.rename(path)

    def _connect(self) -> "MlflowClient":
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        check_uri(self.uri)
        if self.uri.startswith("http"):
            _check_answer(self.uri)
        try:
            client = MlflowClient(self.uri, registry_uri=self.uri)
            client.search_experiments(max_results=1)
        except (MlflowException, ImportError, OSError, ValueError) as error:
            raise RunFailed(f"{_cannot_open(self.uri)} {one_line(error)}") from error
        return client


def _check_answer(uri: str) -> None:
    """Check that a server answers at all, which MLflow's client tries for more than a minute.

    Raises:
        RunFailed: it cannot be reached, or has not answered after `_ANSWER` seconds.
    """
    import requests

    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=_ANSWER, allow_redirects=False)
    except (requests.ConnectTimeout, requests.ReadTimeout) as error:
        raise RunFailed(f"{_cannot_open(uri)} no answer within {_ANSWER:.0f} s") from error
    except requests.exceptions.SSLError:  # an answer; MLflow's client says what is wrong with it
        pass
    except requests.RequestException as error:
        raise RunFailed(f"{_cannot_open(uri)} {one_line(error)}") from error


def _cannot_open(uri: str) -> str:
    return f"cannot open the MLflow store {without_password(uri)}:"


def check_uri(uri: str) -> None:
    """Reject a uri of unknown kind, without importing mlflow. An empty one means the database under ``outputs``.

    Raises:
        GptxError: names the kinds that are accepted.
    """
    if uri and not uri.startswith(("http://", "https://", "sqlite:///", "postgresql", "mysql", "mssql")):
        raise GptxError(f"{uri!r} is not an MLflow store: expected http://host:port or sqlite:////absolute/file.db")


def quiet() -> None:
    """Configure mlflow before it is imported: no telemetry, no log output, short timeouts."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("mlflow", "alembic", "urllib3", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.ERROR)


def one_line(error: BaseException) -> str:
    """The first line of an error's text, at most 200 characters."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:200]
