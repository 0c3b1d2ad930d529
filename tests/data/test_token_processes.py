"""Token files made by several processes at once, by a process that is killed, and on a full disk."""

import hashlib
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_data import TEXT, no_partial_files, text_corpus

from gptx.data.tokens import prepare
from gptx.tokenizer.bpe import BPE

pytestmark = pytest.mark.filterwarnings("error")

# A process that creates the tokens of the file argv[1] in the folder argv[2] when it reads a line from stdin.
PREPARE = """
import sys, hashlib
from pathlib import Path
from gptx.data.text import Text
from gptx.data.tokens import prepare
from gptx.tokenizer.bpe import BPE
corpus = Text(path=[sys.argv[1]], text_key="text", val_fraction=0.1, max_tokens=0)
{before}
print("ready", flush=True)
sys.stdin.readline()
tokens = prepare(corpus, BPE(vocab_size=300), Path(sys.argv[2]))
print(hashlib.sha256(tokens.train.tobytes() + tokens.val.tobytes()).hexdigest(), flush=True)
"""


def start(tmp_path: Path, before: str = "") -> subprocess.Popen[str]:
    source = tmp_path / "corpus.txt"
    source.write_text(TEXT * 5)
    command = [sys.executable, "-c", PREPARE.format(before=before), str(source), str(tmp_path / "cache")]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


def expected_hash(tmp_path: Path) -> str:
    tokens = prepare(text_corpus(str(tmp_path / "corpus.txt")), BPE(vocab_size=300), tmp_path / "cache", quiet=True)
    return hashlib.sha256(tokens.train.tobytes() + tokens.val.tobytes()).hexdigest()


@pytest.mark.parametrize("count", [3, pytest.param(8, marks=pytest.mark.full)])
def test_several_processes_create_the_tokens_once(count: int, tmp_path: Path) -> None:
    processes = [start(tmp_path) for _ in range(count)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * count, outputs
    assert "".join(err for _, err in outputs) == "tokenising text with bpe\n"
    assert {out.strip() for out, _ in outputs} == {expected_hash(tmp_path)}
    assert no_partial_files(tmp_path / "cache")


# Prints a line while it writes tokens, then waits forever.
STUCK = """
class Stuck(Text):
    def documents(self, cache):
        yield from ["some text to begin with. "] * 9
        if any(path.name == "train.bin" for path in Path(sys.argv[2]).rglob("*")):
            print("writing", flush=True)
            sys.stdin.readline()
corpus.__class__ = Stuck
"""


def test_tokens_are_created_again_after_a_kill(tmp_path: Path) -> None:
    process = start(tmp_path, STUCK)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    assert process.stdout.readline() == "writing\n"
    remaining = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert [path.suffix for path in remaining] == [".part"]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    found = expected_hash(tmp_path)
    assert no_partial_files(tmp_path / "cache")
    fresh = prepare(text_corpus(str(tmp_path / "corpus.txt")), BPE(vocab_size=300), tmp_path / "fresh", quiet=True)
    assert found == hashlib.sha256(fresh.train.tobytes() + fresh.val.tobytes()).hexdigest()


# Limits the size of a file: a write fails as on a full disk.
FULL = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
"""


def test_full_disk_gives_one_line_and_leaves_no_token_folder(tmp_path: Path) -> None:
    process = start(tmp_path, FULL)
    _, err = process.communicate("go\n")
    assert process.returncode == 1
    assert re.match(r"gptx.errors.DataError: cannot write token files to .*change paths.data", err.splitlines()[-1])
    assert no_partial_files(tmp_path / "cache")
    assert not any(path.is_dir() for path in (tmp_path / "cache").iterdir())
    assert expected_hash(tmp_path)
