"""Work that breaks, each item in a way of its own; imported, within its time, by processes that do it."""

import os
import signal


def breaking(number: int) -> int:
    if number == 1:
        os._exit(3)
    if number == 2:
        raise ArithmeticError
    if number == 3:
        signal.pause()
    if number == 4:
        raise SystemExit
    return 10 * number
