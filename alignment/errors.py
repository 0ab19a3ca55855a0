"""Errors a user can cause: printed as one message without a traceback, exit status 2."""


class UserError(ValueError):
    """Something the user can put right; the message holds the value, the allowed values and the place."""


class ArgumentError(UserError):
    """A key of the JSON file or the command line is unknown, missing or out of range."""


class DataError(UserError):
    """A dataset, file or row cannot be used."""


class ModelFolderError(UserError):
    """A model or tokenizer folder is missing, damaged or does not fit."""


class CheckpointError(UserError):
    """A checkpoint cannot be written or read back."""


class RewardError(UserError):
    """A reward model, function or service gave no usable score."""


class PassingRewardError(RewardError):
    """A failure of a reward service that may be gone at the next try."""


class NumericalError(UserError):
    """A loss, reward or gradient is NaN or infinite."""


class ProcessError(UserError):
    """A process that was started here died, failed or took too long; what it refused to do is another UserError."""
