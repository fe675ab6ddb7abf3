"""Checks a Grafana dashboard against Grafana's published schema, as grafana-foundation-sdk has it.

Prints each field of the dashboard that is not in the schema, and each value whose type differs from
the schema's. Exits with 1 if there is any. The package decodes a dashboard without checking it, and
drops unknown fields. So this program compares the dashboard with the decoded one.
"""

import enum
import json
import sys
import types
import typing

from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard

# Added by an export and removed by an import, so they are not in the schema of dashboards.
EXPORT_ONLY = ["__inputs", "__requires"]


def dropped(given, decoded, path):
    """Returns the paths of given fields that the decoded dashboard lacks or whose value differs."""
    if isinstance(given, dict) and isinstance(decoded, dict):
        for name, value in given.items():
            if name in decoded:
                yield from dropped(value, decoded[name], f"{path}.{name}")
            elif value is not None:
                yield f"{path}.{name}: not in the schema"
    elif isinstance(given, list) and isinstance(decoded, list) and len(given) == len(decoded):
        for index, pair in enumerate(zip(given, decoded)):
            yield from dropped(*pair, f"{path}[{index}]")
    elif given != decoded:
        yield f"{path}: {given!r} is decoded as {decoded!r}"


def matches(value, kind):
    """Returns whether a value has the type of an annotation of the package."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in (typing.Any, object):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(matches(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin is list:
        return isinstance(value, list) and all(matches(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(matches(item, arguments[1]) for item in value.values())
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return value in [member.value for member in kind]
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def mistyped(decoded, path):
    """Returns the paths of fields of the decoded objects whose type differs from the annotation."""
    if isinstance(decoded, list):
        for index, item in enumerate(decoded):
            yield from mistyped(item, f"{path}[{index}]")
    elif isinstance(decoded, dict):
        for name, item in decoded.items():
            yield from mistyped(item, f"{path}.{name}")
    elif hasattr(decoded, "to_json"):
        for name, kind in typing.get_type_hints(type(decoded)).items():
            value = getattr(decoded, name)
            if not matches(value, kind):
                yield f"{path}.{name}: {value!r} is not {kind}"
            yield from mistyped(value, f"{path}.{name}")


def main():
    plugins.register_default_plugins()
    given = json.load(open(sys.argv[1], encoding="utf-8"))
    for name in EXPORT_ONLY:
        given.pop(name)
    decoded = dashboard.Dashboard.from_json(given)
    found = list(dropped(given, json.loads(json.dumps(decoded, cls=JSONEncoder)), "dashboard"))
    found.extend(mistyped(decoded, "dashboard"))
    print("\n".join(found))
    sys.exit(1 if found else 0)


main()
