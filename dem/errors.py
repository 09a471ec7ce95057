"""The errors and warnings that users see: one line each, with what to do."""

from __future__ import annotations


class DemError(Exception):
    """Base of every error that dem raises on purpose; its text is one clear line."""


class DataError(DemError, ValueError):
    """The data cannot be used: missing, unreadable, of the wrong shape or kind, or not finite."""


class MissingDataError(DataError):
    """Parts of a store are not there, or it is no longer the store that was opened."""


class OptionError(DemError, ValueError):
    """An option has a value that is unknown or out of range."""


class StoreError(DemError, OSError):
    """A model or result store cannot be read or written.

    Attributes
    ----------
    kept : str
        Where what was to be written is after all, under another name than asked for; empty if nowhere.
    """

    kept = ""


class EngineError(DemError, RuntimeError):
    """The cluster cannot be reached, has no workers or loses them, or they do not fit this process."""


class FitError(DemError, ValueError):
    """The fit itself broke down, for instance because the log-likelihood is not finite."""


class NonFiniteError(FitError):
    """The log-likelihood is NaN or infinite; the data or the parameters must be."""


class DataWarning(UserWarning):
    """The data can be used, but something about it is worth knowing."""


class ComponentWarning(UserWarning):
    """Components of a fitted model are of no use: empty, collapsed, or duplicates of others."""


class EngineWarning(UserWarning):
    """The cluster keeps the work waiting."""


class LikelihoodWarning(RuntimeWarning):
    """The log-likelihood fell although EM guarantees that it cannot."""
