"""How a measurement ends: its exit code, and no process left whatever ends it."""

import signal
import sys
from collections.abc import Callable
from typing import Final

from liger.errors import ConfigError, LigerError
from liger.lifecycle import EXIT_CONFIG, EXIT_FAILED

_INTERRUPTED: Final = 130


def exit_code_of(measure: Callable[[], None]) -> int:
    """Run a measurement and return the process's exit code.

    SIGTERM and SIGHUP end it as Ctrl-C does, so that contexts are left and what they started is ended.

    Args:
        measure: Raises LigerError for what people can mend, TimeoutError where a bound is over.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        measure()
    except KeyboardInterrupt:
        print("interrupted; no process is left", file=sys.stderr)
        return _INTERRUPTED
    except TimeoutError:
        print("error: this took far longer than asked for; the machine is too busy", file=sys.stderr)
        return EXIT_FAILED
    except LigerError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILED
    return 0
