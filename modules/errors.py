"""The errors a user can cause: one line on stderr and exit code 2. Our own mistakes keep their traceback."""

import errno


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


# What a loop over files survives: that item's error, and the rest goes on. (torch's OutOfMemoryError is a RuntimeError:
# a loop that calls networks adds it.)
FAILURES = (UserError, OSError, MemoryError, RecursionError)

_OS_REASONS = {
    errno.ENOENT: "no such file or folder",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system cannot be written",
    errno.EISDIR: "is a folder, expected a file",
    errno.ENOTDIR: "a file stands where a folder is expected",
    errno.EEXIST: "something else has that name",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "is a link that leads back to itself",
    errno.EIO: "the disk cannot read or write it",
    errno.EMFILE: "too many files are open",
    errno.EFBIG: "the file system allows no file of that size",
}


def reason_of(error: BaseException, path: object = "") -> str:
    """Why the file at `path` failed, in one line without its name in front."""
    if isinstance(error, UserError):
        reason = " ".join(str(error).split())
    elif is_out_of_memory(error):
        reason = "not enough memory. Close other programs, or take smaller batches or shorter files"
    elif isinstance(error, RecursionError):
        reason = "is nested too deeply"
    elif isinstance(error, OSError):
        reason = _OS_REASONS.get(error.errno) or (
            error.strerror or "".join(map(str, error.args[:1])) or type(error).__name__
        )
        names = [str(name) for name in (error.filename, error.filename2) if name not in (None, "")]
        reason = ": ".join([" and ".join(names), reason]) if names else reason
    else:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
    return reason.removeprefix(f"{path}: ")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, numpy's, torch's on any device, or the system's for a library."""
    text = str(error)
    is_torch = type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in text
    is_library = "failed to map segment" in text or "Cannot allocate memory" in text
    kinds = ((RuntimeError, is_torch), ((ImportError, OSError), is_library))
    return isinstance(error, MemoryError) or any(isinstance(error, kind) and is_so for kind, is_so in kinds)
