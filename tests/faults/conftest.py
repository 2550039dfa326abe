from tests.data.conftest import hub, impatient, mirror  # noqa: F401 - fixtures
