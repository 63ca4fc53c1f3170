"""Tokens: who calls."""

from typing import NamedTuple


class Caller(NamedTuple):
    """Who a token belongs to; nothing of a request's body has any say in this."""

    token: str
    """Public id of the token."""
    principal: str
    is_admin: bool


class TokenStore:
    """The tokens of a server, in its state folder."""
