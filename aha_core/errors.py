"""The one exception family: errors that a user can fix.

The command line prints an `AhaError` as one message and exits with 1; everything else is a bug and shows
its traceback. A message says what is wrong, names the value, and gives the next command or edit.
"""


class AhaError(Exception):
    """Something the user can fix. `str(error)` is the whole message."""


class ConfigError(AhaError):
    """A parameter is unknown, missing, of the wrong type or out of range."""


class DataError(AhaError):
    """Images, labels, masks or prepared data are missing or unusable."""


class TargetError(AhaError):
    """The classifier cannot be built, loaded or explained."""


class AttributionError(AhaError):
    """A map is unusable (NaN, wrong shape) or a method does not apply to this model."""


class TrackingError(AhaError):
    """The MLflow store cannot be reached."""


class ResourceError(AhaError):
    """A disk, memory or worker problem that another setting or a larger machine solves."""
