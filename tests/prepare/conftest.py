"""What the tests of `anyres prepare` share."""

import pytest

from anyres.cli import main


@pytest.fixture
def refused(capsys):
    """Run the command, which must end with status 2; gives its message."""

    def call(*arguments):
        assert main(["prepare", "--device", "cpu", *map(str, arguments)]) == 2
        message = capsys.readouterr().err
        assert message.startswith("anyres prepare: ")
        assert "\n  wanted: " in message
        assert "\n  to fix: " in message
        assert "Traceback" not in message
        return message

    return call
