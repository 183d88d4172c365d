from dataclasses import dataclass
from pathlib import Path

import pytest

from liger.config import build_config, field_help
from liger.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Config:
    """Runs a kitchen."""

    folder: Path
    """Where recipes are, 100 % of them."""
    num_cooks: int = 2
    """Cooks at work."""
    heat: float = 1.5
    """How hot."""
    name: str = ""
    """What it is called."""
    rank: int | None = None
    """Its place, if it has one."""
    open: bool = False
    """Whether guests may come."""

    def __post_init__(self) -> None:
        if self.num_cooks < 1:
            raise ConfigError("--num-cooks must be at least 1")


def build(*argv: str, **environ: str) -> Config:
    return build_config(Config, "kitchen", argv, environ)


def test_defaults_fill_what_is_not_given():
    assert build("--folder", "/r") == Config(folder=Path("/r"))


def test_flags_win_over_environment_and_environment_over_the_file(tmp_path):
    file = tmp_path / "kitchen.toml"
    file.write_text('folder = "/file"\nnum_cooks = 3\nheat = 3\nopen = true\n')
    built = build(
        "--config",
        str(file),
        "--num-cooks",
        "5",
        LIGER_KITCHEN_NUM_COOKS="4",
        LIGER_KITCHEN_HEAT="4",
        LIGER_OTHER_HEAT="9",
    )
    assert built == Config(folder=Path("/file"), num_cooks=5, heat=4.0, open=True)


@pytest.mark.parametrize(
    ("argv", "wanted"), [(("--open",), True), (("--open", "false"), False), (("--open", "yes"), True), ((), False)]
)
def test_switches_stand_alone_or_take_a_word(argv, wanted):
    assert build("--folder", "/r", *argv).open is wanted


def test_an_optional_number_is_a_number():
    assert build("--folder", "/r", "--rank", "3").rank == 3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "kitchen needs --folder"),
        (("--folder", "/r", "--num-cooks", "many"), "--num-cooks takes a whole number, not 'many'"),
        (("--folder", "/r", "--heat", "hot"), "--heat takes a number, not 'hot'"),
        (("--folder", "/r", "--open", "perhaps"), "--open takes true or false, not 'perhaps'"),
        (("--folder", "/r", "--num-cooks", "0"), "--num-cooks must be at least 1"),
        (("--config", "/nowhere.toml"), "cannot read the config file /nowhere.toml"),
    ],
)
def test_bad_values_are_told_by_flag(argv, message):
    with pytest.raises(ConfigError, match=message):
        build(*argv)


def test_a_bad_variable_is_told_by_its_name():
    with pytest.raises(ConfigError, match="LIGER_KITCHEN_HEAT takes a number"):
        build("--folder", "/r", LIGER_KITCHEN_HEAT="hot")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_cooks = [", "is not TOML"),
        ("cooks = 1", "unknown settings: cooks"),
        ("heat = 'x'", "heat in .* takes a number"),
    ],
)
def test_a_bad_file_is_told_by_its_path(tmp_path, text, message):
    file = tmp_path / "kitchen.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        build("--config", str(file))


def test_help_tells_every_field_and_its_default(capsys):
    with pytest.raises(SystemExit) as stop:
        build("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    assert "Runs a kitchen." in shown
    assert "Where recipes are, 100 % of them." in shown
    assert "Cooks at work. (default: 2)" in shown
    assert "LIGER_KITCHEN_" in shown


def test_an_unknown_flag_ends_with_2(capsys):
    with pytest.raises(SystemExit) as stop:
        build("--folder", "/r", "--spices", "9")
    assert stop.value.code == 2
    assert "--spices" in capsys.readouterr().err


def test_field_help_is_the_text_under_each_field():
    assert field_help(Config)["heat"] == "How hot."
    assert set(field_help(Config)) == {"folder", "num_cooks", "heat", "name", "rank", "open"}
