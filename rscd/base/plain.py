"""Plain data that is valid JSON."""

import math
from typing import Any


def finite(data: Any) -> Any:
    """Plain data in which numbers that JSON has no word for, NaN and infinity, are None."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return type(data)(map(finite, data))
    return data
