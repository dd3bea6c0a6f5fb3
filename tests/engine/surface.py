"""What a stand-in has that the real package has not: `python surface.py STANDIN REAL` prints it as a JSON
list.

Every public class, function, constant, member of an enum, method, property and argument's name of the
stand-in is looked up in the real package, whose signatures are read from their docstrings (pybind11,
Boost.Python and Cython write them there). Nothing is called. It runs in a process of its own: the real
package needs libraries that have to be in place before a program starts.
"""

import ast
import enum
import importlib
import inspect
import json
import os
import re
import sys
from types import ModuleType
from typing import Any

CONSTRUCTED = {"Builder", "OnnxParser", "Runtime", "Device", "Stream", "CUstream"}
"""Classes that the engine makes itself; all others it is given."""


def gaps(standin: ModuleType, real: ModuleType) -> list[str]:
    """One line for each thing that the real package lacks or calls otherwise."""
    found = []
    for name, ours in vars(standin).items():
        if name.startswith("_") or getattr(ours, "__module__", None) != standin.__name__:
            continue
        if not (inspect.isclass(ours) or inspect.isfunction(ours)):
            continue
        theirs = getattr(real, name, None)
        if theirs is None:
            found.append(f"{name} is not there")
        elif inspect.isclass(ours):
            found += _class_gaps(name, ours, theirs)
        else:
            found += _argument_gaps(name, ours, theirs)
    return found


def _class_gaps(name: str, ours: Any, theirs: Any) -> list[str]:
    found = []
    if issubclass(ours, enum.Enum):
        # Their numbers change from version to version; the engine uses none.
        return [f"{name}.{key} is not there" for key in ours.__members__ if key not in theirs.__members__]
    if issubclass(ours, Exception):
        return [] if issubclass(theirs, Exception) else [f"{name} is no exception"]
    for key, value in vars(ours).items():
        if key.startswith("_") and not (key == "__int__" or (key == "__init__" and name in CONSTRUCTED)):
            continue
        place = f"{name}.{key}"
        other = inspect.getattr_static(theirs, key, None)
        if other is None and not hasattr(theirs, key):
            found.append(f"{place} is not there")
        elif inspect.isclass(value):
            found += _class_gaps(place, value, getattr(theirs, key))
        elif isinstance(value, property):
            found += [] if inspect.isdatadescriptor(other) else [f"{place} is no property"]
        elif key != "__int__":
            found += _argument_gaps(place, inspect.unwrap(getattr(ours, key)), getattr(theirs, key))
    for key in _attributes(ours):
        if not inspect.isdatadescriptor(inspect.getattr_static(theirs, key, None)):
            found.append(f"{name}.{key} is no attribute")
    return found


def _attributes(ours: type) -> set[str]:
    """Public attributes that the stand-in's constructor sets."""
    tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(ours)))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and not node.attr.startswith("_")
    }


def _argument_gaps(place: str, ours: Any, theirs: Any) -> list[str]:
    """The stand-in may leave trailing arguments out, but not name or order them otherwise."""
    wanted = [name for name in inspect.signature(ours).parameters if name != "self"]
    known = signatures(theirs)
    if any(names is None or wanted == names[: len(wanted)] for names in known):
        return []
    return [f"{place} takes {known}, not {wanted}"]


def signatures(function: Any) -> list[list[str] | None]:
    """The names of a function's arguments, one list an overload; None where it does not tell."""
    if inspect.isfunction(function):
        return [[name for name in inspect.signature(function).parameters if name != "self"]]
    name = function.__name__
    found: list[list[str] | None] = []
    for line in (function.__doc__ or "").splitlines():
        match = re.match(rf"\s*(?:\d+\.\s*)?{re.escape(name)}\((.*)\)", line)
        if match and match[1] != "*args, **kwargs":
            found.append(_names(match[1]))
    return found or [None]


def _names(text: str) -> list[str] | None:
    """`self: A, model: B, path: str = None`, or `(int)dest, (object)src [, (object)stream=None]`."""
    if "(" in text.split(",")[0] and re.search(r"\(\w+\)", text):
        names = re.findall(r"\(\w+\)\s*(\w+)", text)
        return (
            None
            if any(re.fullmatch(r"arg\d+", name) for name in names)
            else [n for n in names if n != "self"]
        )
    flat, depth = "", 0
    for character in text:
        depth += (character in "[<(") - (character in "]>)")
        flat += character if not depth else ""
    names = [part.split(":")[0].split("=")[0].split()[-1] for part in flat.split(",") if part.strip()]
    return [name for name in names if name != "self"]


if __name__ == "__main__":
    sys.setdlopenflags(os.RTLD_LAZY)  # stubs have no functions
    modules = [importlib.import_module(name) for name in sys.argv[1:3]]
    print(json.dumps(gaps(*modules)))
