"""`ibidem token create`, `list` and `revoke`: who may call a server."""

import time

from ibidem.errors import ConfigError
from ibidem.figures import visible
from ibidem.serving.config import TokenCreateConfig, TokenListConfig, TokenRevokeConfig
from ibidem.serving.server.tokens import FILE, Token, TokenStore


def create(config: TokenCreateConfig) -> str:
    """Make a token; return it. It is shown this once."""
    with TokenStore(config.state) as tokens:
        return tokens.create(config.principal, is_admin=config.admin, days=config.days)


def listed(config: TokenListConfig) -> str:
    """Return a table of the tokens."""
    with _existing(config) as tokens:
        rows = [_row(token) for token in tokens.listed()]
    head = ("id", "principal", "admin", "made", "expires")
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows))


def revoke(config: TokenRevokeConfig) -> str:
    """Revoke a token."""
    with _existing(config) as tokens:
        tokens.revoke(config.token)
    return f"{config.token}: revoked; what is being sent with it ends, and so do its sessions"


def _existing(config: TokenListConfig | TokenRevokeConfig) -> TokenStore:
    if not (config.state / FILE).exists():
        raise ConfigError(f"state {config.state}: no tokens there; give the server's folder with --state")
    return TokenStore(config.state)


def _row(token: Token) -> tuple[str, ...]:
    expires = _day(token.expires) if token.expires > time.time() else f"{_day(token.expires)} (expired)"
    is_admin = "yes" if token.caller.is_admin else "no"
    return token.caller.token, visible(token.caller.principal), is_admin, _day(token.created), expires


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(moment))
