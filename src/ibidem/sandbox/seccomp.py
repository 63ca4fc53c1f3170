"""The system calls that a jailed process may make: an allowlist; everything else fails with EPERM.

The list allows what a single Python process needs to compute, to read its own library and to write below its scratch
folder. Not allowed are, among others, new processes and threads, programs, sockets, signals to others, tracing,
anonymous files, shared memory segments, links, mounts, io_uring, keys and performance counters.

Source: Linux, Documentation/userspace-api/seccomp_filter.rst; the numbers are those of asm/unistd_64.h and
asm-generic/unistd.h.
"""

import ctypes
import errno
import os
import struct

from ibidem.sandbox import syscalls

X86_64, AARCH64 = "x86_64", "aarch64"

_MACHINES = (X86_64, AARCH64)
_AUDIT_ARCH = {X86_64: 0xC000003E, AARCH64: 0xC00000B7}

# name: (number on x86_64, number on aarch64); None where the machine does not have the call
_ALLOWED: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "open": (2, None),
    "close": (3, 57),
    "stat": (4, None),
    "fstat": (5, 80),
    "lstat": (6, None),
    "poll": (7, None),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "readv": (19, 65),
    "writev": (20, 66),
    "access": (21, None),
    "pipe": (22, None),
    "select": (23, None),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "dup": (32, 23),
    "dup2": (33, None),
    "pause": (34, None),
    "nanosleep": (35, 101),
    "getitimer": (36, 102),
    "alarm": (37, None),
    "setitimer": (38, 103),
    "getpid": (39, 172),
    "sendfile": (40, 71),
    "exit": (60, 93),
    "uname": (63, 160),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "truncate": (76, 45),
    "ftruncate": (77, 46),
    "getcwd": (79, 17),
    "chdir": (80, 49),
    "fchdir": (81, 50),
    "rename": (82, None),
    "mkdir": (83, None),
    "rmdir": (84, None),
    "creat": (85, None),
    "unlink": (87, None),
    "readlink": (89, None),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "umask": (95, 166),
    "gettimeofday": (96, 169),
    "getrlimit": (97, 163),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "times": (100, 153),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "getppid": (110, 173),
    "getpgrp": (111, None),
    "getgroups": (115, 158),
    "getpgid": (121, 155),
    "getsid": (124, 156),
    "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137),
    "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "time": (201, None),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "getdents64": (217, 61),
    "restart_syscall": (219, 128),
    "fadvise64": (221, 223),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "openat": (257, 56),
    "mkdirat": (258, 34),
    "newfstatat": (262, 79),
    "unlinkat": (263, 35),
    "renameat": (264, 38),
    "readlinkat": (267, 78),
    "fchmodat": (268, 53),
    "faccessat": (269, 48),
    "pselect6": (270, 72),
    "ppoll": (271, 73),
    "utimensat": (280, 88),
    "fallocate": (285, 47),
    "dup3": (292, 24),
    "pipe2": (293, 59),
    "renameat2": (316, 276),
    "getrandom": (318, 278),
    "copy_file_range": (326, 285),
    "statx": (332, 291),
    "rseq": (334, 293),
    "close_range": (436, 436),
    "faccessat2": (439, 439),
}
_ONLY_SELF = {"tgkill": (234, 131), "kill": (62, 129)}  # a signal of its own: abort() and raise() use it
_ONLY_ZERO = {"prlimit64": (302, 261)}  # its own limits, which it can only lower
_EXTRA = {"recvmsg": (47, 212)}  # for a process that receives a descriptor
_FCNTL = (72, 25)
_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 1030)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC
_IOCTL = (16, 29)

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JGE|K, BPF_RET|K
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets into struct seccomp_data
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_ANY_PID = 0xFFFFFFFF  # placeholder in the filter until the pid is known

Instruction = tuple[int, int, int, int]


def supported() -> bool:
    """Return whether the system calls of this machine are known."""
    return syscalls.MACHINE in _AUDIT_ARCH


