from collections.abc import Iterator

import pytest

from cir_env.sandbox import LocalSandbox


@pytest.fixture(scope="session")
def sandbox() -> Iterator[LocalSandbox]:
    with LocalSandbox() as made:
        yield made
