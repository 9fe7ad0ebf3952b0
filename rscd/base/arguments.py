"""Arguments given as plain data: checked by name and converted to the annotated types."""

import inspect
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar, get_type_hints

from rscd.base.errors import RscdError, UsageError

Made = TypeVar("Made")


def check_names(
    given: Iterable[object], known: Iterable[str], what: str, error: type[RscdError] = UsageError
) -> None:
    """Refuse names that nothing takes.

    Args:
        given: names, or a mapping by name.
        known: all that there are, in the order in which the message lists them.
        what: what they are called in the message, such as ``network_args of tiny``.
        error: the kind of error.

    Raises:
        RscdError: of that kind.
    """
    known = list(known)
    if unknown := sorted(set(map(str, given)) - set(known)):
        raise error(f"{what}: expected {', '.join(known)}, found {', '.join(unknown)}")


def check_kind(value: object, kind: type, name: str) -> None:
    """Refuse an argument of another class, such as one given in the place of another.

    Raises:
        UsageError: naming it.
    """
    if not isinstance(value, kind):
        found = type(value).__name__
        raise UsageError(
            f"expected {kind.__name__} as {name}, found {found}; name the arguments: {name}=..."
        )


def close_to(given: str, known: Iterable[str]) -> str:
    """End of a message about a word that nothing knows: ``; close to it: A, B``, or nothing."""
    import difflib  # only messages need it

    close = difflib.get_close_matches(given, list(known), n=3)
    return f"; close to it: {', '.join(close)}" if close else ""


def check_range(
    owner: object, names: Iterable[str], low: float = 0, high: float = math.inf
) -> None:
    """Refuse attributes that are out of range, or NaN.

    Raises:
        UsageError: naming the first one.
    """
    for name in names:
        value = getattr(owner, name)
        if not low <= value <= high:
            bounds = f"from {low:g} to {high:g}" if high < math.inf else f"of {low:g} or more"
            raise UsageError(f"expected {name} {bounds}, found {value}")


def made(kind: Callable[..., Made], given: Mapping[str, Any] | None, what: str) -> Made:
    """What a class or function makes of arguments that come as plain data; see `fitted`."""
    return kind(**fitted(kind, given or {}, what))


def fitted(
    takes: Callable[..., Any], given: Mapping[str, Any], what: str, *, without: Collection[str] = ()
) -> dict[str, Any]:
    """Convert arguments to their annotated types: lists become tuples, ``"1e-3"`` a number.

    Args:
        takes: the function, class or dataclass that receives them.
        given: arguments by name.
        what: their name in messages, such as ``network_args of tiny``.
        without: parameters that the user may not set.

    Raises:
        UsageError: for an unknown or missing parameter, or a value of the wrong type.
    """
    known = {name: kind for name, kind in _parameters(takes).items() if name not in without}
    check_names(given, known, what)
    missing = [
        n for n, p in known.items() if p.default is inspect.Parameter.empty and n not in given
    ]
    if missing:
        raise UsageError(f"{what}: expected {', '.join(missing)}, found none; add it")
    return {
        name: _value(known[name].annotation, value, what, name) for name, value in given.items()
    }


def _parameters(takes: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Parameters by name with resolved annotations, including those a class passes on."""
    known: dict[str, inspect.Parameter] = {}
    steps: list[Callable[..., Any]] = [takes]
    if inspect.isclass(takes):
        steps = [vars(kind)["__init__"] for kind in takes.__mro__ if "__init__" in vars(kind)]
    for step in steps:
        hints = get_type_hints(step)
        parameters = list(inspect.signature(step).parameters.values())
        rest = [p for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD]
        for parameter in parameters[1 if inspect.isclass(takes) else 0 :]:
            if parameter not in rest:
                hint = hints.get(parameter.name, Any)
                known.setdefault(parameter.name, parameter.replace(annotation=hint))
        if not rest:
            break
    return known


def _value(annotation: Any, value: Any, what: str, name: str) -> Any:
    # 15 MB that predictions without networks do not need
    from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

    try:
        # annotations may be types of their own, such as a network
        adapter = TypeAdapter(
            annotation, config={"arbitrary_types_allowed": True, "allow_inf_nan": False}
        )
    except PydanticSchemaGenerationError:  # not a type that plain data can be validated against
        return value
    try:
        found = adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join([name, *(str(step) for step in first["loc"])])
        wanted = first["msg"].removeprefix("Input should be ")
        raise UsageError(
            f"{what}: expected {wanted} for {place}, found {first['input']!r}; correct it"
        ) from error
    return found
