"""The errors that a user can cause or encounter.

Each also derives from a standard exception, so that callers can catch either. Only `cli.main` turns them into one line
and an exit code; any other traceback is a bug of ours.
"""


class IbidemError(Exception):
    """The root; its message is one line that names what is wrong, where, and the remedy."""


class ConfigError(IbidemError, ValueError):
    """A configuration, flag or path is invalid."""


class RulesError(ConfigError):
    """Access rules cannot be read or are malformed; nobody may read anything then."""


class NoRoom(ConfigError):  # noqa: N818 - a finding
    """A question and its passages do not fit into a model's context."""


class DataError(IbidemError, ValueError):
    """The data does not fit the stage."""


class RequestsUnmatched(DataError):  # noqa: N818 - a finding
    """Requests for removal match nothing: `report` names them."""

    def __init__(self, message: str, report: str) -> None:
        super().__init__(message)
        self.report = report


class LicenseError(DataError):
    """A license cannot be determined."""


class ArtifactError(IbidemError, RuntimeError):
    """An artifact folder is missing, incomplete or of another kind."""


class StoreError(IbidemError, RuntimeError):
    """A store cannot be reached, read or written; never an `OSError`, which a damaged file may be."""


class DigestMismatch(ArtifactError):  # noqa: N818 - the field's word
    """A file or a manifest differs from what was written."""


class SignatureError(ArtifactError):
    """A signature is missing, malformed, or of a key that is not accepted."""


class TrainingError(IbidemError, ArithmeticError):
    """Training produced numbers that are not finite."""


class NothingToLearn(TrainingError):  # noqa: N818 - a finding
    """No sampled answer earns more than the others, so their rewards teach nothing."""


class CheckpointError(ArtifactError):
    """A checkpoint cannot be loaded."""


class AccessDenied(IbidemError, PermissionError):  # noqa: N818 - the field's word
    """A principal asks for what they may not read, or for what does not exist: the message is the same."""


class NotAReader(AccessDenied):
    """A model was made from documents, of which the principal is no reader."""


class AuditError(IbidemError, RuntimeError):
    """The audit log cannot be written, or is not what it was."""


class Terminated(KeyboardInterrupt):
    """A scheduler ended a run, whose last step is saved; the message says how to go on."""


class SandboxError(IbidemError, RuntimeError):
    """Model-written code cannot be run safely here."""


class NothingFound(IbidemError):  # noqa: N818 - it is an answer
    """What was looked for is nowhere; the message is the answer."""


class StillHeld(IbidemError):  # noqa: N818 - it is an answer
    """Removed documents are still held beside the datasets that were checked; the message is the report."""


class GateFailed(IbidemError):  # noqa: N818 - it is a decision
    """The gate blocks a release; the message is its decision."""
