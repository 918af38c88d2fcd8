"""`galamp keys`: what is made, who can read it, and what a run says of a folder of keys."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from galamp.cli.main import main
from galamp.core.cluster_config import ClusterConfig
from galamp.core.errors import UserError
from galamp.core.nodes import place_of

TLS = "tls/machine-0:7447"


def secured(folder: Path, node: int = 0, join: str = TLS) -> ClusterConfig:
    return ClusterConfig(nodes=2, node_rank=node, join=join, keys=str(folder))


def test_each_machine_gets_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cryptography")
    folder = tmp_path / "keys"
    assert main(["keys", str(folder), "--nodes", "2"]) == 0
    said = capsys.readouterr().out
    assert "machine 1 needs ca.pem, node-1.pem, node-1.key" in said
    names = {path.name for path in folder.iterdir()}
    assert names == {"ca.pem", "node-0.pem", "node-0.key", "node-1.pem", "node-1.key"}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o077 for path in folder.glob("*.key")} == {0}
    place = place_of(secured(folder, 1), {})
    assert place is not None
    assert place.keys is not None
    assert place.keys.key == str(folder / "node-1.key")
    assert place.plain == ()
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert main(["keys", str(folder)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in folder.iterdir()}


def test_what_a_run_cannot_use_is_refused(tmp_path: Path) -> None:
    for name in ("ca.pem", "node-0.pem", "node-0.key"):
        with pytest.raises(UserError, match=f"has no {name} that can be read"):
            place_of(secured(tmp_path), {})
        (tmp_path / name).write_text("a key")
    with pytest.raises(UserError, match="chmod 600"):
        place_of(secured(tmp_path), {})
    (tmp_path / "node-0.key").chmod(0o600)
    assert place_of(secured(tmp_path), {}) is not None
    with pytest.raises(UserError, match=r"has no node-1\.pem"):
        place_of(secured(tmp_path, 1), {})
    for wrong in (
        secured(tmp_path, join="tcp/127.0.0.1:7447"),
        ClusterConfig(nodes=2, node_rank=0, join=TLS),
        ClusterConfig(nodes=2, node_rank=0, join=TLS, insecure_network=True),
    ):
        with pytest.raises(UserError, match="tls/ needs --keys, and --keys needs tls/"):
            place_of(wrong, {})


def test_without_cryptography_it_is_said_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setitem(sys.modules, "cryptography.x509", None)
    assert main(["keys", str(tmp_path / "keys")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'galamp[cluster]'" in line
    assert not (tmp_path / "keys").exists()
