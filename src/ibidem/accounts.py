"""Accounts of this machine: who a principal is, and whom the mode of a file or folder shuts out.

A class of a mode that lacks a right is a group of its own: `outside 1001:50:xx-` are all whom a folder of owner 1001
and group 50, which others may not search, shuts out.
"""

import os
import pwd
import re
from typing import NamedTuple

NO_ACCOUNT = "without an account"
"""The group of all principals of whom the system knows nothing."""
_OUTSIDE = re.compile(r"outside (\d+):(\d+):([rx-]{3})")


class Person(NamedTuple):
    """A principal, as the system knows it."""

    uid: int
    groups: frozenset[int] | None
    """None for a number without an account: its groups are unknown."""


def person(principal: str) -> Person | None:
    """Return what the system knows of a principal, by user name or as `uid:1000`; None if it knows nothing.

    >>> person("root").uid, person("uid:0") == person("root"), person("no such user")
    (0, True, None)
    """
    number = re.fullmatch(r"uid:(\d{1,10})", principal)
    try:
        account = pwd.getpwuid(int(number[1])) if number else pwd.getpwnam(principal)
        return Person(account.pw_uid, frozenset(os.getgrouplist(account.pw_name, account.pw_gid)))
    except (KeyError, ValueError, OverflowError):  # no account; a name that cannot be one
        return Person(int(number[1]), None) if number else None


def this_user() -> str:
    """Return the name of the user who runs the program; without an account, the number."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid:{os.getuid()}"


def is_outside_group(name: str) -> bool:
    """Return whether a name is that of those whom a mode shuts out, or of those without an account.

    >>> is_outside_group("outside 1001:50:xx-"), is_outside_group(NO_ACCOUNT), is_outside_group("ada")
    (True, True, False)
    """
    return name == NO_ACCOUNT or _OUTSIDE.fullmatch(name) is not None


def is_outside(known: Person, name: str) -> bool:
    """Return whether a mode shuts a person out; `name` is that of a group of those whom it does.

    A person has an account, or a number that may own files.
    """
    if name == NO_ACCOUNT:
        return False
    match = _OUTSIDE.fullmatch(name)
    if match is None:
        return True
    owner, group, others = (letter != "-" for letter in match[3])
    if known.uid == int(match[1]):
        return not owner
    if known.groups is None:
        return not (group and others)
    return not (group if int(match[2]) in known.groups else others)
