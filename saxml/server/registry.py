"""Published names: what a model path may be. Only classes registered here can be loaded; nothing is
imported by request."""

import re
from typing import TypeVar

from saxml.common import errors
from saxml.server.pax.lm.params.template import CommonServingTemplate

_registered: dict[str, type[CommonServingTemplate]] = {}

T = TypeVar("T", bound=type[CommonServingTemplate])


def register(cls: T) -> T:
    """Class decorator: publishes the class under its module and name."""
    _registered[f"{cls.__module__}.{cls.__qualname__}"] = cls
    return cls


def resolve(model_path: str) -> type[CommonServingTemplate]:
    """The class registered as model_path; InvalidArgumentError names what comes near if there is
    none."""
    if model_path not in _registered:
        name = model_path.rpartition(".")[2].lower()
        near = [path for path in _registered if path.lower().endswith("." + name)]
        hint = f"; did you mean {near[0]}" if near else f"; there are {len(_registered)} others"
        raise errors.InvalidArgumentError(f"model path {model_path!r} is not registered{hint}")
    return _registered[model_path]


def model_paths(filter_regex: str | None = None) -> list[str]:
    """All registered paths, sorted; filter_regex must match the whole path."""
    if filter_regex is None:
        return sorted(_registered)
    try:
        pattern = re.compile(filter_regex)
    except re.error as e:
        raise errors.InvalidArgumentError(
            f"--model_filter_regex {filter_regex!r} is not a regular expression: {e}"
        ) from None
    return sorted(path for path in _registered if pattern.fullmatch(path))
