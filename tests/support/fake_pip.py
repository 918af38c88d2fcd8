"""A pip that installs no package but torch, from package indexes that are told to it.

STUB_PIP_HAS is JSON: per address of an index ("" is pip's own) and version of torch there the CUDA
that it is built with, "" for none. Like pip it keeps what is installed and fits, takes the highest
version otherwise, and says what it meets. With STUB_PIP_WAITS it waits for ever once it has met a
package of NVIDIA's, as if it fetched that.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version


def main(python: str, *words: str) -> int:
    """Do what `python -I -m pip WORDS` is asked for."""
    torch = Path(python).parent.parent / "lib" / "python3.11" / "site-packages" / "torch"
    if "uninstall" in words:
        shutil.rmtree(torch)
        return 0
    addresses, limits, asked = [""], SpecifierSet(), []
    rest = iter(words[words.index("install") + 1 :])
    for word in rest:
        if word == "-c":
            lines = Path(next(rest)).read_text().splitlines()
            limits = SpecifierSet(",".join(x[5:] for x in lines if x.startswith("torch==")))
        elif word == "--extra-index-url":
            addresses.append(next(rest))
        else:
            asked.append(word)
    return install(torch, addresses, limits, asked)


def install(torch: Path, addresses: list[str], limits: SpecifierSet, asked: list[str]) -> int:
    """Install torch into its folder if that is asked for."""
    told = json.loads(os.environ["STUB_PIP_HAS"])
    there = {version: cuda for x in addresses for version, cuda in told.get(x, {}).items()}
    names, wheel = [], ""
    for word in asked:
        if word.endswith(".whl"):
            wheel = re.split("[-/]", word)[-4]
            continue
        try:
            requirement = Requirement(word)
        except InvalidRequirement:
            continue
        if requirement.name == "torch":
            limits &= requirement.specifier
            names.append(word)
    if not names:
        return 0
    here = torch / "version.py"
    present = re.search("__version__ = '(.*)'", here.read_text()) if here.exists() else None
    if present and present[1] in limits and wheel in ("", present[1]):
        print("Requirement already satisfied: torch")
        return 0
    if wheel:
        there = {wheel: re.sub(r".*cu(\d+)(\d)$", r"\1.\2", wheel) if "+cu" in wheel else ""}
    versions = sorted(filter(limits.contains, there), key=Version)
    if not versions:
        known = ", ".join(sorted(there)) or "none"
        print(f"ERROR: Could not find a version that satisfies {names[0]} (from versions: {known})")
        print(f"ERROR: No matching distribution found for {names[0]}")
        return 1
    return put(here, versions[-1], there[versions[-1]])


def put(here: Path, version: str, cuda: str) -> int:
    """Fetch and install one version."""
    print(f"Collecting torch=={version}")
    if cuda:
        print("Collecting nvidia-cublas (from torch)", flush=True)
        if "STUB_PIP_WAITS" in os.environ:
            time.sleep(600)
    here.parent.mkdir(parents=True, exist_ok=True)
    built = f"'{cuda}'" if cuda else "None"
    here.write_text(f"__version__ = '{version}'\ncuda: Optional[str] = {built}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
