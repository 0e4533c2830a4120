"""What was logged, whatever any logger's handlers did to the format."""

from __future__ import annotations

import pytest


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """The messages, a line each.

    `caplog.text` is not used: pytest hands its handler to every logger that does not propagate,
    Spark's among them, and Spark's make each handler they are given write JSON from then on.
    """
    return "\n".join(caplog.messages)
