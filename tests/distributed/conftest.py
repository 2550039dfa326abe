import pytest

from tests.processes import measured


@pytest.fixture(scope="module")
def found(request, tmp_path_factory):
    """The measurements of the module's WORKER, with its ARGUMENTS."""
    module = request.module
    return measured(module.WORKER, tmp_path_factory.mktemp("found"), *getattr(module, "ARGUMENTS", ()))