def program(pid: int, more: tuple[str, ...] = (), machine: str = syscalls.MACHINE) -> bytes:
    """Return the filter for the process `pid` (as seen in its own namespace) as an array of struct sock_filter."""
    column = _MACHINES.index(machine)
    lines: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    lines += [line for name in more for line in ((_EQUAL, 0, 1, _EXTRA[name][column]), (_RETURN, 0, 0, _ALLOW))]
    for numbers in _ONLY_SELF.values():
        lines += _only(numbers[column], argument=0, values=(pid,))
    for numbers in _ONLY_ZERO.values():
        lines += _only(numbers[column], argument=0, values=(0,))
    lines += _only(_FCNTL[column], argument=1, values=_FCNTL_COMMANDS)
    lines += [(_EQUAL, 0, 1, _IOCTL[column]), (_RETURN, 0, 0, _FAIL | errno.ENOTTY)]
    numbers_allowed = sorted(number for each in _ALLOWED.values() if (number := each[column]) is not None)
    return _packed(lines + _among(_spans(numbers_allowed)))


def _spans(numbers: list[int]) -> list[tuple[int, int]]:
    """Merge consecutive numbers into (first, last) spans.

    >>> _spans([1, 2, 3, 7])
    [(1, 3), (7, 7)]
    """
    spans: list[tuple[int, int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1] = (spans[-1][0], number)
        else:
            spans.append((number, number))
    return spans


def _among(spans: list[tuple[int, int]]) -> list[Instruction]:
    """Allow a number within one of the spans, by binary search: the kernel runs this for every call."""
    if len(spans) == 1:
        ((first, last),) = spans
        refuse, allow = (_RETURN, 0, 0, _FAIL | errno.EPERM), (_RETURN, 0, 0, _ALLOW)
        return [(_AT_LEAST, 0, 2, first), (_AT_LEAST, 1, 0, last + 1), allow, refuse]
    half = len(spans) // 2
    low, high = _among(spans[:half]), _among(spans[half:])
    return [(_AT_LEAST, len(low), 0, spans[half][0]), *low, *high]


def _packed(lines: list[Instruction]) -> bytes:
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


class Filter:
    """A filter prepared in memory: a forked process only has to write its own pid into it."""

    def __init__(self, more: tuple[str, ...] = ()) -> None:
        code = program(_ANY_PID, more)
        self._code = ctypes.create_string_buffer(code, len(code))
        head = struct.pack("@HxxxxxxP", len(code) // 8, ctypes.addressof(self._code))
        self._head = ctypes.create_string_buffer(head)
        self._address = ctypes.addressof(self._head)
        unknown = struct.pack("=I", _ANY_PID)
        self._places = [at for at in range(4, len(code), 8) if code[at : at + 4] == unknown]

    def install(self) -> None:
        """Install the filter on this process, irrevocably; no_new_privs must be set.

        Raises:
            OSError: the kernel refuses.
        """
        for place in self._places:
            struct.pack_into("=I", self._code, place, os.getpid())
        syscalls.prctl(_PR_SET_SECCOMP, _MODE_FILTER, self._address, 0, 0)


def _only(number: int, *, argument: int, values: tuple[int, ...]) -> list[Instruction]:
    """Allow a call if the low half of an argument is one of `values` and the high half is 0."""
    offset = _ARGUMENTS + 8 * argument
    body: list[Instruction] = [(_LOAD, 0, 0, offset + 4), (_EQUAL, 1, 0, 0), (_RETURN, 0, 0, _FAIL | errno.EPERM)]
    body += [(_LOAD, 0, 0, offset)]
    body += [(_EQUAL, len(values) - index, 0, value) for index, value in enumerate(values)]
    body += [(_RETURN, 0, 0, _FAIL | errno.EPERM), (_RETURN, 0, 0, _ALLOW)]
    return [(_EQUAL, 0, len(body), number), *body]
