"""How large Arrow arrays are once each of their values stands for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa


def decoded_size(array: pa.Array) -> int:
    """Bytes of an array without dictionaries and views, at most: a value counts as often as it is named."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind: Any = array.type
    if isinstance(array, pa.ExtensionArray):
        return decoded_size(array.storage)
    if pa.types.is_dictionary(kind):
        named = array.indices.drop_null()
        if _is_text(kind.value_type):
            lengths = _lengths(array.dictionary)
            return 4 * len(array) + int(pc.sum(lengths.take(named)).as_py() or 0) if len(named) else 4 * len(array)
        return len(named) * max(decoded_size(array.dictionary), 1)
    if pa.types.is_run_end_encoded(kind):
        return len(array) * max(decoded_size(array.values), 1)
    if pa.types.is_struct(kind):
        return sum(decoded_size(array.field(i)) for i in range(kind.num_fields))
    if kind in (pa.string_view(), pa.binary_view()):
        return 4 * len(array) + int(pc.sum(_lengths(array)).as_py() or 0)
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return int(pc.sum(array.sizes).as_py() or 0) * max(decoded_size(array.values), 1)
    if pa.types.is_map(kind):
        return 4 * len(array) + decoded_size(array.keys) + decoded_size(array.items)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return 4 * len(array) + decoded_size(array.flatten())
    return int(array.nbytes)


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    tests = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    return any(getattr(pa.types, f"is_{test}")(kind) for test in tests)


def _lengths(texts: pa.Array) -> pa.Array:
    """Bytes of each text as int64; 0 where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if texts.type in (pa.string_view(), pa.binary_view()):  # 16 bytes a text, the first 4 its length
        views = np.frombuffer(texts.buffers()[1], np.int32).reshape(-1, 4)[texts.offset : texts.offset + len(texts), 0]
        return pc.if_else(texts.is_valid(), pa.array(views.astype(np.int64)), 0)
    return pc.fill_null(pc.cast(pc.binary_length(texts), pa.int64()), 0)
