import dataclasses

import pytest

from controller.config import ControllerConfig
from gateway.config import GatewayConfig
from liger.config import build_config, field_help
from liger.errors import ConfigError
from worker.config import WorkerConfig

CONFIGS = {"gateway": GatewayConfig, "controller": ControllerConfig, "worker": WorkerConfig}


@pytest.fixture(params=CONFIGS)
def service(request) -> str:
    return request.param


def test_every_field_is_documented(service):
    fields = {field.name for field in dataclasses.fields(CONFIGS[service])}
    helps = field_help(CONFIGS[service])
    assert set(helps) == fields
    assert all(text.endswith(".") for text in helps.values())


def test_no_config_can_be_changed_or_given_by_place(service):
    assert CONFIGS[service].__dataclass_params__.frozen
    assert all(field.kw_only for field in dataclasses.fields(CONFIGS[service]))


def test_every_service_has_the_settings_that_all_have(service):
    names = {field.name for field in dataclasses.fields(CONFIGS[service])}
    assert names >= {"listen", "insecure", "drain_limit_s", "log_level", "json_logs"}


def test_a_drain_limit_that_is_no_time_is_refused(service, tmp_path):
    own = ["--model-folder", str(tmp_path)] if service == "worker" else []
    with pytest.raises(ConfigError, match="--drain-limit-s must be"):
        build_config(CONFIGS[service], service, [*own, "--drain-limit-s", "nan"], {})
