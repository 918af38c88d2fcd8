"""Compiles the device once, into a folder that git ignores, whoever asks first.

    *.cpp --c++, against the installed torch's headers--> .fakecuda/<hash>.so

The name is a hash of the sources, torch's version and the compiler's, so that nothing old is used.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / ".fakecuda"
SOURCES = tuple(
    f"{name}.cpp"
    for name in ("process", "streams", "device", "random", "graphs", "copies", "kernels")
)
HEADERS = ("process.h", "streams.h", "device.h", "graphs.h", "copies.h")
FLAGS = ("-std=c++20", "-O0", "-fPIC", "-w", "-shared")
DEADLINE_S = 600.0
KEPT = 4
"""Builds that stay in the cache: of other versions of the sources, or of torch."""


class CannotBuild(Exception):
    """Why there can be no such device here."""


class CompileError(Exception):
    """The compiler's own words."""


def compiler() -> str:
    """Return the C++ compiler: $CXX, or the one that is there.

    Raises:
        CannotBuild: there is none.
    """
    named = os.environ.get("CXX")
    for name in [named] if named else ["g++", "c++", "clang++"]:
        if found := shutil.which(name):
            return found
    raise CannotBuild(f"no C++ compiler: {named or 'g++, c++ and clang++'} not found")


def compiled(cache: Path = CACHE, flags: tuple[str, ...] = FLAGS) -> Path:
    """Return the compiled device, which is built if it is not there yet.

    Raises:
        CannotBuild: there is no compiler, torch is here without its headers, or has CUDA itself.
        CompileError: the compiler does not take the sources.
        TimeoutError: another process builds, and does not end.
    """
    if _torch_has_cuda():
        raise CannotBuild("this torch is built for CUDA: only one without can be given another one")
    path = cache / f"{_key(flags)}.so"
    if path.exists():
        return path
    cache.mkdir(exist_ok=True)
    with (cache / "lock").open("w") as lock:
        _acquire(lock.fileno())
        if not path.exists():  # another process may have built it meanwhile
            _compile(path, flags)
    return path


def _key(flags: tuple[str, ...]) -> str:
    version = subprocess.run([compiler(), "--version"], capture_output=True, check=True).stdout
    parts = [version, _torch_version().encode(), " ".join(flags).encode(), sys.platform.encode()]
    parts += [str(_torch_home()).encode()]
    parts += [(HERE / name).read_bytes() for name in (*SOURCES, *HEADERS)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _torch_has_cuda() -> bool:
    import torch

    return bool(torch.backends.cuda.is_built())


def _torch_version() -> str:
    import torch

    return str(torch.__version__)


def _torch_home() -> Path:
    import torch

    return Path(torch.__file__).resolve().parent


def _compile(path: Path, flags: tuple[str, ...]) -> None:
    home = _torch_home()
    if not (home / "include" / "ATen" / "ATen.h").exists():
        raise CannotBuild(f"torch is here without its headers: {home / 'include'}")
    building = path.with_suffix(f".{os.getpid()}")
    includes = [f"-I{home / 'include'}", f"-I{home / 'include/torch/csrc/api/include'}"]
    libraries = [f"-L{home / 'lib'}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{home / 'lib'}"]
    # As one source: torch's headers, which take nearly all the time, are read once.
    program = "".join(f'#include "{HERE / name}"\n' for name in SOURCES)
    command = [compiler(), *flags, *includes, "-x", "c++", "-", "-o", str(building), *libraries]
    try:
        done = subprocess.run(
            command, input=program, capture_output=True, text=True, timeout=DEADLINE_S
        )
        if done.returncode:
            raise CompileError(f"{' '.join(command)}\n{done.stderr[-20_000:]}")
        os.replace(building, path)
        for old in sorted(path.parent.glob("*.so"), key=lambda so: so.stat().st_mtime)[:-KEPT]:
            old.unlink()
    finally:
        building.unlink(missing_ok=True)


def _acquire(descriptor: int) -> None:
    until_s = time.monotonic() + DEADLINE_S
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until_s:
                raise TimeoutError(f"another process has built for {DEADLINE_S:.0f} s") from None
            time.sleep(0.1)
