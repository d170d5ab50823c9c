"""Errors a user can cause. The command line prints their text and exits with their code, without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: the text names the value, the place and what is accepted."""

    exit_code = 2


class ConfigError(UserError):
    """A wrong key, value or file in the configuration."""


class DataError(UserError):
    """A row, file or column of the data that cannot be used."""


class BackendError(UserError):
    """A backend that is absent, or that cannot do what the configuration asks."""


class CheckpointError(UserError):
    """A checkpoint that is incomplete, corrupt or made by another configuration."""


class BundleError(UserError):
    """A parity bundle that is incomplete, corrupt or of another version."""


class RunFailed(UserError):
    """The run stopped itself: NaN, a fingerprint or ratio outside tolerance. The text names the saved evidence."""

    exit_code = 3


class ServerError(UserError):
    """A server that cannot be reached or used; what was done before is kept, and the command can be run again."""

    exit_code = 4


class RequestRefused(ServerError):
    """A request that is at fault: the server will not answer it however often it is asked, others it may."""
