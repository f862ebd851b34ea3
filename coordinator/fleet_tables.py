"""The tables of a fleet file: read by the rules of their kind, and written back as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from coordinator.fleet_schema import (
    ArmTable,
    CloudArmTable,
    FleetFile,
    LocalArmTable,
    TaskClassTable,
)
from shared.settings import Problem, dotted_key, problems_of

M = TypeVar("M", bound=BaseModel)


def validated(
    model: type[M], data: object, *, problems: list[Problem], prefix: str = ""
) -> M | None:
    """Read one table; what is wrong with it is added to `problems`."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems.extend(problems_of(error, model=model, prefix=prefix))
        return None


def arm_tables(
    section: object, *, problems: list[Problem]
) -> dict[str, LocalArmTable | CloudArmTable]:
    """Read each arm by the rules of its kind; arms that are wrong are left out."""
    found: dict[str, LocalArmTable | CloudArmTable] = {}
    for name, table in section.items() if isinstance(section, dict) else ():
        prefix = dotted_key(["arms", name])
        kind = table.get("kind") if isinstance(table, dict) else None
        arm: LocalArmTable | CloudArmTable | None = None
        if kind == "local":
            arm = validated(LocalArmTable, table, problems=problems, prefix=prefix)
        elif kind == "cloud":
            # An absent price is read as an empty one, so that each missing key is named.
            arm = validated(CloudArmTable, {"price": {}, **table}, problems=problems, prefix=prefix)
        else:
            problem = "should be" if kind is not None else "missing; write"
            problems.append(Problem(f"{prefix}.kind", f'{problem} "local" or "cloud"'))
        if arm is not None:
            found[name] = arm
    return found


def effective_keys(
    file: FleetFile, *, arms: Mapping[str, ArmTable], task_classes: Mapping[str, TaskClassTable]
) -> dict[str, str]:
    """Every key with its effective value as text, sorted."""
    tables = file.model_dump(by_alias=True)
    tables["arms"] = {name: table.model_dump(by_alias=True) for name, table in arms.items()}
    tables["task_classes"] = {
        name: table.model_dump(by_alias=True) for name, table in task_classes.items()
    }
    found: dict[str, str] = {}
    _flatten(tables, prefix="", found=found)
    return dict(sorted(found.items()))


def _flatten(table: Mapping[str, Any], *, prefix: str, found: dict[str, str]) -> None:
    for name, value in table.items():
        key = dotted_key([name], prefix=prefix)
        if isinstance(value, dict):
            _flatten(value, prefix=key, found=found)
        elif isinstance(value, list):
            found[key] = ", ".join(str(item) for item in value)
        elif value is not None:
            found[key] = str(value).lower() if isinstance(value, bool) else str(value)
