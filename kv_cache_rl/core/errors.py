"""The base of every error that a user can solve."""


class Refused(ValueError):
    """An input that cannot be used: the text says what happened, with the numbers, and what to do.

    Every error of the package that is not a bug is one of these, so a caller catches them with one name and
    the command line ends with exit code 2 and the text alone. States that cannot be (`LedgerError`) are
    RuntimeErrors instead.
    """
