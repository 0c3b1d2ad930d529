"""Functions that fail in different ways, or tell their process; isolated processes import this module."""

import os
import signal


def failing(number: int) -> int:
    """Ten times the number, unless it is 1 (the process exits), 2 (raises), 3 (hangs) or 4 (raises SystemExit)."""
    if number == 1:
        os._exit(3)
    if number == 2:
        raise ArithmeticError
    if number == 3:
        signal.pause()
    if number == 4:
        raise SystemExit
    return 10 * number


def process_id(_: int) -> int:
    """The process that computes it."""
    return os.getpid()
