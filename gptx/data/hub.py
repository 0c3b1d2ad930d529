"""Text datasets of the Hugging Face hub, streamed by ``datasets``: only tokens are written to the disk."""

import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gptx.data.base import Corpus
from gptx.data.row_files import RowReader
from gptx.errors import DataError
from gptx.runs.hashing import digest, file_hash

ID = "data.hub"
REVISION = 1
_NAME = r"\w[\w.-]*/\w[\w.-]*"


class HubCorpus(Corpus):
    """A dataset of the hub, or a local folder of parquet or jsonl files.

    Args:
        hub: the name of the dataset, or the path of the folder.
        subset: the dataset's configuration; "": the only one.
        split: the split that is read.
        text_key: the column that holds the text.
        revision: branch, tag or commit; "": the default branch.
    """

    def __init__(
        self,
        *,
        hub: str,
        subset: str,
        split: str,
        text_key: str,
        revision: str,
        val_fraction: float,
        max_tokens: int,
    ) -> None:
        super().__init__(val_fraction=val_fraction, max_tokens=max_tokens)
        self.hub, self.subset, self.split = hub, subset, split
        self.rows, self.revision = RowReader(text_key), revision
        self.name = Path(hub).name

    def fingerprint(self) -> str:
        folder = Path(self.hub).expanduser()
        source = [self.hub, self.revision]
        if folder.is_dir():
            source = [file_hash(path) for path in sorted(folder.rglob("*")) if path.is_file()]
        return digest([*source, self.subset, self.split, self.rows.key])

    def documents(self, cache: Path) -> Iterator[str]:
        from datasets.exceptions import DatasetsError
        from datasets.load import load_dataset

        folder = Path(self.hub).expanduser()
        if not folder.is_dir():
            _check_name(self.hub)
            _check_online(self.hub)
        source = str(folder.absolute()) if folder.is_dir() else self.hub  # a relative path may be a builder's name
        options: dict[str, Any] = {"name": self.subset or None, "revision": self.revision or None}
        self.rows = RowReader(self.rows.key)
        try:
            rows = load_dataset(source, split=self.split, streaming=True, **options)
            yield from self.rows.texts(rows, source)
        except DataError:
            raise
        except (OSError, ValueError, TypeError, RuntimeError, DatasetsError) as exc:
            # what datasets raises for bad data and names, and for a column whose type changes
            given = f"split {self.split!r} {_format(options)}".rstrip()
            advice = f"; data=text data.path={self.hub} reads it without the package datasets" * folder.is_dir()
            raise DataError(f"cannot read {source} {given}: {' '.join(str(exc).split())}{advice}") from exc

    def remarks(self) -> list[str]:
        return self.rows.remarks()


def _format(options: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in options.items() if isinstance(value, str))


def _check_name(hub: str) -> None:
    """Reject what is no name on the hub: the package datasets would take ``text`` or ``json`` for one of its builders.

    Raises:
        DataError: ``hub`` is not OWNER/NAME.
    """
    if not re.fullmatch(_NAME, hub, re.ASCII):
        raise DataError(f"data.hub={hub}: expected an existing folder, or OWNER/NAME of a dataset on the hub")


def _check_online(hub: str) -> None:
    """Check the network first: the package datasets would retry for 30 s.

    Raises:
        DataError: the hub cannot be reached.
    """
    from huggingface_hub import constants

    try:
        if not constants.HF_HUB_OFFLINE:
            urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=20).close()
            return
        reason = "HF_HUB_OFFLINE is set"
    except urllib.error.HTTPError:
        return  # the server answered
    except OSError as exc:
        reason = str(exc)
    raise DataError(
        f"data.hub={hub}: {constants.ENDPOINT} cannot be reached ({reason}); "
        f"create the token files on a machine with a network (same paths.data), or use data=sotu or data=text"
    )
