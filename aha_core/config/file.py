"""Reading a parameter file, with one line for every problem in it."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from aha_core.config.params import Params
from aha_core.errors import ConfigError

SIZE_OF_TARGET = "target"  # instead of a number at data.image_size


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-3 as a number (YAML 1.1 wants 1.0e-3)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*(?:\.[\d_]*)?|\.[\d_]+)(?:[eE][-+]?\d+)$|^[-+]?(?:\d[\d_]*)?\.[\d_]+$|^[-+]?\.inf$"),
    list("-+.0123456789"),
)


def load_params(path: Path) -> Params:
    """Read and validate a params file.

    Raises ConfigError with one line per problem: dotted name, value, what is allowed.
    """
    if not path.is_file():
        raise ConfigError(f"no parameter file at {path}; `aha profile embedded` writes one")
    try:
        raw = yaml.load(path.read_text(), Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"{path.name} is not valid YAML: {error}") from error
    return parse_params(raw, source=path.name)


def parse_params(raw: Any, source: str = "params") -> Params:
    """Validate a nested mapping. Raises ConfigError; see `load_params`."""
    if not isinstance(raw, dict):
        raise ConfigError(f"{source}: expected a mapping of sections, got {type(raw).__name__}")
    try:
        return Params.model_validate(_sized(raw, source))
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise ConfigError("\n".join(f"{source}: {line}" for line in lines)) from None


def _sized(raw: dict[str, Any], source: str) -> dict[str, Any]:
    """With the input size of timm's weights of `target.name` for `data.image_size: target`.

    Raises ConfigError where timm knows none, or one that is not square.
    """
    data, target = raw.get("data"), raw.get("target")
    if not isinstance(data, dict) or not isinstance(target, dict) or data.get("image_size") != SIZE_OF_TARGET:
        return raw
    import timm  # takes a second, and most parameter files say a number

    name: str = str(target.get("name"))
    config: Any = None
    with contextlib.suppress(RuntimeError):  # the architecture is known, weights of that name are not
        config = timm.get_pretrained_cfg(name)
    height, width = config.input_size[1:] if config else (0, 0)
    if height != width or not config:
        known = f"timm's is {height} x {width}" if config else "timm knows no input size of that name"
        raise ConfigError(
            f"{source}: data.image_size = {SIZE_OF_TARGET!r}, target.name = {name!r}: {known}; write a number of pixels"
        )
    return raw | {"data": data | {"image_size": height}}


def _explain(problem: Any) -> str:
    names, section = _place(problem["loc"])
    name = ".".join(names) or "(top level)"
    if problem["type"] == "extra_forbidden":
        _, around = _place(problem["loc"][:-1])
        return (
            f"unknown parameter {name} = {problem['input']!r}; allowed here: {', '.join(sorted(around.model_fields))}"
        )
    if problem["type"] == "missing":
        return f"missing parameter {name}"
    if problem["type"] in ("union_tag_not_found", "union_tag_invalid"):
        tag = problem.get("ctx", {}).get("tag")
        given = f"missing parameter {name}.kind" if tag is None else f"{name}.kind = {tag!r}"
        return f"{given}: expected {' or '.join(section)}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error" and isinstance(problem["input"], dict):  # of a section, which names its values
        return f"{name}: {message}" if names else message
    return f"{name} = {problem['input']!r}: {message.lower()}"


def _place(location: tuple[int | str, ...]) -> tuple[list[str], Any]:
    """Parameter names on the way to a location, and what is there: a section, or the sections of a union by kind.

    pydantic's location names the kind of a union too; the parameter's name does not.
    """
    names: list[str] = []
    here: Any = Params
    for part in location:
        if isinstance(here, dict):
            here = here.get(part)
            continue
        names.append(str(part))
        fields = getattr(here, "model_fields", {})
        here = fields[part].annotation if part in fields else None
        kinds = [one for one in get_args(here) if hasattr(one, "model_fields") and "kind" in one.model_fields]
        if kinds:
            here = {get_args(one.model_fields["kind"].annotation)[0]: one for one in kinds}
    return names, here


def expand_path(spec: str, parameter: str) -> Path:
    """Expand $VARIABLES and ~ in a path parameter.

    Raises ConfigError naming the parameter and the variable when a variable is not set.
    """
    expanded = os.path.expanduser(os.path.expandvars(spec))
    unset = re.search(r"\$\{?(\w+)\}?", expanded)
    if unset:
        raise ConfigError(
            f"{parameter} = {spec!r}: environment variable {unset[1]} is not set; "
            f"export {unset[1]}=/path/to/data or write the path into the parameter"
        )
    return Path(expanded)
