"""Which arms may answer: the filters, in the order of the design."""

from __future__ import annotations

from typing import Any

import pytest

from edge_agent.candidates import Allowance, ArmCondition, Candidates, PreparedRow, row_for
from shared.decision.table import SelectionTable, TableArm
from shared.decision.types import DeviceConfig, Fallout
from tests.fakes.samples import (
    READY,
    WORST_CASE_NANOS,
    cloud_arm,
    device_config,
    facts,
    local_arm,
    table,
)


def found(
    *,
    config: DeviceConfig | None = None,
    made: SelectionTable | None = None,
    conditions: dict[str, ArmCondition] | None = None,
    money: dict[str, str] | None = None,
    **request: Any,
) -> Candidates:
    """The candidates of a request; everything else as good as can be."""
    asked, config = facts(**request), config or device_config()
    refused = money or {}
    row = row_for(asked, config=config, table=made or table())
    return PreparedRow(row, config=config).candidates(
        asked,
        conditions=READY if conditions is None else conditions,
        allowance=Allowance(room_nanos=-1 if refused else 10**12),
        money=lambda arm: refused.get(arm.id, ""),
    )


def test_every_arm_of_the_row_that_can_answer_is_a_candidate() -> None:
    """Without an obstacle nothing falls out."""
    assert (("cloud", "tiny"), ()) == (found().arms, found().fallouts)


@pytest.mark.parametrize(
    ("changes", "fallout"),
    [
        ({"privacy_local": True}, Fallout("cloud", "privacy")),
        ({"capabilities": frozenset({"tools"})}, Fallout("cloud", "capability:tools")),
        ({"fields": frozenset({"logit_bias"})}, Fallout("cloud", "field:logit_bias")),
        ({"media_parts": 1}, Fallout("cloud", "media_has_no_worst_case")),
        ({"prompt_bytes": 3 * 2 * 2_048 + 3}, Fallout("tiny", "context_length_exceeded")),
        ({"conditions": {"tiny": ArmCondition()}}, Fallout("cloud", "not_on_this_device")),
        (
            {"conditions": {**READY, "tiny": ArmCondition(problem="model_broken")}},
            Fallout("tiny", "model_broken"),
        ),
        ({"money": {"cloud": "no_lease"}}, Fallout("cloud", "no_lease")),
        (
            {"config": device_config(local_arm(enabled=False), cloud_arm())},
            Fallout("tiny", "disabled"),
        ),
        ({"config": device_config(cloud_arm())}, Fallout("tiny", "unknown_arm")),
    ],
)
def test_an_arm_falls_out_with_its_reason(changes: dict[str, Any], fallout: Fallout) -> None:
    """Each filter names itself."""
    candidates = found(**changes)
    assert fallout in candidates.fallouts
    assert fallout.arm not in candidates.arms


def test_the_first_reason_in_the_order_of_the_design_counts() -> None:
    """Privacy before health before money."""
    candidates = found(privacy_local=True, conditions={}, money={"cloud": "no_lease"})
    assert "privacy" == candidates.fallouts[0].reason
    candidates = found(conditions={}, money={"cloud": "no_lease"})
    assert "not_on_this_device" == candidates.fallouts[0].reason


def test_an_arm_that_would_be_late_gives_way() -> None:
    """Typical latency and queue against the deadline, if another arm can make it."""
    made = table(TableArm("cloud", 1, latency_p50_ms=300), TableArm("tiny", 1, latency_p50_ms=100))
    slow = {"cloud": ArmCondition(queue_ms=201.0), "tiny": ArmCondition()}
    candidates = found(made=made, conditions=slow, deadline_ms=500)
    assert (("tiny",), (Fallout("cloud", "deadline"),)) == (candidates.arms, candidates.fallouts)


def test_arms_that_would_be_late_are_kept_for_the_end() -> None:
    """In the order of fallbacks; one that fell out for another reason is not among them."""
    entries = [
        TableArm("cloud", 1, latency_p50_ms=100),
        TableArm("tiny", 5, latency_p50_ms=900),
        TableArm("small", 9, latency_p50_ms=900),
        TableArm("big", 9, latency_p50_ms=900),
    ]
    arms = (cloud_arm(), *(local_arm(name) for name in ("tiny", "small", "big")))
    conditions = {
        **{name: ArmCondition() for name in ("cloud", "tiny", "small")},
        "big": ArmCondition("model_broken"),
    }
    candidates = found(
        config=device_config(*arms), made=table(*entries), conditions=conditions, deadline_ms=500
    )
    assert (("cloud",), ("small", "tiny")) == (candidates.arms, candidates.late)


def test_a_deadline_that_no_arm_makes_excludes_none() -> None:
    """Late is better than never."""
    made = table(TableArm("cloud", 1, latency_p50_ms=300), TableArm("tiny", 1, latency_p50_ms=100))
    assert ("cloud", "tiny") == found(made=made, deadline_ms=50).arms


def test_an_unknown_class_uses_the_row_of_other() -> None:
    """A table need not know every class."""
    request = facts(task_class="math")
    assert table().rows[0] == row_for(request, config=device_config(), table=table())


def test_without_a_table_the_local_arms_stand_side_by_side() -> None:
    """A device that never met a coordinator answers by itself (promise P2)."""
    config = device_config(local_arm("a"), local_arm("b"), cloud_arm())
    row = row_for(facts(), config=config, table=None)
    assert (TableArm("a", 500_000), TableArm("b", 500_000)) == row.arms
    assert () == row_for(facts(), config=device_config(cloud_arm()), table=None).arms


def test_a_pinned_arm_is_a_row_of_its_own() -> None:
    """No other arm is ever a fallback of a pinned one."""
    assert ("tiny",) == found(pinned_arm="tiny").arms


def test_the_limit_of_the_arm_counts_where_the_client_names_none() -> None:
    """`max_tokens` is always sent (rule A_2), and is part of the worst case."""
    arm = cloud_arm()
    assert (100, 5) == (facts().max_tokens_on(arm), facts(max_tokens=5).max_tokens_on(arm))
    assert WORST_CASE_NANOS == facts().worst_case_nanos(arm)
    assert WORST_CASE_NANOS + 2 * 100 * 100 == facts(n=3).worst_case_nanos(arm)
    assert 0 == facts().worst_case_nanos(local_arm())
