"""The write points of a process: its calls that change files below a folder, counted, and a fault at one of them.

Python's calls are wrapped, in the process that asks for it alone. What a library writes by itself, safetensors for
example, is met by the kernel's limit on the size of files instead (`limit`).
"""

import builtins
import errno
import io
import os
import resource
import signal
import threading

CALLS = ("replace", "rename", "mkdir", "rmdir", "unlink", "remove", "link", "fsync")
# Calls that need no space.
FREEING = ("replace", "rename", "rmdir", "unlink", "remove")
WRITING = set("wax+")


class Points:
    """Counts the write points below `folder`, and does at the points from `at` on what `fault` says.

    kill: the process is gone, in the middle of a write. full: no space is left from there on. term: SIGTERM arrives at each
    of 20 points. Without a fault they are only counted.
    """

    def __init__(self, folder, fault="", at=0):
        self.folder, self.fault, self.at = os.path.realpath(folder), fault, at
        self.count, self.guard = 0, threading.RLock()
        # What was there when this process was forked: its own wrappers must not be wrapped.
        self.open = io.open
        for name in CALLS:
            setattr(os, name, self._wrapped(name, getattr(os, name)))
        builtins.open = io.open = self._open

    def _is_ours(self, path):
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        return os.path.realpath(os.fsdecode(path)).startswith(self.folder + os.sep)

    def _wrapped(self, name, call):
        def counted(path, *arguments, **options):
            # Below a folder that is open, as in shutil.rmtree, a path is a bare name.
            place = options.get("dir_fd", path)
            if self._is_ours(path if place is None else place):
                self.reach(name)
            return call(path, *arguments, **options)

        return counted

    def _open(self, file, mode="r", *arguments, **options):
        writes = WRITING & set(mode) and not isinstance(file, int) and self._is_ours(file)
        if writes:
            self.reach("open")
        opened = self.open(file, mode, *arguments, **options)
        return _File(opened, self) if writes else opened

    def reach(self, name, before=lambda: None):
        """A point: what is done there, after `before`."""
        with self.guard:
            self.count += 1
            if self.fault == "kill" and self.count == self.at:
                before()
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "full" and self.count >= self.at and name not in FREEING:
                before()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if self.fault == "term" and self.at <= self.count < self.at + 20:
                os.kill(os.getpid(), signal.SIGTERM)


class _File:
    """A file whose writes are points; half of the data is in it when one fails."""

    def __init__(self, file, points):
        self._file, self._points = file, points

    def write(self, data):
        def half():
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        self._points.reach("write", half)
        return self._file.write(data)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __iter__(self):
        return iter(self._file)

    def __enter__(self):
        self._file.__enter__()
        return self

    def __exit__(self, *error):
        return self._file.__exit__(*error)


def limit(most, *, deadly):
    """No file of this process grows beyond `most` bytes: a write that would is killed, or fails as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL if deadly else signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
