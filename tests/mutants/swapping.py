"""Puts a mutated function into the running program, where every importer sees it."""

from __future__ import annotations

import ast
from functools import cached_property
from types import CodeType, FunctionType, ModuleType
from typing import Any

from tests.mutants.making import Mutant


def swap(module: ModuleType, mutant: Mutant) -> None:
    """Give the function the mutant's code and its parameters' defaults.

    Raises
    ------
    LookupError
        If the module has no such function.
    """
    live = function_of(module, mutant.function)
    compiled = compile(mutant.source, str(module.__file__), "exec", dont_inherit=True)
    live.__code__ = _code(compiled, mutant.function)
    arguments = _arguments(mutant)
    names = vars(module)
    live.__defaults__ = tuple(_value(each, names) for each in arguments.defaults) or None
    live.__kwdefaults__ = {
        name.arg: _value(default, names)
        for name, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if default is not None
    }


def function_of(module: ModuleType, name: str) -> FunctionType:
    """The plain function behind a name such as `Class.method`, whatever decorates it."""
    owner: Any = module
    *classes, last = name.split(".")
    for each in classes:
        owner = getattr(owner, each)
    found: Any = vars(owner)[last]
    if isinstance(found, property):
        found = found.fget
    elif isinstance(found, cached_property):
        found = found.func
    elif isinstance(found, (classmethod, staticmethod)):
        found = found.__func__
    found = getattr(found, "__wrapped__", found)
    if not isinstance(found, FunctionType):
        raise LookupError(  # noqa: TRY004 - the name is wrong, not the type of an argument
            f"{name} of {module.__name__} is no function but {found!r}"
        )
    return found


def _code(compiled: CodeType, name: str) -> CodeType:
    for each in name.split("."):
        inner = [const for const in compiled.co_consts if isinstance(const, CodeType)]
        compiled = next(code for code in inner if code.co_name == each)
    return compiled


def _arguments(mutant: Mutant) -> ast.arguments:
    tree = ast.parse(mutant.source)
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return next(node for node in ast.walk(tree) if isinstance(node, functions)).args


def _value(default: ast.expr, names: dict[str, Any]) -> Any:
    return eval(compile(ast.Expression(default), "default", "eval"), names)
