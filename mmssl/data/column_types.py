"""Which type a column of text or of JSON has: decided on all of its values, where no value is changed by it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmssl.modality.notation import NO_NUMBER

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets.features.features import FeatureType

_WHOLE = r"^[+-]?(0|[1-9][0-9]{0,17})$"
_DIGITS = r"(0|[1-9][0-9]{0,17})(\.[0-9]*)?|[1-9][0-9]*\.[0-9]*|\.[0-9]+"
_REAL = rf"^[+-]?({_DIGITS})([eE][+-]?[0-9]+)?$|^[+-]?(?i:inf(inity)?)$"
_COMMA = r"^[+-]?(0|[1-9][0-9]{0,17})?(,[0-9]*)?$"
_FRACTION = r",([0-9]{1,2}|[0-9]{4,})$|^[+-]?0?,|^[+-]?[0-9]{4,},"
"""A comma that stands before a fraction for sure: 1,234 may also be more than a thousand."""
_TRUTH = r"^(true|false|True|False|TRUE|FALSE)$"
JSON = "json"
"""Type of a JSON column whose values are of several types; `datasets.Json` holds it."""
DIGITS = "digits"
"""Type of a JSON column with whole numbers that no 64 bits hold: text, which loses none of them."""


class FieldType:
    """What a csv column is, field after field: whole numbers, numbers, truth values, or else the words that it holds.

    Codes with leading zeros and numbers of more than 18 digits are words, which no conversion gives back.
    """

    def __init__(self, commas: bool = False) -> None:
        """commas: a comma may stand before a fraction, as it separates no fields."""
        self.there, self.commas = 0, commas
        self.fits = dict.fromkeys((_WHOLE, _REAL, _TRUTH, _COMMA), True)
        self.sure = False

    def see(self, values: pa.Array) -> None:
        """Take a chunk of text into account."""
        import pyarrow as pa
        import pyarrow.compute as pc

        found = pc.utf8_trim_whitespace(values.drop_null())
        found = found.filter(pc.invert(pc.is_in(found, pa.array(NO_NUMBER))))
        self.there += len(found)
        for pattern, fits in self.fits.items():
            if fits and len(found):
                self.fits[pattern] = bool(pc.all(pc.match_substring_regex(found, pattern)).as_py())
        if self.commas and self.fits[_COMMA] and not self.sure and len(found):
            self.sure = bool(pc.any(pc.match_substring_regex(found, _FRACTION)).as_py())

    @property
    def type(self) -> pa.DataType:
        """The type as far as it was seen."""
        import pyarrow as pa

        types = {_WHOLE: pa.int64(), _REAL: pa.float64(), _TRUTH: pa.bool_()}
        types |= {_COMMA: pa.float64()} if self.sure else {}
        return next((types[p] for p, fits in self.fits.items() if fits and p in types and self.there), pa.string())


def cast_fields(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Text as what `FieldType` found. Raises ArrowInvalid where a value does not fit."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_string(kind):
        return values
    found = pc.utf8_trim_whitespace(values)
    found = pc.if_else(pc.is_in(found, pa.array(NO_NUMBER)), None, found)
    if pa.types.is_boolean(kind):
        return pc.equal(pc.utf8_lower(found), "true")
    return pc.cast(pc.replace_substring(pc.replace_substring_regex(found, r"^\+", ""), ",", "."), kind)


def json_type(values: Sequence[object]) -> pa.DataType | str:
    """The Arrow type of values out of JSON, or JSON where they have none in common."""
    import pyarrow as pa

    try:
        return pa.array(values).type
    except OverflowError:
        return DIGITS
    except (pa.ArrowException, TypeError, ValueError):
        return JSON


def common_type(types: Sequence[pa.DataType | str]) -> pa.DataType | str | None:
    """The type that holds the values of all of these, None where there is none; null joins every other."""
    import pyarrow as pa

    found = [t for t in dict.fromkeys(types) if isinstance(t, str) or not pa.types.is_null(t)]
    if any(isinstance(t, str) for t in found):
        whole = all(t == DIGITS if isinstance(t, str) else pa.types.is_integer(t) for t in found)
        return DIGITS if whole else JSON
    try:
        schemas = [pa.schema([("x", t)]) for t in found or [pa.null()]]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None


def json_array(values: Sequence[object], kind: pa.DataType | str) -> pa.Array:
    """Values out of JSON as an Arrow array of the type that was found for their column."""
    import pyarrow as pa

    if kind == JSON:
        written = [None if value is None else json.dumps(value) for value in values]
        return pa.ExtensionArray.from_storage(pa.json_(), pa.array(written, pa.string()))
    if kind == DIGITS or pa.types.is_string(kind):
        return pa.array([v if v is None or isinstance(v, str) else str(v) for v in values], pa.string())
    return pa.array(values, kind)


def json_feature(kind: pa.DataType | str) -> FeatureType:
    """The `datasets` feature of such a column."""
    import datasets
    import pyarrow as pa

    if kind == JSON:
        return datasets.Json()
    return datasets.Features.from_arrow_schema(pa.schema([("x", pa.string() if kind == DIGITS else kind)]))["x"]
