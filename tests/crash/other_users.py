"""Commands run by somebody who may write nothing: permissions do not bind the superuser."""

import os

NOBODY_IN_PARTICULAR = 12345
"""A user without an entry in any list of users, so without a home folder."""


def as_stranger() -> tuple[str, ...]:
    """Give a command that runs another one as a stranger who may read everything.

    Nothing, if the tests are run by somebody whom permissions bind.
    """
    if os.geteuid() != 0:
        return ()
    user = str(NOBODY_IN_PARTICULAR)
    rights = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    return ("setpriv", "--reuid", user, "--regid", user, "--clear-groups", *rights)
