import pytest

from tests.support.in_process import running_stack


@pytest.fixture
async def stack(tmp_path, capsys):
    async with running_stack(tmp_path, lambda: capsys.readouterr().out) as stack:
        yield stack
