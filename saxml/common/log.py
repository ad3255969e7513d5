"""Log lines on stderr as SAX users know them: `I0829 01:22:31.184198 7 file.py:111] text`."""

import logging
import os
import sys
import time
from typing import NoReturn

from absl import logging as absl_logging

# What all reference binaries exit with after an F line.
FATAL_EXIT_CODE = 255
_LETTERS = (
    (logging.CRITICAL, "F"),
    (logging.ERROR, "E"),
    (logging.WARNING, "W"),
    (logging.INFO, "I"),
    (0, "D"),
)


class GlogFormatter(logging.Formatter):
    """Severity letter, date, time, process id, file and line, then the text."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, followed by the traceback if there is one."""
        letter = next(c for level, c in _LETTERS if record.levelno >= level)
        when = time.strftime("%m%d %H:%M:%S", time.localtime(record.created))
        micros = int(record.created % 1 * 1e6)
        text = (
            f"{letter}{when}.{micros:06d} {record.process} {record.filename}:{record.lineno}] "
            f"{record.getMessage()}"
        )
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


def setup(level: int = logging.INFO) -> None:
    """Sends every logger of the process to stderr in this format; launchers call it first."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(GlogFormatter())
    root = logging.getLogger()
    root.handlers = [handler]  # instead of the one that absl.app.run() has put there
    root.setLevel(level)
    absl_logging.set_verbosity(absl_logging.INFO)
    for noisy in ("google", "urllib3", "jax", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def fatal(message: str, exit_code: int = FATAL_EXIT_CODE) -> NoReturn:
    """One F line, then the end of the process, even from a thread."""
    logging.getLogger(__name__).critical(message, stacklevel=2)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
