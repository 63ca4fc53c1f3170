"""The tree of errors that a user can cause or meet.

Each error is also the standard library's kind, so that callers can catch either. `cli.main` alone turns them into one
line and an exit code; any other traceback is our own bug.
"""


class IbidemError(Exception):
    """The root: its message is one line that names what, where and what to do."""


class ConfigError(IbidemError, ValueError):
    """A configuration, flag or path cannot work."""


class DataError(IbidemError, ValueError):
    """The data is not what the stage needs."""


class LicenseError(DataError):
    """A licence cannot be decided."""


class ArtifactError(IbidemError, RuntimeError):
    """An artifact folder is missing, incomplete or of another kind."""


class DigestMismatch(ArtifactError):  # noqa: N818 - the field's word
    """A file or a manifest is not the one that was written."""


class TrainingError(IbidemError, ArithmeticError):
    """Training has left the finite numbers."""


class CheckpointError(ArtifactError):
    """A checkpoint cannot be loaded."""


class SandboxError(IbidemError, RuntimeError):
    """Code of a model cannot be run safely here."""


class GateFailed(IbidemError):  # noqa: N818 - it is a decision
    """A gate says no; the message is its decision."""
