"""Keys and certificates of a run: one authority, which signs a certificate of each node, and ends.

    make_keys --> DIR: ca.pem, node-0.pem, node-0.key, node-1.pem, ...

The authority's own key is never written: nobody can add a node to the run later. Elliptic curves
(P-256), which every library takes.
"""

from __future__ import annotations

import importlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from galamp.core.disk import write_new
from galamp.core.errors import UserError, not_installed
from galamp.core.node_keys import AUTHORITY, name_of, names_of
from galamp.core.settings import shown

EARLY = timedelta(days=1)
"""Certificates are valid from so long ago, for machines whose clocks differ."""


def make_keys(folder: Path, nodes: int, days: int) -> None:
    """Make the keys of so many nodes in a new folder, which only its owner can read.

    Raises:
        UserError: the folder cannot be made, or has files in it; or cryptography is not installed.
    """
    try:
        authority = _Authority(days)
    except ModuleNotFoundError as error:
        raise not_installed("keys", "cluster", error) from None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"keys: {shown(folder)} is not empty; give a folder that is new")
        os.chmod(folder, 0o700)
        write_new(folder / AUTHORITY, authority.certificate)
        for node in range(nodes):
            _, certificate, key = names_of(node)
            signed, private = authority.signed(name_of(node))
            write_new(folder / certificate, signed)
            _write_secret(folder / key, private)
    except OSError as error:
        raise UserError(f"keys: cannot write to {shown(folder)}: {error.strerror}") from None


def _write_secret(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


class _Authority:
    """The authority of one run, while its certificates are made."""

    def __init__(self, days: int) -> None:
        """Make its key.

        Raises:
            ModuleNotFoundError: cryptography is not installed.
        """
        self._x509: Any = importlib.import_module("cryptography.x509")
        hazmat = "cryptography.hazmat.primitives"
        self._hashes: Any = importlib.import_module(f"{hazmat}.hashes")
        self._forms: Any = importlib.import_module(f"{hazmat}.serialization")
        self._curves: Any = importlib.import_module(f"{hazmat}.asymmetric.ec")
        now = datetime.now(UTC)
        self._valid = now - EARLY, now + timedelta(days=days)
        self._key = self._new_key()
        x509, forms = self._x509, self._forms
        self._name = self._named("galamp run")
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = self._builder(self._name, self._key)
        builder = builder.add_extension(x509.BasicConstraints(True, 0), critical=True)
        signed = builder.add_extension(usage, critical=True).sign(self._key, self._hashes.SHA256())
        self.certificate: bytes = signed.public_bytes(forms.Encoding.PEM)

    def signed(self, name: str) -> tuple[bytes, bytes]:
        """Return a certificate of this name, and its private key."""
        x509, forms, key = self._x509, self._forms, self._new_key()
        uses = x509.oid.ExtendedKeyUsageOID
        builder = self._builder(self._named(name), key)
        builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
        alternative = x509.SubjectAlternativeName([x509.DNSName(name)])
        builder = builder.add_extension(alternative, critical=False)
        usage = x509.ExtendedKeyUsage([uses.SERVER_AUTH, uses.CLIENT_AUTH])
        signed = builder.add_extension(usage, critical=False).sign(self._key, self._hashes.SHA256())
        private = key.private_bytes(
            forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption()
        )
        return signed.public_bytes(forms.Encoding.PEM), private

    def _new_key(self) -> Any:
        return self._curves.generate_private_key(self._curves.SECP256R1())

    def _named(self, name: str) -> Any:
        x509 = self._x509
        return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])

    def _builder(self, subject: Any, key: Any) -> Any:
        builder = self._x509.CertificateBuilder().subject_name(subject).issuer_name(self._name)
        builder = builder.public_key(key.public_key())
        builder = builder.serial_number(self._x509.random_serial_number())
        first, last = self._valid
        return builder.not_valid_before(first).not_valid_after(last)
