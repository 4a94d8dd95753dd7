"""What a plan's JSON file holds, read field by field: whatever is wrong in it is named, before anything runs."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

from .prediction import FORMS, PREDICTIONS, convert
from .row import CALLS, LinearUpdate, Row

NUMBERS = ("t", "alpha", "sigma", "p_x", "p_m", "c_in")


def read_plan(data: object) -> dict[str, Any]:
    """The arguments of a `Plan` from what `Plan.to_dict` gave. Raises ValueError naming the field."""
    found = _fields(data, ("fastdiff_plan", "rows", "end", "prediction", "solver", "grid", "schedule"), "the plan")
    prediction = _one_of(found["prediction"], PREDICTIONS, "prediction")
    version = found["fastdiff_plan"]
    rows = [_row(row, f"rows[{i}]", prediction, version) for i, row in enumerate(_list(found["rows"], "rows"))]
    knots = enumerate(_list(found["schedule"], "schedule"))
    return {
        "rows": tuple(rows),
        "end": _levels(found["end"], "end"),
        "prediction": prediction,
        "solver": _name(found["solver"], "solver"),
        "grid": _name(found["grid"], "grid"),
        "schedule": tuple(_numbers(knot, f"schedule[{i}]", 3) for i, knot in knots),
    }


def _row(data: object, where: str, prediction: str, version: object) -> Row:
    if isinstance(data, dict) and version == 2 and "forget" in data:
        data = {"drop_history" if name == "forget" else name: value for name, value in data.items()}
    if isinstance(data, dict):
        data = {"call": "full", "uncond": (), **data}  # which files leave out
    found = _fields(data, tuple(f.name for f in fields(Row)), where)
    numbers = {name: _number(found[name], f"{where}.{name}") for name in NUMBERS}
    row = Row(
        **numbers,
        form=_one_of(found["form"], (*FORMS, "mixed"), f"{where}.form"),
        x=_line(found["x"], f"{where}.x"),
        base=None if found["base"] is None else _line(found["base"], f"{where}.base"),
        drop_history=tuple(
            _index(k, f"{where}.drop_history") for k in _list(found["drop_history"], f"{where}.drop_history")
        ),
        call=_one_of(found["call"], CALLS, f"{where}.call"),
        uncond=_numbers(found["uncond"], f"{where}.uncond"),
    )
    _levels((row.alpha, row.sigma), f"{where}.alpha, {where}.sigma")
    if row.form != "data":
        _require_x0(row, where, prediction)
    return row


def _require_x0(row: Row, where: str, prediction: str) -> None:
    """x0 is what a step shows and what limits bound: D, x and the prediction must determine it."""
    if row.p_m == 0:
        raise ValueError(f"{where}.p_m: expected a number other than 0 in {row.form} form, got 0")
    try:
        convert(prediction, "data", row.alpha, row.sigma)
    except ValueError as error:
        raise ValueError(f"{where}.alpha, {where}.sigma: got {row.alpha}, {row.sigma}; {error}") from error


def _line(data: object, where: str) -> LinearUpdate:
    found = _fields(data, tuple(f.name for f in fields(LinearUpdate)), where)
    noise = []
    for i, term in enumerate(_list(found["noise"], f"{where}.noise")):
        index, weight = _list(term, f"{where}.noise[{i}]", 2)
        noise.append((_index(index, f"{where}.noise[{i}]"), _number(weight, f"{where}.noise[{i}]")))
    base, x = (_number(found[name], f"{where}.{name}") for name in ("base", "x"))
    return LinearUpdate(base, x, _numbers(found["history"], f"{where}.history"), tuple(noise))


def _fields(data: object, names: tuple[str, ...], where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected an object with the fields {', '.join(names)}, got {data!r:.80}")
    missing = [name for name in names if name not in data]
    unknown = [name for name in data if name not in names]
    if missing or unknown:
        found = [f"no field {name}" for name in missing] + [f"an unknown field {name}" for name in unknown]
        raise ValueError(f"{where}: expected the fields {', '.join(names)}, got {', '.join(found)}")
    return data


def _list(value: object, where: str, length: int | None = None) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, (list, tuple)) or length not in (None, len(value)):
        expected = "a list" if length is None else f"a list of {length}"
        raise ValueError(f"{where}: expected {expected}, got {value!r:.80}")
    return value


def _numbers(value: object, where: str, length: int | None = None) -> tuple[float, ...]:
    return tuple(_number(v, f"{where}[{i}]") for i, v in enumerate(_list(value, where, length)))


def _levels(value: object, where: str) -> tuple[float, float]:
    alpha, sigma = _numbers(value, where, 2)
    if alpha < 0 or sigma < 0 or alpha == sigma == 0:
        raise ValueError(f"{where}: expected alpha and sigma >= 0 and not both 0, got {alpha}, {sigma}")
    return alpha, sigma


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{where}: expected a number, got {value!r:.80}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{where}: expected a finite number, got {number}")
    return number


def _index(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
        raise ValueError(f"{where}: expected a whole number from 0 to 2^32 - 1, got {value!r:.80}")
    return value


def _name(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: expected a name, got {value!r:.80}")
    return value


def _one_of(value: object, known: tuple[str, ...], where: str) -> str:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{where}: expected one of {', '.join(known)}, got {value!r:.80}")
    return value
