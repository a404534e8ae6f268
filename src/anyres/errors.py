"""The errors that a user can cause, each saying what was got, what was wanted and how to fix it.

Anything else that escapes is a bug of ours. The command line prints these without a traceback and
leaves with exit status 2.
"""


class AnyResError(Exception):
    """Base of every error that bad input can raise.

    Args:
        got: what was found, with the offending value in it.
        wanted: what would have been accepted.
        fix: what the reader can do about it.
    """

    def __init__(self, got: str, *, wanted: str, fix: str) -> None:
        self.got, self.wanted, self.fix = got, wanted, fix
        super().__init__(f"{got}\n  wanted: {wanted}\n  to fix: {fix}")

    def __reduce__(self):  # keyword-only arguments do not survive pickling between processes otherwise
        return _rebuild, (type(self), self.got, self.wanted, self.fix)


def _rebuild(kind: type[AnyResError], got: str, wanted: str, fix: str) -> AnyResError:
    return kind(got, wanted=wanted, fix=fix)


def first_line(error: Exception) -> str:
    """What a library's error says, without its further lines."""
    return (str(error) or repr(error)).splitlines()[0]


class ConfigError(AnyResError):
    """A setting, size, label, recipe or option that cannot be used."""


class DataError(AnyResError):
    """A folder, image or dataset that cannot be read or written, or does not fit."""


class CheckpointError(AnyResError):
    """Weights or a training state that are missing, damaged, or of another architecture."""


class BackendError(AnyResError):
    """Something this machine or this installation lacks."""


class NonFiniteError(AnyResError):
    """Training met a non-finite loss or gradient; the last good state is on disk."""
