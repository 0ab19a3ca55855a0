"""Errors that a user can cause, printed as one message without a traceback; exit status 2."""


class UserError(ValueError):
    """An error that the user can fix; the message has the value, the allowed values and the place."""


def why_unreadable(error: Exception) -> str:
    """Describe why a text file could not be read: a folder, no permission, not UTF-8, not JSON."""
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 text (byte {error.object[error.start]:#04x} at position {error.start})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


class ArgumentError(UserError):
    """A key of the JSON file or the command line is unknown, missing or out of range."""


class DataError(UserError):
    """A dataset, file or row cannot be used."""


class ModelFolderError(UserError):
    """A model or tokenizer folder is missing, damaged or does not fit."""


class AdapterError(UserError):
    """An adapter cannot be made for a model, is damaged, or belongs to another model."""


class CheckpointError(UserError):
    """A checkpoint cannot be written or read back."""


class RewardError(UserError):
    """A reward model, function or service gave no usable score."""


class TooLongError(RewardError):
    """A reward model cannot read an answer with its prompt: they are longer than its positions."""


class PassingRewardError(RewardError):
    """A failure of a reward service that may be temporary."""


class NumericalError(UserError):
    """Training cannot continue because of its numbers."""


class NotFiniteError(NumericalError):
    """Numbers of a model are NaN or infinite. Raised by whichever engine, judge or loss finds it first; the loop, which
    knows the update, turns it into the message of ``diverged``.
    """

    def __init__(self, found: str, model: str = "", *, is_trained: bool = True) -> None:
        """``model`` is the name of the model; "": unknown."""
        super().__init__(found)
        self.model = model
        self.is_trained = is_trained


def diverged(model: str, found: str, when: str, *, num_updates: int, is_trained: bool = True) -> NumericalError:
    """Return the error for numbers of ``model`` that are NaN or infinite, as ``found`` says, after ``num_updates``.

    ``when`` names the update or evaluation.
    """
    if not is_trained:
        advice = "This model is not trained: its weights are damaged, or too large for its dtype"
    elif num_updates == 0:
        advice = (
            "There was no update before, so it is not the learning rate: look for extreme rows in the data, or for "
            "weights that are damaged or too large for their dtype"
        )
    else:
        advice = (
            "The model has diverged: lower the learning rate, or look for extreme rows in the data. Earlier "
            "checkpoints are untouched"
        )
    return NumericalError(f"{model}: {found} {when}. {advice}")


class ProcessError(UserError):
    """A child process died, failed or timed out."""
