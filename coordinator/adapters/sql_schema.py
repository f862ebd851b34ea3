"""The store's tables, as the newest migration leaves them."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    literal_column,
)

from shared.decision.money import PPM

METADATA: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

# SQLite gives a rowid only to a column of type INTEGER; elsewhere keys are 64 bits wide.
_BIG_KEY: Final = BigInteger().with_variant(Integer(), "sqlite")


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _big(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


def _key(name: str) -> Column[int]:
    return Column(name, _BIG_KEY, primary_key=True, autoincrement=False)


EPOCH: Final = Table("epoch", METADATA, _key("id"), _big("epoch"))

LEDGER: Final = Table(
    "ledger",
    METADATA,
    _key("id"),
    _big("at_unix_ms"),
    _big("window_id"),
    _text("kind"),
    _text("device_id"),
    _big("lease_number"),
    _big("amount_nanos"),
    _text("request_id"),
    _text("note"),
    Index(None, "window_id", "kind"),
    Index(None, "device_id", "id"),
)

WINDOW: Final = Table(
    "budget_window",
    METADATA,
    _key("id"),
    _big("start_unix_ms"),
    _big("end_unix_ms"),
    _big("target_nanos"),
    _big("settled_nanos"),
    _big("unconfirmed_nanos"),
    _big("outstanding_nanos"),
    _text("alarms"),
)

SPEND: Final = Table(
    "spend",
    METADATA,
    Column("day_unix_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("arm", Text, primary_key=True),
    Column("tag", Text, primary_key=True),
    _big("settled_nanos"),
    _big("unconfirmed_nanos"),
)

LEASE: Final = Table(
    "lease",
    METADATA,
    Column("device_id", Text, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    _text("incarnation"),
    _big("window_id"),
    _big("amount_nanos"),
    _big("price_version"),
    _big("granted_unix_ms"),
    _big("booked_nanos"),
    _big("unconfirmed_nanos"),
    _text("ended"),
    Index(None, "ended"),
    Index(None, "window_id"),
)

DEVICE: Final = Table(
    "device",
    METADATA,
    Column("id", Text, primary_key=True),
    _text("name"),
    _text("device_class"),
    _text("credential_digest"),
    _big("joined_unix_ms"),
    _text("standing"),
    _text("standing_reason"),
    _text("incarnation"),
    _text("resume_digest"),
    _text("resume_digest_next"),
    _big("lease_number_max"),
    _big("unclean_closes"),
    _big("lends_from_unix_ms"),
    _big("seen_unix_ms"),
    _text("software_version"),
)

SPOOL_MARK: Final = Table(
    "spool_mark",
    METADATA,
    Column("device_id", Text, primary_key=True),
    Column("incarnation", Text, primary_key=True),
    _big("sequence"),
)

JOIN_TOKEN: Final = Table(
    "join_token",
    METADATA,
    Column("digest", Text, primary_key=True),
    _text("device_class"),
    _big("created_unix_ms"),
    _big("expires_unix_ms"),
    _text("used_by"),
)

ADMIN_TOKEN: Final = Table(
    "admin_token",
    METADATA,
    Column("digest", Text, primary_key=True),
    _text("name"),
    _big("created_unix_ms"),
    _big("expires_unix_ms"),
)

CONFIG: Final = Table(
    "config", METADATA, _key("version"), _text("toml"), _text("actor"), _big("applied_unix_ms")
)

OUTCOME: Final = Table(
    "outcome",
    METADATA,
    _key("position"),
    _text("device_id"),
    _text("device_class"),
    _big("sequence"),
    _big("slot"),
    _text("request_id"),
    _text("task_class"),
    _text("arm"),
    _text("status"),
    _big("cost_nanos"),
    _big("arrived_unix_ms"),
    _big("run"),  # where all of it is: in this row of the table below,
    _big("place"),  # at this place
    Index(None, "device_id", "position"),
    Index(None, "request_id"),
)

# Outcomes that came together, encoded as they came; it begins with the first that was booked.
OUTCOME_RUN: Final = Table(
    "outcome_run",
    METADATA,
    _key("position"),
    Column("record", LargeBinary, nullable=False),
)

GRADE: Final = Table(
    "grade",
    METADATA,
    _key("position"),
    _text("device_id"),
    _text("device_class"),
    _big("sequence"),
    _text("request_id"),
    _text("task_class"),
    _text("arm"),
    _big("reward_ppm"),
    _text("source"),
    _big("at_unix_ms"),
    _big("weight_ppm"),
    _big("grading_ppm"),
)
# A number in the statement's text, so that a database sees that the index below serves.
IS_FULL_GRADE: Final = GRADE.c.weight_ppm == literal_column(str(PPM))
Index(
    "uq_grade_device_id_request_id",
    GRADE.c.device_id,
    GRADE.c.request_id,
    unique=True,
    sqlite_where=IS_FULL_GRADE,
    postgresql_where=IS_FULL_GRADE,
)

COUNTS: Final = Table(
    "compacted_count",
    METADATA,
    _key("position"),
    _text("device_id"),
    _text("device_class"),
    _big("sequence"),
    _big("slot"),
    _text("task_class"),
    _text("arm"),
    _big("requests"),
)

SNAPSHOT: Final = Table(
    "snapshot",
    METADATA,
    _key("id"),
    _big("position"),
    _big("slot"),
    _big("window_id"),
    _text("payload"),
)

AUDIT: Final = Table(
    "audit",
    METADATA,
    Column("id", _BIG_KEY, primary_key=True, autoincrement=True),
    _big("at_unix_ms"),
    _text("actor"),
    _text("action"),
    _text("detail"),
)

SETTING: Final = Table("setting", METADATA, Column("key", Text, primary_key=True), _text("value"))

TABLE: Final = Table(
    "selection_table",
    METADATA,
    Column("device_class", Text, primary_key=True),
    Column("place", BigInteger, primary_key=True, autoincrement=False),
    _big("version"),
    _big("created_unix_ms"),
    Column("record", LargeBinary, nullable=False),
)
