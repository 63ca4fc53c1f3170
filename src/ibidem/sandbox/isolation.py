"""The walls of a jail: namespaces, a root with little more than Python's own library, limits, no privileges.

    supervisor     enters user, mount, pid, net, ipc and uts namespaces, but stays outside the pid namespace itself
    init           process 1 of the pid namespace: when it is killed, the kernel kills all the others
    children       start with an empty scratch folder, no privileges, and only the system calls of `seccomp`

The root is an empty tmpfs with read-only views of the standard library (without site-packages, where benchmarks with
their answers may be installed), the folders of the shared libraries, the time zones, numpy and four devices. There is
no /proc, no /sys, no home. The views are bound while the supervisor may still read everything, so an interpreter in a
folder that only its owner may enter works too.
"""

import os
import resource
import sys
from glob import escape, glob
from typing import NamedTuple

from ibidem.sandbox import seccomp, syscalls

NOBODY = 65534
STACK_BYTES = 64 << 20
PACKAGES = "/packages"
SCRATCH = "/tmp"  # noqa: S108 - inside the jail
_STAGE = "/proc"  # exists on every Linux, and is not needed inside
_LIBRARY_ROOTS = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_DEVICES = ("null", "zero", "urandom", "random")
_NAMESPACES = (
    syscalls.CLONE_NEWUSER
    | syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUTS
)


class Limits(NamedTuple):
    """What a program may use. Time is CPU time, so load on the machine changes no verdict."""

    cpu_s: int = 10
    """CPU seconds for the candidate, and as many for its tests."""
    idle_s: float = 5.0
    """Seconds in which neither of them runs or waits for a CPU, as in a program that sleeps."""
    memory_bytes: int = 512 << 20
    """Address space."""
    scratch_bytes: int = 16 << 20
    """What may be written below /tmp, which is empty at the start."""
    scratch_files: int = 256


def enter(packages: tuple[str, ...], proc: int) -> None:
    """Enter the namespaces and change the root, irrevocably; `proc` is a descriptor of /proc.

    Raises:
        OSError: the kernel refuses.
    """
    if os.geteuid() == 0 and _may_mount():
        _build_root(packages)
        os.setgroups([])
        _enter_with_maps_from_outside(proc)
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    else:
        uid, gid = os.geteuid(), os.getegid()
        syscalls.unshare(_NAMESPACES)
        _write_maps(proc, "self", uid, gid)
        _build_root(packages)
    syscalls.forgo_capabilities()
    sys.path[:] = [*(_inside(os.path.realpath(folder)) for folder in sys.path), PACKAGES]


def mount_scratch(limits: Limits) -> None:
    """Mount an empty scratch folder."""
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC | syscalls.MS_NOATIME
    options = f"size={limits.scratch_bytes},nr_inodes={limits.scratch_files},mode=700"
    syscalls.mount("tmpfs", SCRATCH, "tmpfs", flags, options)


def surrender(limits: Limits) -> None:
    """Drop the rights that neither the supervisor nor its children need any more."""
    for kind, value in _resources(limits):
        resource.setrlimit(kind, (value, value))
    syscalls.drop_capabilities()
    syscalls.forgo_new_privileges()


def restrict(calls: seccomp.Filter, cpu_s: int) -> None:
    """Limit this process, irrevocably: no new processes, this much CPU time, these system calls."""
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    calls.install()


def close_descriptors(*keep: int) -> None:
    """Close all descriptors except `keep`; standard input is empty, and output is discarded."""
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    start = 3
    for descriptor in sorted(keep):
        os.closerange(start, descriptor)
        start = descriptor + 1
    os.closerange(start, 1 << 16)


def numpy_folders() -> tuple[str, ...]:
    """Find numpy where this interpreter would import it from, without importing it."""
    for folder in sys.path:
        if os.path.isfile(os.path.join(folder, "numpy", "__init__.py")):
            root = os.path.realpath(folder)
            return tuple(path for name in ("numpy", "numpy.libs") if os.path.isdir(path := os.path.join(root, name)))
    return ()


