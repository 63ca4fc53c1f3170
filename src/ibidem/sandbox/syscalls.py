"""System calls that Python does not offer; each raises OSError if the kernel refuses."""

import ctypes
import os
import sys

MACHINE = os.uname().machine if hasattr(os, "uname") else ""
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOATIME = 0x2, 0x4, 0x8, 0x400
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 0x1, 0x2, 0x4

_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91}
_SYS_MOUNT_SETATTR = 442
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 1, 38, 24, 47, 4
_CAPABILITY_HEADER = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
_NO_CAPABILITY = (ctypes.c_uint32 * 6)()
_LAST_CAPABILITY = 63

_libc = ctypes.CDLL(None, use_errno=True)
if sys.platform == "linux":  # elsewhere the judge says that it cannot work
    _libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    _libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]


def prctl(option: int, *arguments: int) -> None:
    """Change how the kernel treats this process."""
    _check(_libc.prctl(option, *arguments), f"prctl {option}")


def unshare(flags: int) -> None:
    """Move this process into new namespaces."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Mount a file system."""
    words = (source.encode(), target.encode(), kind.encode() if kind else None)
    _check(_libc.mount(*words, flags, options.encode()), f"mount {target}")


def protect(target: str, attributes: int) -> None:
    """Set attributes on a mount and on all mounts below it (Linux 5.12)."""

    class MountAttr(ctypes.Structure):
        _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns_fd")]

    wanted = MountAttr(attributes, 0, 0, 0)
    _syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, target.encode(), _AT_RECURSIVE, ctypes.byref(wanted), ctypes.sizeof(wanted))


def unmount(target: str) -> None:
    """Detach a mount."""
    _check(_libc.umount2(target.encode(), _MNT_DETACH), f"umount {target}")


def pivot_root(folder: str) -> None:
    """Make a mounted folder the root, and detach the old one."""
    os.chdir(folder)
    _syscall(_SYS_PIVOT_ROOT[MACHINE], b".", b".")
    unmount(".")
    os.chdir("/")


def die_with_parent(signal: int) -> None:
    """Request a signal when the parent ends."""
    prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0)


def forgo_capabilities() -> None:
    """Give up the right to regain a capability, for this process and its children."""
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for capability in range(_LAST_CAPABILITY + 1):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # the kernel has no more capabilities, or this process may not drop them


def drop_capabilities() -> None:
    """Drop every capability."""
    _syscall(_SYS_CAPSET[MACHINE], _CAPABILITY_HEADER, _NO_CAPABILITY)


def forgo_new_privileges() -> None:
    """Set no_new_privs: no program that is executed gains privileges."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _syscall(number: int, *arguments: object) -> None:
    _check(_libc.syscall(number, *arguments), f"system call {number}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
