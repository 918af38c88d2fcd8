"""Checkpoints meant to harm whoever loads them: nothing runs, nothing else is opened or filled."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from galamp.core.errors import CheckpointError
from galamp.storage import checkpoint as ck
from galamp.storage.canonical_json import encode
from tests.support.checkpoints import ROOT, made, reseal

LOADER = """
import resource, sys
from pathlib import Path
from galamp.core import errors
from galamp.core.machine import memory
from galamp.tools.evaluation.trained import read
from galamp.storage import checkpoint, run_folder
good, folder, *paths = map(Path, sys.argv[1:])
assert "torch" not in sys.modules
checkpoint.load(good)
checkpoint.find(folder)
events, opened = set(), set()

def watch(event, args):
    events.add(event)
    if event == "open" and isinstance(args[0], str):
        opened.add(args[0])

used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
sys.addaudithook(watch)
memory.available_bytes()
kernel = set(opened)  # how much memory is free is asked for
for path in paths:
    for load in (checkpoint.load, checkpoint.read_identity, checkpoint.find, read):
        try:
            load(path)
        except errors.CheckpointError as error:
            assert str(error).isprintable(), error
            print(path.name, str(error)[:60])
        else:
            # These two read no tensors; whose digests are right is whole to them.
            assert load in (checkpoint.read_identity, checkpoint.find), (path, load)
bad = {"pickle.find_class", "import", "os.system", "os.exec", "os.fork", "os.posix_spawn",
       "subprocess.Popen", "exec", "compile", "socket.connect", "ctypes.dlopen", "marshal.loads"}
assert not bad & events, bad & events
outside = {name for name in opened - kernel
           if not any(Path(name).is_relative_to(p) for p in paths) and "/" in name}
assert not outside, outside
""".replace("ROOM", str(200 * 2**20))


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch evil",)


def tensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HUGE = 2**63 - 1
# 500 bytes and more each, so that the size alone is no reason to refuse them.
LEARNERS: dict[str, bytes] = {
    "pickle": pickle.dumps(Evil()) + bytes(600),
    "pickle of strings": pickle.dumps({"a": "b" * 600}),
    "length of all ones": b"\xff" * 8 + bytes(600),
    "zeros": bytes(900),
    "huge shape": tensors({"a": entry([2**31, 2**31], 0, 600)}, bytes(600)),
    "overflowing shape": tensors({"a": entry([2**33, 2**33], 0, 600)}, bytes(600)),
    "no elements of huge shape": tensors({"a": entry([0, HUGE, HUGE], 0, 0)}, bytes(600)),
    "more than an address": tensors({"a": entry([0, 2**64 - 1], 0, 0)}, bytes(600)),
    "backwards": tensors({"a": entry([150], 600, 0)}, bytes(600)),
    "beyond the end": tensors({"a": entry([HUGE // 8], 0, HUGE)}, bytes(600)),
    "overlap": tensors({"a": entry([150], 0, 600), "b": entry([75], 300, 600)}, bytes(600)),
    "hole": tensors({"a": entry([75], 300, 600)}, bytes(600)),
    "negative": tensors({"a": entry([-150], 0, 600)}, bytes(600)),
    "deep": tensors(b"[" * 5000, bytes(600)),
    "deep objects": tensors(b'{"a":' * 5000, bytes(600)),
    "thousand dimensions": tensors({"a": entry([1] * 1000, 0, 4)}, bytes(600)),
    "name of a path": tensors({"../../evil": entry([150], 0, 600)}, bytes(600)),
    "metadata": tensors({"__metadata__": {"x": "y" * 600}}),
    "twice": tensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' * 2, bytes(600)),
}


def fitting(content: bytes, size: int) -> bytes:
    """Bring a file to the size of a whole one, so that it is parsed."""
    return content[:size].ljust(size, b"\0")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders like checkpoints, their digests right where there is something to be digested."""
    folder = tmp_path_factory.mktemp("corpus")
    for name, content in LEARNERS.items():
        target = hostile(folder, name)
        size = (target / "learner-0.safetensors").stat().st_size
        (target / "learner-0.safetensors").write_bytes(
            content if len(content) > size else fitting(content, size)
        )
        reseal(target)
    for name, state in {
        "deep state": b"[" * 900_000,
        "number of a million digits": b"9" * 900_000,
        "infinite": b'{"a":1e999}\n',
        "surrogate": b'"\\ud800"',
    }.items():
        (hostile(folder, name) / "state.json").write_bytes(state)
        reseal(folder / name)
    for name, manifest in {
        "no manifest but a pickle": pickle.dumps(Evil()),
        "manifest of a path": encode({"files": {"../../evil": [1, ""]}, "format": "x"}),
        "deep manifest": b'{"a":' * 100_000,
    }.items():
        (hostile(folder, name) / "MANIFEST.json").write_bytes(manifest)
    torch_like(hostile(folder, "archive of torch"))
    links(folder)
    giants(folder)
    return folder


def hostile(folder: Path, name: str) -> Path:
    saved = ck.save(folder / "aside", made())
    return Path(shutil.copytree(saved, folder / name))


def torch_like(target: Path) -> None:
    """What `torch.save` writes: a zip archive with a pickle in it."""
    with zipfile.ZipFile(target / "learner-0.safetensors", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Evil()))
        archive.writestr("archive/data/0", bytes(600))
    reseal(target)


def links(folder: Path) -> None:
    for name, file in {"linked state": "state.json", "linked manifest": "MANIFEST.json"}.items():
        target = hostile(folder, name)
        (target / file).unlink()
        (target / file).symlink_to("/etc/passwd")
    target = hostile(folder, "device")
    (target / "learner-0.safetensors").unlink()
    (target / "learner-0.safetensors").symlink_to("/dev/zero")


def giants(folder: Path) -> None:
    """Files of a tebibyte that take no room on the disk, and would take it in memory."""
    for name, file in {"giant state": "state.json", "giant manifest": "MANIFEST.json"}.items():
        os.truncate(hostile(folder, name) / file, 2**40)
    os.truncate(hostile(folder, "giant learner") / "learner-1.safetensors", 2**40)


def test_nothing_runs_and_nothing_else_is_opened(corpus: Path, tmp_path: Path) -> None:
    good = ck.save(tmp_path / "good", made())
    hostile = sorted(path for path in corpus.iterdir() if path.name != "aside")
    done = subprocess.run(
        [sys.executable, "-c", LOADER, *map(str, (good, tmp_path / "good", *hostile))],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 2 * len(hostile) > 50
    assert not (tmp_path / "evil").exists()


def test_most_of_the_corpus_reaches_the_parser(corpus: Path) -> None:
    """Else it would test little more than the comparison of sizes."""
    parsed = 0
    for name in LEARNERS:
        with pytest.raises(CheckpointError, match=r"learner-0\.safetensors") as refused:
            ck.load(corpus / name)
        parsed += "tensors need" not in str(refused.value)
    assert parsed >= len(LEARNERS) - 2
