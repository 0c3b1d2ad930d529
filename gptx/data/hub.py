"""Text datasets of the Hugging Face hub, streamed by ``datasets``: only tokens are written to the disk."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gptx.data.base import Corpus
from gptx.errors import DataError
from gptx.runs.hashing import digest, file_hash

ID = "data.hub"
REVISION = 1


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
        self.text_key, self.revision = text_key, revision
        self.name = Path(hub).name

    def fingerprint(self) -> str:
        folder = Path(self.hub).expanduser()
        source = [self.hub, self.revision]
        if folder.is_dir():
            source = [file_hash(path) for path in sorted(folder.rglob("*")) if path.is_file()]
        return digest([*source, self.subset, self.split, self.text_key])

    def documents(self, cache: Path) -> Iterator[str]:
        folder = Path(self.hub).expanduser()
        if not folder.is_dir():
            _check_online(self.hub)
        yield from stream(
            str(folder) if folder.is_dir() else self.hub,
            text_key=self.text_key,
            split=self.split,
            name=self.subset or None,
            revision=self.revision or None,
        )


def stream(path: str, *, text_key: str, split: str, **options: Any) -> Iterator[str]:
    """Yield ``row[text_key]`` of each row of ``datasets.load_dataset(path, ...)``, as a stream.

    Raises:
        DataError: the dataset cannot be read or has no such column.
    """
    from datasets.exceptions import DatasetsError
    from datasets.load import load_dataset

    try:
        for row in load_dataset(path, split=split, streaming=True, **options):
            if not isinstance(row.get(text_key), str):
                found = ", ".join(key for key, value in row.items() if isinstance(value, str)) or "none"
                raise DataError(f"data.text_key={text_key}: no such text column in {path}; it has: {found}")
            yield row[text_key]
    except DataError:
        raise
    except (OSError, ValueError, RuntimeError, DatasetsError) as exc:  # what datasets raises for bad data and names
        reason = " ".join(str(exc).split())
        raise DataError(f"cannot read {path} split {split!r} {_format(options)}: {reason}") from exc


def _format(options: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in options.items() if isinstance(value, str))


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
