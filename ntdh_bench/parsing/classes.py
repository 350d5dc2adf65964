"""Classes that configs name: what may stand where, and what becomes of a former class's arguments.

A config from elsewhere can name anything that can be imported. jsonargparse checks what is given
where a class is expected, but it calls any function that is given where a callable is (an
optimiser, a schedule, a network, a hook), and instantiates any class where the type is ``Any``.
"""

from __future__ import annotations

import inspect
import math
from argparse import Action
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pkgutil import resolve_name
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, Namespace, _typehints, dict_to_namespace

from ntdh_bench.composition import taken_over
from ntdh_bench.errors import UserError

# What configs take of these are classes. Their functions rework networks, and some run code that an
# argument spells out.
_CLASSES_ONLY = frozenset({
    "torch", "torchmetrics", "torchaudio", "lightning", "lightning_fabric", "pytorch_lightning",
})  # fmt: skip
_KNOWN = ", known subclasses: "
_MANY = _CLASSES_ONLY | {"torchvision", "timm", "sklearn"}
_CONTAINERS = (list, tuple, set, frozenset, dict, Sequence, Iterable, Mapping)


def take_no_files(parser: ArgumentParser) -> None:
    """Let no class be given as the path of a file with its settings: configs come by --config.

    jsonargparse reads any file that is named so, without a limit, and quotes it in its message.
    """
    for action in parser._actions:
        if isinstance(action, _typehints.ActionTypeHint):
            action._enable_path = False
            action.sub_add_kwargs["sub_configs"] = False


def check_classes(parser: ArgumentParser, config: Namespace) -> None:
    """Check every class, callable and number of a parsed config; calls none of them.

    A class must be a subclass of what its argument is annotated with, a callable be annotated to
    return that, and be no function of PyTorch or Lightning. An argument whose annotation names no
    class (``Any``, a bare ``Callable``) takes neither.

    Raises:
        UserError: one is something else, or a number is not finite; the message names the key.
    """
    for action in parser._actions:
        if action.dest in config and action.dest != "config":  # where configs came from
            _check(config[action.dest], action, action.dest)


def _check(value: Any, action: Action, key: str) -> None:
    if value is action.default or value == action.default:
        return  # the author of the class chose it
    hint = getattr(action, "_typehint", None)  # without one, no class is taken
    if hint is None and isinstance(value, Namespace) and "class_path" not in value:
        return  # a group: its members have actions of their own
    for found, where in _leaves(value, key):
        if isinstance(found, float) and not math.isfinite(found):
            raise UserError(f"{where} is {found}: give a finite number")
        if isinstance(found, Namespace):
            _check_class(found, _expected(hint), where)
        elif callable(found) and not inspect.isclass(found):
            _check_callable(found, _expected(hint), where)


def _check_class(spec: Namespace, expected: tuple[type, ...], key: str) -> None:
    try:
        component = resolve_name(spec.class_path)
    except (ImportError, AttributeError, ValueError):
        raise UserError(f"{key} is {spec.class_path}: there is no such class") from None
    _check_callable(component, expected, key)
    given = spec.get("init_args", {})
    for action in parameters_of(component):
        if action.dest in given:
            _check(given[action.dest], action, f"{key}.{action.dest}")


def leave_uncalled(spec: Namespace) -> Namespace:
    """Return a class's settings with what makes an argument for it, a function, left uncalled.

    jsonargparse calls a function that stands with its arguments where a callable is expected, as
    torchvision's ``resnet18`` does for a network; of a class it gives what makes one.
    """
    found = spec.clone()
    for action in parameters_of(resolve_name(spec.class_path)):
        value = spec.init_args.get(action.dest)
        if not isinstance(value, Namespace) or not _takes_callable(action):
            continue
        function = resolve_name(value.class_path)
        if not inspect.isclass(function):
            given = _parser_of(function).instantiate_classes(value.get("init_args") or {})
            found.init_args[action.dest] = partial(function, **dict(given.items(nested=False)))
    return found


def _takes_callable(action: Action) -> bool:
    hint = getattr(action, "_typehint", None)
    return any(get_origin(each) is Callable for each in (hint, *get_args(hint)))


def parameters_of(component: Any) -> list[Action]:
    """Return the arguments of a class or a function, as the parser knows them."""
    return _parser_of(component)._actions


@lru_cache(maxsize=256)
def _parser_of(component: Any) -> ArgumentParser:
    arguments = ArgumentParser(exit_on_error=False)
    if inspect.isclass(component):
        arguments.add_class_arguments(component, fail_untyped=False)
    else:
        arguments.add_function_arguments(component, fail_untyped=False)
    return arguments


