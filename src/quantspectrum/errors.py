"""What a user can get wrong, told in one sentence; the command line exits with 1 on it."""

from __future__ import annotations

__all__ = ["UserError"]


class UserError(ValueError):
    """Wrong input: the message says what was wrong, where, and what to do."""
