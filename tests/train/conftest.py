"""What the tests of training share."""

import pytest


@pytest.fixture
def few_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk of a parameter is updated at once: Triton's interpreter takes its time for each turn of a loop."""
    pytest.importorskip("triton")
    from anyres.train.kernels import adamw

    monkeypatch.setattr(adamw, "BLOCK", adamw.CHUNK)
