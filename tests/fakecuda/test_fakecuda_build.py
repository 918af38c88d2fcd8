"""The GPU made of host memory is built once, or there is a reason why it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.fakecuda import build
from tests.support.engine import DEADLINE_S


def test_without_a_compiler_there_is_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(build.CannotBuild, match="no-such-compiler not found"):
        build.compiled(tmp_path)


def test_a_torch_with_cuda_keeps_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    with pytest.raises(build.CannotBuild, match="built for CUDA"):
        build.compiled(tmp_path)


def test_without_headers_there_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build, "_torch_home", lambda: tmp_path)
    with pytest.raises(build.CannotBuild, match="without its headers"):
        build.compiled(tmp_path / "cache")


def test_what_cannot_be_compiled_is_no_reason_to_skip(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fails = tmp_path / "c++"
    fails.write_text(
        '#!/bin/sh\n[ "$1" = --version ] || { echo "device.cpp: error" >&2; exit 1; }\n'
    )
    fails.chmod(0o755)
    monkeypatch.setenv("CXX", str(fails))
    with pytest.raises(build.CompileError, match=r"device\.cpp: error"):
        build.compiled(tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lock"]


def test_old_builds_are_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exit\nwhile [ "$1" != -o ]; do shift; done\n: > "$2"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    cache = tmp_path / "cache"
    cache.mkdir()
    for age in range(6):
        (cache / f"old{age}.so").touch()
        os.utime(cache / f"old{age}.so", (1e9 - age, 1e9 - age))
    built = build.compiled(cache, flags=())
    left = {path.name for path in cache.glob("*.so")}
    assert left == {built.name, "old0.so", "old1.so", "old2.so"}


@pytest.mark.real
def test_it_is_built_once_whoever_asks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Four processes at once; the compiler notes each call, and takes a while."""
    slow, calls = tmp_path / "c++", tmp_path / "calls"
    slow.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exit\necho >> {calls}\nsleep 0.5\n'
        'while [ "$1" != -o ]; do shift; done\necho built > "$2"\n'
    )
    slow.chmod(0o755)
    words = (
        "import sys; from pathlib import Path; from tests.fakecuda import build\n"
        "build._torch_version = lambda: ''; build._torch_has_cuda = lambda: False\n"
        f"build._torch_home = lambda: Path({str(Path(torch.__file__).parent)!r})\n"
        "print(build.compiled(Path(sys.argv[1])).read_text())"
    )
    command = [sys.executable, "-c", words, str(tmp_path / "cache")]
    environment = os.environ | {"CXX": str(slow)}
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    answers = [process.communicate(timeout=DEADLINE_S)[0] for process in processes]
    assert [answer.strip() for answer in answers] == ["built"] * 4
    assert calls.read_text() == "\n"
