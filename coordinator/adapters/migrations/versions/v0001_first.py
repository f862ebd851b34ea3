"""The first schema."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_BIG_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create every table, and the row of the writer's epoch."""
    epoch = _create("epoch", _key("id"), _big("epoch"))
    op.bulk_insert(epoch, [{"id": 1, "epoch": 0}])
    _create_money()
    _create_fleet()
    _create_learned()
    _create("config", _key("version"), _text("toml"), _text("actor"), _big("applied_unix_ms"))
    _create("setting", _name("key"), _text("value"))
    audit_id = sa.Column("id", _BIG_KEY, primary_key=True, autoincrement=True)
    _create("audit", audit_id, _big("at_unix_ms"), _text("actor"), _text("action"), _text("detail"))


def _create_money() -> None:
    _create(
        "ledger",
        _key("id"),
        *_bigs("at_unix_ms", "window_id"),
        *_texts("kind", "device_id"),
        *_bigs("lease_number", "amount_nanos"),
        *_texts("request_id", "note"),
    )
    op.create_index("ix_ledger_window_id_kind", "ledger", ["window_id", "kind"])
    op.create_index("ix_ledger_device_id_id", "ledger", ["device_id", "id"])
    _create(
        "budget_window",
        _key("id"),
        *_bigs("start_unix_ms", "end_unix_ms", "target_nanos", "settled_nanos"),
        *_bigs("unconfirmed_nanos", "outstanding_nanos"),
        _text("alarms"),
    )
    _create(
        "spend",
        sa.Column("day_unix_ms", sa.BigInteger(), primary_key=True, autoincrement=False),
        *(_name(name) for name in ("arm", "tag")),
        *_bigs("settled_nanos", "unconfirmed_nanos"),
    )
    _create(
        "lease",
        _name("device_id"),
        sa.Column("number", sa.BigInteger(), primary_key=True, autoincrement=False),
        _text("incarnation"),
        *_bigs("window_id", "amount_nanos", "price_version", "granted_unix_ms"),
        *_bigs("booked_nanos", "unconfirmed_nanos"),
        _text("ended"),
    )
    op.create_index("ix_lease_ended", "lease", ["ended"])
    op.create_index("ix_lease_window_id", "lease", ["window_id"])


def _create_fleet() -> None:
    _create(
        "device",
        _name("id"),
        *_texts("name", "device_class", "credential_digest"),
        _big("joined_unix_ms"),
        *_texts("standing", "standing_reason", "incarnation"),
        *_texts("resume_digest", "resume_digest_next"),
        *_bigs("lease_number_max", "unclean_closes", "lends_from_unix_ms", "seen_unix_ms"),
        _text("software_version"),
    )
    _create("spool_mark", _name("device_id"), _name("incarnation"), _big("sequence"))
    _create(
        "join_token",
        _name("digest"),
        _text("device_class"),
        *_bigs("created_unix_ms", "expires_unix_ms"),
        _text("used_by"),
    )
    _create(
        "admin_token",
        _name("digest"),
        _text("name"),
        *_bigs("created_unix_ms", "expires_unix_ms"),
    )
    _create(
        "selection_table",
        _name("device_class"),
        sa.Column("place", sa.BigInteger(), primary_key=True, autoincrement=False),
        *_bigs("version", "created_unix_ms"),
        _bytes("record"),
    )


def _create_learned() -> None:
    _create(
        "outcome",
        _key("position"),
        *_texts("device_id", "device_class"),
        *_bigs("sequence", "slot"),
        *_texts("request_id", "task_class", "arm", "status"),
        *_bigs("cost_nanos", "arrived_unix_ms", "run", "place"),
    )
    _create("outcome_run", _key("position"), _bytes("record"))
    op.create_index("ix_outcome_device_id_position", "outcome", ["device_id", "position"])
    op.create_index("ix_outcome_request_id", "outcome", ["request_id"])
    _create(
        "grade",
        _key("position"),
        *_texts("device_id", "device_class"),
        _big("sequence"),
        *_texts("request_id", "task_class", "arm"),
        _big("reward_ppm"),
        _text("source"),
        *_bigs("at_unix_ms", "weight_ppm", "grading_ppm"),
    )
    is_full = sa.text("weight_ppm = 1000000")
    op.create_index(
        "uq_grade_device_id_request_id",
        "grade",
        ["device_id", "request_id"],
        unique=True,
        sqlite_where=is_full,
        postgresql_where=is_full,
    )
    _create(
        "compacted_count",
        _key("position"),
        *_texts("device_id", "device_class"),
        *_bigs("sequence", "slot"),
        *_texts("task_class", "arm"),
        _big("requests"),
    )
    _create("snapshot", _key("id"), *_bigs("position", "slot", "window_id"), _text("payload"))


def _create(name: str, *parts: Any) -> sa.Table:
    keys = [part.name for part in parts if isinstance(part, sa.Column) and part.primary_key]
    return op.create_table(name, *parts, sa.PrimaryKeyConstraint(*keys, name=f"pk_{name}"))


def _key(name: str) -> sa.Column[int]:
    return sa.Column(name, _BIG_KEY, primary_key=True, autoincrement=False)


def _name(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), primary_key=True)


def _big(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)


def _bytes(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary(), nullable=False)


def _bigs(*names: str) -> list[sa.Column[int]]:
    return [_big(name) for name in names]


def _texts(*names: str) -> list[sa.Column[str]]:
    return [_text(name) for name in names]
