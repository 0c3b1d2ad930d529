"""Token ids that were made outside gptx are trained on as they are."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command import TINY, Gptx, one_line
from helpers_data import TEXT, gpt2_files, make, make_tokenizer

from gptx.data.ids import IdCorpus
from gptx.data.tokens import prepare
from gptx.errors import ConfigError, DataError
from gptx.tokenizer.base import load
from gptx.tokenizer.ids import IdTokenizer

pytestmark = pytest.mark.filterwarnings("error")


def ids_of(*paths: Path, max_tokens: int = 0) -> IdCorpus:
    return IdCorpus(path=[str(path) for path in paths], val_fraction=0.1, max_tokens=max_tokens)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64])
def test_an_array_and_a_tensor_give_the_ids(dtype: type, tmp_path: Path) -> None:
    ids = make_tokenizer("gpt2").encode(TEXT).astype(dtype)
    np.save(tmp_path / "ids.npy", ids)
    torch.save(torch.from_numpy(ids.astype(np.int64)), tmp_path / "ids.pt")
    for name in ("ids.npy", "ids.pt"):
        tokens = prepare(ids_of(tmp_path / name), make_tokenizer("gpt2"), tmp_path / "tokens", quiet=True)
        cut = int(len(ids) * 0.9)
        assert tokens.train.tolist() == ids[:cut].tolist() and tokens.val.tolist() == ids[cut:].tolist()


def test_several_files_are_documents_with_the_separator_of_the_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "ids").mkdir()
    for i in range(3):
        np.save(tmp_path / f"ids/{i}.npy", np.full(10, i))
    found = []
    for eot in (-1, 9):
        tokenizer = make("tokenizer", "ids", n_vocab=10, eot=eot)
        found.append(prepare(ids_of(tmp_path / "ids"), tokenizer, tmp_path / "t" / str(eot), quiet=True).train.tolist())
    assert found == [[0] * 9 + [1] * 9 + [2] * 9, [0] * 9 + [9] + [1] * 9 + [9] + [2] * 9]


def test_the_tokenizer_of_ids_is_a_list_of_numbers(tmp_path: Path) -> None:
    tokenizer = make("tokenizer", "ids", n_vocab=300, eot=7)
    assert tokenizer.encode(" 12 7 299\n").tolist() == [12, 7, 299]
    assert tokenizer.decode([12, 7]) == "12 7 "
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer.to_json()))
    assert load(tmp_path / "tokenizer.json", IdTokenizer).to_json() == tokenizer.to_json()
    for text in ("300", "a", "-1", "1.5"):
        with pytest.raises(DataError, match="is no id: expected numbers below 300"):
            tokenizer.encode(text)
    for n_vocab, eot in ((0, -1), (3, 3), (3, -2)):
        with pytest.raises(ConfigError, match="expected"):
            IdTokenizer(n_vocab=n_vocab, eot=eot)


@pytest.mark.parametrize(
    "value, message",
    [
        (np.zeros((2, 3), int), r"int64 \(2, 3\), expected integers with one dimension"),
        (np.zeros(3), r"float64 \(3,\), expected integers"),
        (np.array([{}], dtype=object), "is no array of numpy.save"),
        (np.array([1, 2, 10] * 9), "has the id 10 at position 2; the tokenizer has the ids 0 to 9"),
        (np.array([1, -1] * 9), "has the id -1 at position 1"),
    ],
)
def test_what_is_no_array_of_ids_is_refused(value: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", value, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        prepare(ids_of(tmp_path / "ids.npy"), make("tokenizer", "ids", n_vocab=10), tmp_path / "t", quiet=True)


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("payload"),)  # type: ignore[return-value]


def test_a_pickle_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(Payload(), tmp_path / "ids.pt")
    (tmp_path / "text.pt").write_text("text")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("ids.pt", "text.pt", "list.pt"):
        with pytest.raises(DataError, match=rf"{name} (is no array|has a list)") as refused:
            prepare(ids_of(tmp_path / name), make("tokenizer", "ids", n_vocab=10), tmp_path / "t", quiet=True)
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "payload").exists()


def test_a_tokenizer_that_learns_needs_text(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.arange(100))
    with pytest.raises(DataError, match="tokenizer=char learns from text, but corpus ids has ids already"):
        prepare(ids_of(tmp_path / "ids.npy"), make_tokenizer("char"), tmp_path / "t", quiet=True)


def test_ids_train_as_the_text_does(gptx: Gptx) -> None:
    (gptx.cwd / "a.txt").write_text(TEXT)
    files = gpt2_files()
    common = (*TINY, "tokenizer=gpt2", f"tokenizer.path={files}", "paths.data=tokens")
    np.save(gptx.cwd / "a.npy", make_tokenizer("gpt2").encode(TEXT[: int(len(TEXT) * 0.9)]))
    assert gptx.run("gptx.run", *common, "data=ids", "data.path=a.npy", "study=a").code == 0
    for more in (["tokenizer.n_vocab=50257"], []):
        done = gptx.run("gptx.run", *TINY, "tokenizer=ids", *more, "data=ids", "data.path=a.npy", "paths.data=tokens")
        assert done.code == (0 if more else 2), done.err
    one_line(done, "tokenizer.n_vocab=0: expected the number of ids")
    results = [json.loads(path.read_text()) for path in gptx.outputs.glob("*/*/result.json")]
    assert len(results) == 2 and results[0]["val_loss_whole"] == results[1]["val_loss_whole"]
