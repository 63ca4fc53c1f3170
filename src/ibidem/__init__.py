"""Own a small code assistant outright."""

__version__ = "0.1.0"
