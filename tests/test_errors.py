from __future__ import annotations

import pytest

from quantspectrum.errors import UserError


def test_a_users_mistake_is_a_value_error_that_keeps_its_sentence() -> None:
    with pytest.raises(ValueError, match=r"^op x is missing; name another$"):
        raise UserError("op x is missing; name another")
