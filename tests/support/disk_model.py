"""A disk that keeps no more than it must when the power fails, fed with real calls as they happen.

    os.mkdir, open, write, fsync, rename, ... --Recorder--> Disk --lost(choose)--> a folder as it
    may be found after a loss of power at just that instant

What a disk must keep (POSIX): a file's content as of its last fsync, and the entries of a folder as
of that folder's own. Of what came later it keeps any part: of a file nothing, half, all, or zeros;
of the changes of a folder's entries any selection. A rename is one change.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

Choose = Callable[[int], int]
"""Given a number of possibilities, which of them happens."""


@dataclass
class File:
    content: bytes = b""
    kept: bytes = b""

    def sync(self) -> None:
        self.kept = self.content

    def lost(self, choose: Choose) -> bytes:
        if self.kept == self.content:
            return self.content
        half = self.content[: len(self.content) // 2]
        return [self.kept, half, bytes(len(self.content)), self.content][choose(4)]


@dataclass
class Folder:
    entries: dict[str, Node] = field(default_factory=dict)
    kept: dict[str, Node] = field(default_factory=dict)
    changes: list[dict[str, Node | None]] = field(default_factory=list)

    def change(self, change: dict[str, Node | None]) -> None:
        self.changes.append(change)
        _apply(self.entries, change)

    def sync(self) -> None:
        self.kept = dict(self.entries)
        self.changes.clear()

    def lost(self, choose: Choose) -> dict[str, Node]:
        found = dict(self.kept)
        for change in self.changes:
            if choose(2):
                _apply(found, change)
        return found


Node = File | Folder | str
"""A link is its target."""


def _apply(entries: dict[str, Node], change: dict[str, Node | None]) -> None:
    for name, node in change.items():
        entries.pop(name, None)
        if node is not None:
            entries[name] = node


class Disk:
    """What has happened below `root`, an empty folder at first."""

    def __init__(self, root: Path) -> None:
        self._root, self._top = root, Folder()
        self.calls: list[tuple[str, str]] = []
        """(call, path below the root), in order."""

    def note(self, call: str, path: str, *more: Any) -> None:
        """Take one call that has succeeded."""
        parts = Path(path).relative_to(self._root).parts
        self.calls.append((call, "/".join(parts)))
        if call in ("write", "fsync"):
            node = self._at(parts)
            if call == "fsync":
                assert not isinstance(node, str)
                node.sync()
            else:
                assert isinstance(node, File)
                node.content += more[0]
            return
        folder, name = self._folder(parts[:-1]), parts[-1]
        match call:
            case "mkdir":
                folder.change({name: Folder()})
            case "open":
                folder.change({name: File()})
            case "symlink":
                folder.change({name: more[0]})
            case "rename":
                target = Path(more[0]).relative_to(self._root).parts
                assert target[:-1] == parts[:-1], "renamed into another folder"
                folder.change({name: None, target[-1]: folder.entries[name]})
            case "unlink" | "rmdir":
                folder.change({name: None})

    def _at(self, parts: tuple[str, ...]) -> Node:
        node: Node = self._top
        for part in parts:
            assert isinstance(node, Folder)
            node = node.entries[part]
        return node

    def _folder(self, parts: tuple[str, ...]) -> Folder:
        folder = self._at(parts)
        assert isinstance(folder, Folder)
        return folder

    def lost(self, target: Path, choose: Choose) -> None:
        """Write into `target` what is found after a loss of power at this instant."""
        _write(target, self._top, choose)


def _write(target: Path, folder: Folder, choose: Choose) -> None:
    for name, node in folder.lost(choose).items():
        if isinstance(node, str):
            (target / name).symlink_to(node)
        elif isinstance(node, File):
            (target / name).write_bytes(node.lost(choose))
        else:
            (target / name).mkdir()
            _write(target / name, node, choose)


@contextmanager
def recorded(disk: Disk, after_each: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Note every writing call of this process below the disk's root, once it has succeeded."""
    busy = False

    def watched(call: str, path_of: Callable[..., str | None]) -> Any:
        real = getattr(os, call)

        def replaced(*args: Any, **more: Any) -> Any:
            nonlocal busy
            path = None if busy else path_of(*args, **more)
            result = real(*args, **more)
            if path is not None and Path(path).is_relative_to(disk._root):
                name = {"replace": "rename", "remove": "unlink"}.get(call, call)
                disk.note(name, path, *_rest(call, args, result))
                busy = True
                try:
                    after_each()
                finally:
                    busy = False
            return result

        return mock.patch.object(os, call, replaced)

    paths = {
        "open": lambda path, flags, *_, dir_fd=None, **__: (
            _absolute(path, dir_fd) if flags & os.O_CREAT else None
        ),
        "write": lambda file, _: _of_open(file),
        "fsync": _of_open,
        "mkdir": lambda path, *_, **__: _absolute(path, None),
        "rename": lambda path, *_, **__: _absolute(path, None),
        "replace": lambda path, *_, **__: _absolute(path, None),
        "symlink": lambda _, path, *__, **___: _absolute(path, None),
        "unlink": lambda path, *_, dir_fd=None: _absolute(path, dir_fd),
        "remove": lambda path, *_, dir_fd=None: _absolute(path, dir_fd),
        "rmdir": lambda path, *_, dir_fd=None: _absolute(path, dir_fd),
    }
    patches = [watched(call, path_of) for call, path_of in paths.items()]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def _rest(call: str, args: tuple[Any, ...], result: Any) -> tuple[Any, ...]:
    match call:
        case "write":
            return (bytes(args[1])[:result],)
        case "rename" | "replace":
            return (_absolute(args[1], None),)
        case "symlink":
            return (os.fspath(args[0]),)
    return ()


def _of_open(file: int) -> str:
    return os.readlink(f"/proc/self/fd/{file}")


def _absolute(path: Any, folder: int | None) -> str:
    """Return an absolute path, the folder's links resolved and those of the name not."""
    where = Path(_of_open(folder)) if folder is not None else Path.cwd()
    joined = where / os.fspath(path)
    return str(Path(os.path.realpath(joined.parent)) / joined.name)
