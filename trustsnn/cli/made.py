"""Commands that share options: a parameter of theirs is made from these."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

Command = Callable[..., Any]


def made_by(maker: Command, name: str, **fixed: Any) -> Callable[[Command], Command]:
    """A decorator: in place of its parameter `name` a command has the options of `maker`, and gets what `maker` returns; `fixed` are
    arguments of `maker` that are no options."""
    shared = {key: each for key, each in inspect.signature(maker, eval_str=True).parameters.items() if key not in fixed}

    def decorate(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True).parameters

        @wraps(command)
        def whole(**given: Any) -> Any:
            made = maker(**{key: given.pop(key) for key in shared if key in given}, **fixed)
            return command(**{name: made}, **given)

        every: list[inspect.Parameter] = []
        for each in own.values():
            every += shared.values() if each.name == name else [each]
        every = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in every]
        whole.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
        whole.__annotations__ = {each.name: each.annotation for each in every}
        return whole

    return decorate
