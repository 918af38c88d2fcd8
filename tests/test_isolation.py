"""Nothing that lies in the working directory runs, unless it was named on the command line.

The commands are started as users start them, from an environment in which galamp is installed as
bin/setup does it: by a finder that comes after Python's own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from galamp import isolation
from galamp.environments import canonical_env_id
from galamp.environments.gymnasium import GymnasiumEnvironment
from tests.engine import also

pytestmark = [pytest.mark.real, pytest.mark.counted]

ROOT = Path(__file__).resolve().parent.parent

FINDER = """
import sys
from importlib.machinery import PathFinder
from importlib.util import spec_from_file_location

class Finder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "galamp":
            return spec_from_file_location(name, {init!r})
        if name.startswith("galamp.") and name.count(".") == 1:
            return PathFinder.find_spec(name, [{package!r}])

sys.meta_path.append(Finder)
"""

POISONED = (
    *(
        "json",
        "numpy",
        "torch",
        "types",
        "random",
        "queue",
        "gymnasium",
        "ale_py",
        "rich",
        "signal",
    ),
    *("socket", "argparse", "dataclasses", "typing", "contextlib", "tempfile", "subprocess"),
    *("multiprocessing", "setproctitle", "sitecustomize", "usercustomize", "cv2", "safetensors"),
    *("__future__", "faulthandler", "importlib", "threading", "_posixsubprocess", "galamp_plugin"),
)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment in which this checkout is installed."""
    venv = tmp_path_factory.mktemp("installed") / ".venv"
    base = Path(sys.executable).resolve()
    site = venv / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    site.mkdir(parents=True)
    (venv / "bin").mkdir()
    (venv / "bin" / "python").symlink_to(base)
    (venv / "pyvenv.cfg").write_text(f"home = {base.parent}\n")
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    package = ROOT / "galamp"
    finder = FINDER.format(init=str(package / "__init__.py"), package=str(package))
    (site / "finder_of_galamp.py").write_text(finder)
    (site / "galamp.pth").write_text("import finder_of_galamp\n")
    return venv / "bin" / "python"


@pytest.fixture
def poisoned(tmp_path: Path) -> Path:
    """A folder full of modules that others need, each of which leaves a mark when it runs."""
    folder = tmp_path / "poisoned"
    folder.mkdir()
    for name in POISONED:
        line = f"open({str(tmp_path / 'ran')!r}, 'a').write({name + chr(10)!r})\n"
        (folder / f"{name}.py").write_text(line)
    plugin = folder / "plugin-1.0.dist-info"
    plugin.mkdir()
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (plugin / "entry_points.txt").write_text(
        "[gymnasium.envs]\n__root__ = galamp_plugin\n[torch.backends]\nx = galamp_plugin:x\n"
    )
    return folder


def start(
    python: Path, folder: Path, *words: str, safe: bool = True, **env: str
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    flags = ["-P"] if safe else []
    return subprocess.run(
        [python, *flags, "-m", *words],
        cwd=folder,
        env=kept | env,
        text=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
    )
