"""Video files: MP4 by OpenCV, GIF by Pillow; complete under their name, or not there.

    RGB frames [H, W, 3] uint8 --VideoFile.write--> FILE.mp4 or FILE.gif

The file is written under a temporary name beside its place, frame by frame, and then renamed.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2

from galamp.core.disk import UNSUPPORTED, in_home, temporary_name
from galamp.core.errors import GalampError, UserError
from galamp.core.settings import shown
from galamp.environments.screens import Frame

FORMATS = (".mp4", ".gif")
CODECS = ("vp09", "mp4v")
"""Codecs of an MP4 file, the best first: VP9 is played by browsers, MPEG-4 by older players."""
USUAL_GIF_FPS, MAX_GIF_FPS = 30.0, 50.0
"""Frames per second of a GIF where none are asked for, and the most: it has whole hundredths of a
second for each frame, and browsers show one of a single hundredth for ten."""
NO_LINKS = UNSUPPORTED | {errno.EPERM}
"""Error numbers of a file system that has no second names for a file, such as FAT."""


class Written(NamedTuple):
    """A video that was written: number of its frames, and how they are coded."""

    frames: int
    codec: str


@dataclass(frozen=True)
class VideoFile:
    """The file of a video: its path, and whether it may replace one that exists."""

    path: Path
    overwrite: bool = False

    @property
    def is_gif(self) -> bool:
        """Whether it is a GIF, by the end of its name."""
        return self.path.suffix.lower() == ".gif"

    def check(self) -> None:
        """Check the path before any game is played.

        Raises:
            UserError: no format, no folder, or a file that exists.
        """
        if self.path.suffix.lower() not in FORMATS:
            raise self._error("expected a name that ends in .mp4 or .gif")
        if os.path.isdir(self.path):
            raise self._error("is a folder; add a name")
        if not os.path.isdir(self.path.parent):
            raise self._error(f"there is no folder {shown(self.path.parent)}; make it first")
        try:
            os.lstat(self.path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._error(f"cannot be a file: {error.strerror}; name another") from None
        if not self.overwrite:
            raise self._error("exists; choose another name, or give --overwrite")

    def write(self, frames: Iterator[Frame], fps: float) -> Written:
        """Write all frames, at least one, of one size.

        Raises:
            GalampError: the disk refuses, no codec works, or the name was taken meanwhile.
        """
        try:
            with temporary_name(self.path.parent) as folder:
                folder.mkdir(mode=0o700)
                draft = folder / f"video{self.path.suffix.lower()}"
                written = (_gif if self.is_gif else _mp4)(draft, frames, fps)
                self._publish(draft)
        except OSError as error:
            raise GalampError(f"{self.path} not written: {error.strerror or error}") from error
        return written

    def _publish(self, draft: Path) -> None:
        """Give a complete file its name.

        Raises:
            OSError: that was taken meanwhile, or the disk refuses.
        """
        if not self.overwrite:
            try:
                os.link(draft, self.path)
                return
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
            self.path.touch(exist_ok=False)
        draft.replace(self.path)

    def _error(self, problem: str) -> UserError:
        return UserError(f"-o {shown(self.path)}: {problem}")


def video_file(name: str, *, overwrite: bool) -> VideoFile:
    """Return the file of that name, checked.

    Raises:
        UserError: see `VideoFile.check`.
    """
    file = VideoFile(in_home(name), overwrite)
    file.check()
    return file


def _mp4(path: Path, frames: Iterator[Frame], fps: float) -> Written:
    """Write an MP4 file.

    Raises:
        OSError: OpenCV has no codec for it, or the file is not complete.
    """
    first = next(frames)
    height, width = first.shape[:2]
    for codec in CODECS:
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (width, height))
        if writer.isOpened():
            break
        writer.release()
    else:
        raise OSError("OpenCV has no codec for an MP4 file here; name a .gif")
    count = 0
    try:
        for frame in itertools.chain([first], frames):
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            count += 1
    finally:
        writer.release()
    # OpenCV does not tell that the disk refuses; the file's index, which it writes last, does.
    found = _frames_in(path)
    if found != count:
        raise OSError(f"{found} of {count} frames can be read back; is the disk full?")
    return Written(count, codec)


def _frames_in(path: Path) -> int:
    """Return how many frames a video has by its index; 0 if it cannot be read."""
    reader = cv2.VideoCapture(str(path))
    try:
        return round(reader.get(cv2.CAP_PROP_FRAME_COUNT)) if reader.isOpened() else 0
    finally:
        reader.release()


def _gif(path: Path, frames: Iterator[Frame], fps: float) -> Written:
    """Write a GIF; frames last whole hundredths of a second, of which all together are `fps`."""
    from PIL import Image

    count = 0

    def images() -> Iterator[Image.Image]:
        nonlocal count
        for frame in frames:
            image = Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE)
            begins, ends = (round(100.0 * number / fps) for number in (count, count + 1))
            image.info["duration"] = 10 * (ends - begins)
            count += 1
            yield image

    made = images()
    with path.open("w+b") as file:  # Pillow leaves its own open if a signal ends it
        next(made).save(file, "GIF", save_all=True, append_images=made, loop=0, optimize=False)
    return Written(count, "gif")
