"""The errors a user can cause: one line on stderr and exit code 2. Our own mistakes keep their traceback."""


class UserError(Exception):
    """Something the user can fix. The text names what was found, where, what was expected and what to do."""


class ConfigError(UserError):
    """A configuration file is missing, malformed, or disagrees with itself or with what it is used with."""


class MissingWeights(UserError):
    """A pretrained file is absent. The text names the path and the place to get it."""


class AudioError(UserError):
    """An audio file cannot be used: missing, empty, truncated, not audio, or not finite."""


class CheckpointError(UserError):
    """A checkpoint cannot be read, or does not fit the network it is meant for."""


class DataError(UserError):
    """A dataset, file list or cached feature is missing, stale or unusable."""


class UsageError(UserError):
    """Flags that contradict each other, name something unknown, or ask for what this version cannot do."""


class DownloadError(UserError):
    """A transfer failed, or what came is not what was published. The text says whether the same command goes on."""


def reason_of(error: Exception, path: object) -> str:
    """Why the file at `path` failed, without its name in front; an error of ours gets the name of its class."""
    reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return reason.removeprefix(f"{path}: ")
