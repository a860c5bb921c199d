"""Two processes that all tests of this folder share."""

import pytest

from tensorlab.parallel.distributed import Ranks


@pytest.fixture(scope="session")
def two():
    with Ranks(2, timeout=60) as ranks:
        yield ranks