def _resources(limits: Limits) -> tuple[tuple[int, int], ...]:
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    return (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.scratch_bytes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_STACK, STACK_BYTES if hard == resource.RLIM_INFINITY else min(hard, STACK_BYTES)),
    )


def _may_mount() -> bool:
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
    except PermissionError:
        return False
    return True


def _enter_with_maps_from_outside(proc: int) -> None:
    """Enter the namespaces while a helper outside maps the ids: only it may map a user other than its own."""
    entered, done = os.pipe()
    pid, helper = str(os.getpid()), os.fork()
    if helper == 0:
        status = 1
        try:
            os.close(done)
            if os.read(entered, 1):
                _write_maps(proc, pid, NOBODY, NOBODY)
                status = 0
        finally:
            os._exit(status)
    syscalls.unshare(_NAMESPACES)
    os.write(done, b"x")
    os.close(done)
    os.close(entered)
    if os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1]) != 0:
        raise PermissionError(1, "the user namespace got no ids")


def _write_maps(proc: int, pid: str, uid: int, gid: int) -> None:
    for name, text in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {uid} 1"), ("gid_map", f"{NOBODY} {gid} 1")):
        file = os.open(f"{pid}/{name}", os.O_WRONLY, dir_fd=proc)
        try:
            os.write(file, text.encode())
        finally:
            os.close(file)


def _build_root(packages: tuple[str, ...]) -> None:
    """Mount what the jail may see below `_STAGE`, and make it the root."""
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    views = {**_library_views(), **{f"{PACKAGES}/{os.path.basename(source)}": source for source in packages}}
    links = {link: os.readlink(link) for link in _LIBRARY_ROOTS if os.path.islink(link)}
    syscalls.mount("tmpfs", _STAGE, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "size=1m,mode=755")
    for link, target in links.items():
        os.makedirs(_STAGE + os.path.dirname(link), exist_ok=True)
        os.symlink(target, _STAGE + link)
    for target, source in sorted(views.items()):
        _view(source, target)
    for name in _DEVICES:
        _view(f"/dev/{name}", f"/dev/{name}")
    os.mkdir(_STAGE + SCRATCH)
    syscalls.pivot_root(_STAGE)
    syscalls.protect("/", syscalls.ATTR_RDONLY | syscalls.ATTR_NOSUID)


def _view(source: str, target: str) -> None:
    place = _STAGE + target
    if os.path.isdir(source):
        os.makedirs(place, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY))
    syscalls.mount(source, place, None, syscalls.MS_BIND | syscalls.MS_REC)
    if target.startswith("/dev/"):
        return
    syscalls.protect(place, syscalls.ATTR_RDONLY | syscalls.ATTR_NOSUID | syscalls.ATTR_NODEV)
    for pattern in ("site-packages", "dist-packages", "python3*/site-packages", "python3*/dist-packages"):
        for hidden in glob(f"{escape(place)}/{pattern}"):
            syscalls.mount("tmpfs", hidden, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "size=4k,mode=755")


def _library_views() -> dict[str, str]:
    """Return the standard library and the folders of all loaded shared libraries, by their path in the jail."""
    folders = {os.path.realpath(folder) for folder in sys.path if os.path.isdir(folder)}
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        files = {line.split(maxsplit=5)[5].strip() for line in maps if ".so" in line}
    folders |= {os.path.realpath(os.path.dirname(file)) for file in files}
    folders |= {folder for folder in ("/usr/share/zoneinfo",) if os.path.isdir(folder)}
    outer = {folder for folder in folders if not any(folder.startswith(f"{other}/") for other in folders)}
    cache = {"/etc/ld.so.cache"} if os.path.isfile("/etc/ld.so.cache") else set()
    return {_inside(path): path for path in outer | cache}


def _inside(path: str) -> str:
    """Return the path of a folder in the jail: the same as outside, unless the scratch folder would hide it.

    >>> _inside("/usr/lib"), _inside(f"{SCRATCH}/lib") == f"/outside{SCRATCH}/lib"
    ('/usr/lib', True)
    """
    return f"/outside{path}" if path.startswith(f"{SCRATCH}/") else path
