"""Executes another program, which ends with the supervisor, optionally as another user.

Run as a script, by path and with ``python -I -S``, which takes about 15 ms::

    launch.py PARENT_PID DEATH_SIGNAL USER|- NICENESS PROGRAM [ARGUMENT ...]

This replaces subprocess's ``preexec_fn``, which runs Python between fork and exec and can deadlock in a process
with threads. Standard library only: no other file imports this one.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import sys

_PR_SET_PDEATHSIG = 1


def become_user(name: str) -> None:
    """Give up root for the system user ``name``, with its groups."""
    entry = pwd.getpwnam(name)
    os.initgroups(name, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def die_with_parent(parent: int, death_signal: int) -> None:
    """Make Linux send ``death_signal`` when the parent ends. On other systems the next start ends leftovers."""
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # the parent ended before prctl
        os._exit(1)


def main() -> None:
    parent, death_signal, user, niceness, *command = sys.argv[1:]
    os.nice(int(niceness))
    if user != "-":
        become_user(user)
    # A shell that starts the stack in the background sets these to ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # Python sets these two to ignored; the program expects the system's defaults.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    # After the change of user, because Linux clears the death signal then.
    die_with_parent(int(parent), int(death_signal))
    os.execvp(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
