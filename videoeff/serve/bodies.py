"""The JSON body of a request, read with a bound on its size, its depth and the time it takes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from videoeff.serve.access import too_large
from videoeff.serve.problems import Problem
from videoeff.serve.settings import what_is_wrong

#: Brackets within brackets.
_DEPTH = 16
#: Seconds that a body may take to arrive.
_PATIENCE = 30.0

Model = TypeVar("Model", bound=BaseModel)


async def body_of(request: Request, most: int) -> dict[str, Any]:
    """The object in the body of a request.

    Args:
        request: to read.
        most: bytes.

    Raises:
        Problem: of status 413 for a body that is too large, 415 for another kind, 408 where it does not come,
            400 where it is no JSON object.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(
            415,
            f"the body is {kind[:60] or 'of no kind'}, not JSON",
            "Content-Type",
            "send the header Content-Type: application/json",
        )
    try:
        data = await asyncio.wait_for(_bytes(request, most), _PATIENCE)
    except TimeoutError:
        raise Problem(
            408, f"the body did not arrive within {_PATIENCE:.0f} s", "the body", "send it again"
        ) from None
    except ClientDisconnect:
        raise Problem(400, "the connection ended within the body", "the body", "send it again") from None
    return parsed(data)


async def _bytes(request: Request, most: int) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > most:
            raise too_large(most)
    return bytes(data)


def parsed(data: bytes) -> dict[str, Any]:
    """An object of strict JSON: no NaN, no key twice, no deep nesting.

    Raises:
        Problem: of status 400.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _malformed(f"is no UTF-8 (byte {error.start})") from error
    if _depth(text) > _DEPTH:
        raise _malformed(f"nests more than {_DEPTH} brackets")
    try:
        value = json.loads(text, parse_constant=_no_number, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise _malformed(f"is no JSON ({error.msg}, line {error.lineno} column {error.colno})") from error
    except ValueError as error:
        raise _malformed(str(error)) from error
    if not isinstance(value, dict):
        raise _malformed("is no JSON object")
    return value


def as_settings(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Values of a body as settings.

    Raises:
        Problem: of status 400; it names the key.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        key, what, fix = what_is_wrong(error, model)
        raise Problem(400, what, key, fix) from error


def _depth(text: str) -> int:
    """How deep brackets nest outside of strings."""
    deepest = depth = 0
    letters = iter(text)
    inside = False
    for letter in letters:
        if letter == '"':
            inside = not inside
        elif inside:
            if letter == "\\":
                next(letters, None)  # what is escaped ends no string
        elif letter in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif letter in "]}":
            depth -= 1
    return deepest


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"holds {word}, which is no number of JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"has the key {twice[:80]!r} twice")
    return found


def _malformed(what: str) -> Problem:
    return Problem(400, what, "the body", 'send a JSON object such as {"threshold": 0.1}')
