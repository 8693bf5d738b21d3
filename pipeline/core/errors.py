"""Errors that a user can act on: what was expected, what was found, where, and what to do."""

from __future__ import annotations


class UserError(Exception):
    """Something outside the code is wrong: a file, a parameter, a credential.

    The stages print its message alone and exit with status 1; any other exception is a bug and keeps its traceback.
    """


class ParameterError(UserError):
    """A key of params.yaml is unknown, missing, of the wrong type or out of range."""


class InputError(UserError):
    """A raw file is missing, damaged or does not say what the competition's files say."""
