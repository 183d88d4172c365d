import pytest

from tests.support.tiny_models import MakeModel, model_maker


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """Makes tiny models once a session: `folder, reference = tiny_model("llama")`."""
    return model_maker(tmp_path_factory.mktemp("tiny"))
