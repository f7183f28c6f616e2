"""The one exception a user is meant to see."""


class UserError(Exception):
    """Something the user can mend: one sentence saying what is wrong, where, and what to do.

    The command line prints it after ``error:`` on stderr and exits with 2; no traceback.
    """
