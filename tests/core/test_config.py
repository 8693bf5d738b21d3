"""Parameters: what is understood, and what an error says."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from pipeline.core.config import check, parse, read_yaml, section
from pipeline.core.errors import ParameterError


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    depth: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    epochs: int
    rate: float = 0.5
    name: str = "a"
    shuffle: bool = False
    limit: float | None = None
    loss: Literal["log", "rank"] = "log"
    hidden: tuple[int, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    inner: Inner = Inner()
    anything: Any = None

    def __post_init__(self) -> None:
        check(self.epochs >= 1, f"epochs: must be 1 or more, found {self.epochs}")


def failure(value: Any) -> str:
    with pytest.raises(ParameterError) as caught:
        parse(Config, value, "params.yaml: model")
    return str(caught.value)


def test_every_type_is_read() -> None:
    value = {
        "epochs": 3,
        "rate": 0.1,
        "name": "b",
        "shuffle": True,
        "limit": 2.5,
        "loss": "rank",
        "hidden": [64, 32],
        "counts": {"user_id": 50},
        "inner": {"depth": 7},
        "anything": [1, "x"],
    }
    assert parse(Config, value, "here") == Config(
        epochs=3,
        rate=0.1,
        name="b",
        shuffle=True,
        limit=2.5,
        loss="rank",
        hidden=(64, 32),
        counts={"user_id": 50},
        inner=Inner(depth=7),
        anything=[1, "x"],
    )


def test_defaults_stand_for_what_is_left_out() -> None:
    assert parse(Config, {"epochs": 1}, "here") == Config(epochs=1)


#: (what stands in the file, the value that is meant)
LENIENT = [
    ({"rate": "1e-3"}, ("rate", 0.001)),  # YAML 1.1 reads 1e-3 as a text
    ({"rate": 2}, ("rate", 2.0)),
    ({"limit": None}, ("limit", None)),
    ({"limit": "1e-3"}, ("limit", 0.001)),
    ({"limit": 3}, ("limit", 3.0)),
    ({"epochs": 4.0}, ("epochs", 4)),
    ({"hidden": []}, ("hidden", ())),
]


@pytest.mark.parametrize(("given", "meant"), LENIENT)
def test_numbers_may_be_written_in_several_ways(given: dict[str, Any], meant: tuple[str, Any]) -> None:
    value = getattr(parse(Config, {"epochs": 1, **given}, "here"), meant[0])
    assert value == meant[1]
    assert type(value) is type(meant[1])


#: (what stands in the file, what the message says after the section)
WRONG = [
    ({"epochs": "three"}, ".epochs: must be a whole number, found 'three'"),
    ({"epochs": 1.5}, ".epochs: must be a whole number, found 1.5"),
    ({"epochs": True}, ".epochs: must be a whole number, found True"),
    ({"epochs": None}, ".epochs: must be a whole number, found None"),
    ({"rate": "fast"}, ".rate: must be a number, found 'fast'"),
    ({"rate": True}, ".rate: must be a number, found True"),
    ({"rate": float("inf")}, ".rate: must be a finite number, found inf"),
    ({"rate": "-inf"}, ".rate: must be a finite number, found -inf"),
    ({"limit": float("nan")}, ".limit: must be a finite number, found nan"),
    ({"epochs": float("inf")}, ".epochs: must be a whole number, found inf"),
    ({"rate": [1]}, ".rate: must be a number, found [1]"),
    ({"limit": "none"}, ".limit: must be a number, found 'none'"),
    ({"name": 1}, ".name: must be a text, found 1"),
    ({"shuffle": 1}, ".shuffle: must be true or false, found 1"),
    ({"shuffle": "yes"}, ".shuffle: must be true or false, found 'yes'"),
    ({"loss": "mse"}, ".loss: must be one of 'log', 'rank', found 'mse'"),
    ({"hidden": 64}, ".hidden: must be a list, found 64"),
    ({"hidden": "64"}, ".hidden: must be a list, found '64'"),
    ({"hidden": [64, "x"]}, ".hidden[1]: must be a whole number, found 'x'"),
    ({"counts": [1]}, ".counts: must be a mapping, found [1]"),
    ({"counts": {"user_id": "many"}}, ".counts.user_id: must be a whole number, found 'many'"),
    ({"inner": 3}, ".inner: expected a mapping, found 3"),
    ({"inner": {"depht": 3}}, ".inner: unknown key 'depht'; did you mean depth?"),
    ({"epochs": 0}, ": epochs: must be 1 or more, found 0"),
    ({"epoch": 3}, ": unknown key 'epoch'; did you mean epochs?"),
    ({7: 3}, ": unknown key 7; it may hold: epochs, rate, name, shuffle, limit, loss, hidden, counts, inner, anything"),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_an_error_says_where_what_was_expected_and_what_was_found(given: dict[Any, Any], message: str) -> None:
    assert failure({"epochs": 1, **given}) == f"params.yaml: model{message}"


def test_a_missing_key_is_named() -> None:
    assert failure({"rate": 0.1}) == "params.yaml: model: missing key 'epochs'"


@pytest.mark.parametrize("value", [None, [], "x", 3])
def test_a_section_must_be_a_mapping(value: Any) -> None:
    assert failure(value) == f"params.yaml: model: expected a mapping, found {value!r}"


def test_a_literal_takes_no_number_for_a_truth_value() -> None:
    @dataclass
    class Flags:
        level: int = 0

    Flags.__annotations__["level"] = Literal[0, 1]
    assert parse(Flags, {"level": 1}, "here").level == 1
    with pytest.raises(ParameterError, match="must be one of 0, 1, found True"):
        parse(Flags, {"level": True}, "here")


def test_sections_are_found_by_dots(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("models:\n  small: {epochs: 2, rate: 1e-3}\n  broken: 3\n")
    assert section(path, "models.small", Config) == Config(epochs=2, rate=0.001)
    with pytest.raises(ParameterError) as caught:
        section(path, "models.large", Config)
    assert str(caught.value) == f"{path}: models.large is missing; models holds: small, broken"
    with pytest.raises(ParameterError) as caught:
        section(path, "model", Config)
    assert str(caught.value) == f"{path}: model is missing; the top level holds: models"
    with pytest.raises(ParameterError) as caught:
        section(path, "models.broken.deeper", Config)
    assert str(caught.value) == f"{path}: models.broken.deeper is missing; models.broken holds: 3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not valid YAML"),
        ("- 1\n- 2\n", "expected a mapping of sections, found list"),
        ("", "expected a mapping of sections, found NoneType"),
    ],
)
def test_a_file_that_holds_no_parameters(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParameterError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="no such file; expected a YAML file of parameters"):
        read_yaml(tmp_path / "none.yaml")
