"""Bodies of requests: JSON, numbers and base64, parsed in pieces."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamdepth.core.errors import DataFormatError, UsageError
from streamdepth.image.inputs import from_json
from streamdepth.image.tensors import as_array, flat_values
from streamdepth.serve.api import ApiError
from streamdepth.serve.bodies import parse_json


def test_long_lists_of_numbers_become_arrays_in_pieces() -> None:
    values: list[Any] = [*range(70_000), 0.5, *range(70_000)]
    np.testing.assert_array_equal(as_array(values), np.asarray(values), strict=True)
    np.testing.assert_array_equal(as_array([[values], [values]]), np.asarray([[values], [values]]), strict=True)
    ragged: list[Any] = [[1.0, 2.0], [1.0]]
    deep: list[Any] = [1.0]
    for _ in range(900):
        deep = [deep]
    for wrong in (ragged, deep, [*values, "text"], [*values, None], [*values, [1]]):
        with pytest.raises(DataFormatError, match="not a list of numbers"):
            flat_values(wrong, np.dtype(np.float32))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists))
@pytest.mark.slow
def test_json_is_parsed_as_json(value: Any) -> None:
    assert parse_json(json.dumps(value).encode()) == value


@given(st.lists(st.integers() | st.floats(allow_nan=False, allow_infinity=False), min_size=100, max_size=2000))
@pytest.mark.slow
def test_long_lists_of_numbers_are_parsed_in_pieces(values: list[float]) -> None:
    typed = json.dumps({str(index): value for index, value in enumerate(values)})
    text = f'{{"data": {json.dumps(values)}, "typed": {typed}, "nested": [{json.dumps(values)}, []]}}'
    assert parse_json(text.encode()) == {"data": values, "typed": values, "nested": [values, []]}


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("QUJDREVGR0g=", b"ABCDEFGH"),
        ("QUJD REVG\nR0g", b"ABCDEFGH"),
        ("QUJDREVGR0g=  \n  ", b"ABCDEFGH"),
        ("-_-_", b"\xfb\xff\xbf"),
    ],
)
def test_base64_is_decoded_in_pieces(text: str, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert from_json(text) == data
    monkeypatch.setattr("streamdepth.image.inputs._PIECE_CHARS", 5)
    assert from_json(text) == data
    with pytest.raises(UsageError, match="not base64"):
        from_json(text + "=A")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" + b"1," * 100_000 + b"]", 400),
        (b"[" + b"1," * 100_000 + b",1]", 400),
        (b"[" + b"1 2," * 100_000 + b"1]", 400),
        (b'{"0":1,' + b"2," * 100_000 + b'"1":1}', 400),
        (b"[" * 200_000, 413),
        (b"[" + b"[]," * 200_000 + b"[]]", 413),
        (b"[" + b'"a",' * 200_000 + b'""]', 413),
        (b"[" * 5000, 400),
    ],
)
def test_json_that_is_refused(body: bytes, status: int) -> None:
    with pytest.raises(ApiError) as caught:
        parse_json(body)
    assert caught.value.status == status
