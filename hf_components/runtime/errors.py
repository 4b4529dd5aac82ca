"""The one exception for mistakes a user can mend; recipes print its message without a traceback."""


class UserError(ValueError):
    """Wrong input. The message names the thing, the rule, the value, and what to do."""


class NothingToTrainOnError(UserError):
    """What was chosen for training has no recording in it."""
