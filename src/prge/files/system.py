"""What systems do in their own ways: locks, space on a disk, writing through to it."""

from __future__ import annotations

import errno
import os
import struct
import sys
from pathlib import Path
from typing import BinaryIO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

# Windows locks bytes, which others can then not read: one behind the end of any file of ours.
_BYTE = 2**31 - 2


def lock(file: int, *, wait: bool = True) -> None:
    """Lock an open file for this process, until it is closed.

    On Linux a file that is open for writing gets a record lock too, which is all that Java knows: so the drivers in all
    languages keep out of each other's runs.

    Raises:
        BlockingIOError: another process holds the lock, and there is no ``wait``.
        OSError: the file system has no locks.
    """
    if sys.platform == "win32":
        before = os.lseek(file, 0, os.SEEK_CUR)
        try:
            while True:
                os.lseek(file, _BYTE, os.SEEK_SET)
                try:
                    msvcrt.locking(file, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
                    return
                except OSError as e:
                    if e.errno not in (errno.EACCES, errno.EDEADLK):
                        raise
                    if not wait:
                        raise BlockingIOError(e.errno, e.strerror) from e  # with wait it tries for ten seconds
        finally:
            os.lseek(file, before, os.SEEK_SET)
    else:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        if hasattr(fcntl, "F_OFD_SETLK") and fcntl.fcntl(file, fcntl.F_GETFL) & (os.O_WRONLY | os.O_RDWR):
            whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            try:
                fcntl.fcntl(file, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, whole)
            except OSError as e:
                if e.errno != errno.EINVAL:  # a kernel, or a stand-in for one, that has none
                    raise


def open_folder(path: Path) -> int:
    """A descriptor of a folder, to lock; never of what a link leads to.

    Raises:
        OSError: it is no folder, or the system opens none, as Windows.
    """
    return os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0))


def reserve(file: BinaryIO, size: int) -> None:
    """Make a file so long. Where the system can, a full disk is found now.

    Raises:
        OSError: the disk is full.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)


def sync(path: Path) -> None:
    """Write a file's content, or a folder's names, through to the disk."""
    if sys.platform == "win32":
        if path.is_dir():  # its names are written when they are made
            return
        descriptor = os.open(path, os.O_RDWR)
    else:
        descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
