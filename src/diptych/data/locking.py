"""Locks between processes (and threads): one does the work, the others wait for its result."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive lock on the file `path`, made if missing; a dead process holds none.

    Args:
        path: the lock's file; it stays there.
        wait: wait until nobody else holds it.

    Yields:
        Whether the lock is held; always true with `wait`.

    Where the file system has no locks the work is done by everybody: what is made under a lock has to appear
    under its name at once (a rename).

    Raises:
        OSError: the file cannot be made or locked.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        held = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            held = False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield held
    finally:
        with suppress(OSError):
            # Closing alone would not do where a child that was forked meanwhile holds the file open too.
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)
