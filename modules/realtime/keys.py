"""The bypass key: Enter, which every terminal hands over without another package."""

import logging
import os
import threading
from typing import TextIO

logger = logging.getLogger(__name__)


class BypassKey:
    """Whether the voice goes through as it is; Enter, after whatever else was typed, changes it."""

    def __init__(self, is_on: bool, terminal: TextIO | None) -> None:
        """Listens to `terminal` (`sys.stdin`; None where there is none) in a thread that ends with the process."""
        self.is_on = is_on
        try:
            self._descriptor = terminal.fileno() if terminal is not None else -1
        except (OSError, ValueError):  # closed, or no real file
            self._descriptor = -1
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def __call__(self) -> bool:
        return self.is_on

    def _listen(self) -> None:
        try:
            # Not by the file object: Python ends with a fatal error where a thread waits inside it.
            while typed := os.read(self._descriptor, 1024):
                for _ in range(typed.count(b"\n")):
                    self.is_on = not self.is_on
                    logger.info("bypass %s", "on: your own voice" if self.is_on else "off: the converted voice")
        except OSError:  # there is no terminal, or none any more
            return
