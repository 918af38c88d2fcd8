"""A copy of the commands in bin/, with a stub in place of Python's venv and pip.

The stub writes down every call. Asked to make an environment it copies itself there; asked for pip,
galamp, or a step of the gate it only answers; all else goes to the Python that runs the tests.
With STUB_PIP_HAS its pip installs torch from package indexes that have what that says
(tests/support/fake_pip.py). The machine is one without a GPU, whatever the real one has.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]

KIND = f"{sys.version_info[0]}.{sys.version_info[1]}-{os.uname().machine}"

STUB = rf"""#!/bin/sh
echo "$*" >> "$STUB_CALLS"
if [ -n "$STUB_FAIL" ]; then
    case "$*." in *"$STUB_FAIL"*) echo "the stub failed on purpose"; exit 3 ;; esac
fi
case "$*" in
    *"-m venv "*) for dir; do :; done; mkdir -p "$dir/bin"; cp "$0" "$dir/bin/python" ;;
    *"-m pip install "*)
        if [ -n "$STUB_FIFO" ]; then
            echo "$$" > "$STUB_FIFO"
            exec timeout 60 cat "$STUB_FIFO"
        fi
        case "$STUB_PIP_HAS $*." in
            " "* | *" -e ."*) ;;
            *) exec "$STUB_REAL" "$STUB_PIP" "$0" "$@" ;;
        esac ;;
    *"-m pip uninstall "*) exec "$STUB_REAL" "$STUB_PIP" "$0" "$@" ;;
    *"import pip"*) echo {KIND} ;;
    *half-installed*) ;;
    "-P -m galamp paths"*) echo "PYTHONPATH=$PYTHONPATH PYTHONHOME=$PYTHONHOME" ;;
    "-P -m galamp "*) shift 3; for word; do echo "[$word]"; done ;;
    "-P -m galamp.tools.bench"*) echo "stub ran the bench" ;;
    "-m "*) echo "stub ran $2" ;;
    *) exec "$STUB_REAL" "$@" ;;
esac
"""

PROBED = '#!/bin/sh\ncase "$*" in *stamp.py*) exit 1 ;; esac\n'
"""The beginning of a Python whose environment is not ready; the rest is its answer to the probe."""
BROKEN = f"{PROBED}echo {KIND}\necho broken\n"
"""A Python that runs, and says itself that it cannot be used."""


class Checkout:
    """A copy of the set-up files in a path with spaces, and a stub python3.11 on PATH."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a check out"
        self.venv = self.root / ".venv"
        self.calls_file = folder / "calls"
        self.path = folder / "path"
        self.path.mkdir()
        shutil.copytree(
            ROOT / "bin", self.root / "bin", ignore=shutil.ignore_patterns("__pycache__")
        )
        for name in ("setup.cfg", "pyproject.toml"):
            shutil.copy(ROOT / name, self.root)
        self.add_python("python3.11")
        self.add_smi("No devices were found")
        self.env = {
            "PATH": f"{self.path}:{os.environ['PATH']}",
            "STUB_CALLS": str(self.calls_file),
            "STUB_REAL": sys.executable,
            "STUB_PIP": str(ROOT / "tests" / "support" / "fake_pip.py"),
        }

    def add_python(self, name: str) -> Path:
        python = self.path / name
        python.write_text(STUB)
        python.chmod(0o755)
        return python

    def add_smi(self, *lines: str) -> None:
        """Make the machine one whose nvidia-smi answers so."""
        smi = self.path / "nvidia-smi"
        smi.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
        smi.chmod(0o755)

    def only_path(self) -> None:
        """Leave nothing on PATH but the stubs and what the scripts themselves call."""
        for tool in ("bash", "dirname", "readlink", "cp", "mkdir", "sh"):
            (self.path / tool).symlink_to(shutil.which(tool) or tool)
        self.env["PATH"] = str(self.path)

    def start(
        self, *words: str, command: str = "galamp", cwd: str | Path = "/", **env: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.root / "bin" / command, *words],
            env=self.env | env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    @contextmanager
    def starting(self, **env: str) -> Iterator[subprocess.Popen[str]]:
        """Start in the background, in a process group of its own."""
        with subprocess.Popen(
            [self.root / "bin" / "galamp", "run"],
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)

    def calls(self) -> list[str]:
        """Return the set-up calls since the last time, oldest first, by what they do."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return [line for line in lines if "-m venv" in line or "-m pip " in line]

    @property
    def ready(self) -> bool:
        return (self.venv / "setup.done").exists()


def load(checkout: Checkout, name: str = "install") -> ModuleType:
    """Import a module of the checkout's bin/."""
    return load_from(checkout.root / "bin", name)


def load_from(folder: Path, name: str) -> ModuleType:
    """Import a module of some bin/ with all that it imports from there anew."""
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(folder))
        for path in folder.glob("*.py"):
            sys.modules.pop(path.stem, None)