def _check_callable(component: Any, expected: tuple[type, ...], key: str) -> None:
    gives = (component,) if inspect.isclass(component) else _returned(component)
    package = str(inspect.unwrap(component).__module__).partition(".")[0]
    if package in _CLASSES_ONLY and not inspect.isclass(component):
        raise UserError(
            f"{key} is a function of {package}: give a class of it, or code of your own"
        )
    fits = bool(gives) and all(issubclass(cls, expected) for cls in gives)
    if fits or isinstance(component, expected):
        return
    name = f"{component.__module__}.{getattr(component, '__qualname__', type(component).__name__)}"
    if not expected:
        raise UserError(f"{key} is {name}: it is not annotated to take a class or a function")
    wanted = " or ".join(dict.fromkeys(cls.__name__ for cls in expected))
    raise UserError(
        f"{key} is {name}: give a subclass of {wanted}, or a function annotated to return one"
    )


def _leaves(value: Any, key: str) -> Iterator[tuple[Any, str]]:
    """Yield what lists and mappings hold, class settings whole, with their keys."""
    if isinstance(value, (Namespace, Mapping)):
        if "class_path" in value:
            yield dict_to_namespace(value) if isinstance(value, dict) else value, key
            return
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}")
    elif isinstance(value, (list, tuple, set)):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{key}[{number}]")
    else:
        yield value, key


def _expected(hint: Any) -> tuple[type, ...]:
    """Return the classes that a type hint names, of callables those that they return."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _expected(args[0])
    if origin is Callable:
        return _expected(args[-1]) if args else ()
    if origin in (Union, UnionType) or origin in _CONTAINERS:
        return tuple(cls for arg in args for cls in _expected(arg))
    hint = origin or hint
    if not inspect.isclass(hint) or hint in (object, type, type(None)):
        return ()
    # Any, Callable or Hashable are too wide; what follows a protocol is no subclass.
    wide = hint.__module__ in ("typing", "collections.abc") or getattr(hint, "_is_protocol", False)
    return () if wide else (hint,)


def _returned(function: Any) -> tuple[type, ...]:
    """Return the classes that a function is annotated to return; empty if it does not say."""
    try:
        return _expected(get_type_hints(inspect.unwrap(function)).get("return"))
    except (NameError, TypeError, AttributeError):
        return ()


def _drop_arguments(parser: Any, former: Any, given: Any) -> None:
    """Drop the arguments that a class was given so far if another one is named.

    In place of jsonargparse's own function, which keeps those that the other one accepts as well:
    the temperature of KD as that of CRD, the weight decay of SGD as that of AdamW. What belongs to
    a pair of networks stays where one module of pairs replaces another.
    """
    if not former or "init_args" not in former or former["class_path"] is None:
        return
    paths = former["class_path"], given["class_path"]
    if paths[0] != paths[1] and resolve_name(paths[0]) is not resolve_name(paths[1]):
        names, arguments = taken_over(*paths), former.pop("init_args")
        if kept := {name: arguments[name] for name in names if name in arguments}:
            former["init_args"] = dict_to_namespace(kept)


def _int_before_float(subtypes: Sequence[Any], *args: Any, **kwargs: Any) -> list[Any]:
    """Return the types of a union in the order in which they are tried, an int's before a float's.

    ``1`` is one batch, ``1.0`` all of them. In place of jsonargparse's own function, which keeps
    the order as written: ``typing`` takes ``Union[int, float]`` and ``Union[float, int]`` for one
    and gives whichever was written first, by whatever was imported first.
    """
    found = list(_sort_subtypes(subtypes, *args, **kwargs))
    if int in found and float in found[: found.index(int)]:
        found.remove(int)
        found.insert(found.index(float), int)
    return found


def _few_subclasses(action: Any) -> str:
    """Return the classes that a help page names for an argument: not PyTorch's, which are 700.

    In place of jsonargparse's own method, which names every subclass that was imported.
    """
    head, comma, paths = _extra_help(action).partition(_KNOWN)
    known = paths.split(", ")
    few = [path for path in known if path.partition(".")[0] not in _MANY]
    left = sorted({path.partition(".")[0] for path in known} & _MANY)
    few += [f"any of {' or '.join(left)}"] if left else []
    return f"{head}{comma}{', '.join(few)}"


# There is no setting for them. Configs, flags and defaults all lead through here.
assert hasattr(_typehints, "discard_init_args_on_class_path_change")
_typehints.discard_init_args_on_class_path_change = _drop_arguments
_extra_help: Callable[[Any], str] = _typehints.ActionTypeHint.extra_help
_typehints.ActionTypeHint.extra_help = _few_subclasses  # type: ignore[method-assign]
_sort_subtypes: Callable[..., Iterable[Any]] = _typehints.sort_subtypes_for_union
_typehints.sort_subtypes_for_union = _int_before_float
