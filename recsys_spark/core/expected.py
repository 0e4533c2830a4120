"""What a setting should have been, in plain words, from an error of pydantic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recsys_spark.core.errors import nearest

LONGEST = 80  # characters of a wrong value that a message repeats

_MAPPING, _LIST = "a mapping of keys to values", "a list"
# {pydantic's name of an error: words, with the fields of its context}
_WORDS = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "string_pattern_mismatch": "text of the form {pattern}",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "dict_type": _MAPPING,
    "mapping_type": _MAPPING,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "list_type": _LIST,
    "tuple_type": _LIST,
    "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
}


def words(error: Mapping[str, Any]) -> str:
    """What was expected, of an entry of `ValidationError.errors()`.

    >>> words({"type": "int_parsing", "msg": "Input should be ...", "loc": (), "input": "x"})
    'a whole number'
    >>> words({"type": "literal_error", "msg": "", "loc": (), "input": "tets",
    ...        "ctx": {"expected": "'valid' or 'test'"}})
    "'valid' or 'test' (did you mean 'test'?)"
    """
    context = error.get("ctx", {})
    if error["type"] == "literal_error":
        names = context["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        return str(context["expected"]) + nearest(str(error["input"]), names)
    if error["type"] in _WORDS:
        return _WORDS[error["type"]].format(**context)
    return str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")


def brief(value: Any) -> str | None:
    """A wrong value as a message repeats it; None: a whole mapping, which nobody wants to read.

    >>> brief("abc"), brief({"rank": 3}), len(brief("x" * 1000))
    ("'abc'", None, 80)
    """
    if isinstance(value, dict):
        return None
    text = repr(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
