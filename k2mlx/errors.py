"""The few kinds of error that k2mlx raises on purpose.

Each message says what was looked at, what was got, what was wanted and what to do next, in one
line. Errors that a user can cause are ValueErrors too; a bug of ours is an AssertionError and
never one of these.
"""


class K2Error(Exception):
    """Base of all errors whose message is meant for a person."""


class ConfigError(K2Error, ValueError):
    """A config.json, a TOML recipe or a command-line value that does not describe a K2."""


class CheckpointError(K2Error, ValueError):
    """A model folder that is missing, incomplete or disagrees with its config."""


class TokenizerError(K2Error, ValueError):
    """A tokenizer file that is missing, unreadable or does not fit the model."""


class RequestError(K2Error, ValueError):
    """A prompt, message list, tool call or sampling value that cannot be served."""


class HubError(K2Error):
    """A repository that cannot be fetched: not there, not allowed, not answering, or not what its
    hashes say."""


class BusyError(K2Error):
    """A folder that another k2mlx is writing."""


class MissingExtraError(K2Error, ImportError):
    """An optional part of k2mlx is not installed; the message names the command that installs
    it."""


class PlanError(K2Error, ValueError):
    """A model that does not fit on the machines it was to be placed on."""


class ClusterError(K2Error):
    """Another rank is lost, has failed, or does not match this one."""
