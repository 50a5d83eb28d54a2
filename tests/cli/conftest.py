"""Running commands."""

import pytest

from keras_vit_cli import main


@pytest.fixture
def keras_vit(capsys):
    """Run a command in this process: exit status, output, errors."""

    def run(*arguments):
        status = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code or 0
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run
