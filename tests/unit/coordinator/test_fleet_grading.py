"""How a fleet file says that answers are graded, and what it must not say."""

from __future__ import annotations

import pytest

from coordinator.fleet_config import FleetConfig, FleetConfigError, parse_fleet
from shared.decision.grading import NO_SIGNALS, Grader, GraderKind, Signals, WeakSignal
from shared.decision.types import DeviceConfig

NOW = 1_795_000_000_000
FLEET = """
[fleet]
name = "demo"
[window]
length = "60s"
slot = "1s"
[budget]
amount_usd = "1"
[arms.tiny]
kind = "local"
[arms.vectors]
kind = "cloud"
model = "vectors"
base_url = "https://example.com/v1"
capabilities = ["embeddings"]
price = { input_usd_per_mtok = "1", output_usd_per_mtok = "1", request_usd = "0" }
[arms.large]
kind = "cloud"
model = "large"
base_url = "https://example.com/v1"
api_key = "coordinator:large"
price = { input_usd_per_mtok = "1", output_usd_per_mtok = "1", request_usd = "0" }
[device_classes.pi]
arms = ["tiny"]
"""
JUDGE = '[judge]\narm = "large"\n'
CHAT = "[task_classes.chat]\n"
GRADER = "[task_classes.sum.grader]\n"


def read(more: str) -> FleetConfig:
    """The configuration with some more tables."""
    return parse_fleet(FLEET + more, now_unix_ms=NOW)


def device(more: str, *, disabled: tuple[str, ...] = ()) -> DeviceConfig:
    """What a device is told of it."""
    return read(more).device_config("pi", version=7, disabled_arms=disabled, price_version=3)


def problems(more: str) -> dict[str, str]:
    """The problems of such a file by key."""
    with pytest.raises(FleetConfigError) as caught:
        read(more)
    return dict(caught.value.problems)


def test_nothing_is_graded_unless_the_file_says_so() -> None:
    """No judge, no graders, no signals."""
    config = device(CHAT)
    assert (None, NO_SIGNALS) == (config.judge, config.signals)
    assert [(None, 0)] * 2 == [(task.grader, task.judge_ppm) for task in config.task_classes]


def test_the_judge_is_an_arm_that_the_class_need_not_have() -> None:
    """It comes with the prices that leases name, and its key is delivered like others."""
    config = device(JUDGE + CHAT + "judge = true\njudge_share = 0.25")
    assert config.judge is not None
    assert config.arm("large") is None
    assert config.judge.arm.cloud is not None
    assert ("large", 16, 3) == (
        config.judge.arm.id,
        config.judge.max_tokens,
        config.judge.arm.cloud.price.version,
    )
    assert {"large"} == config.provider_keys
    assert {"chat": 250_000, "other": 0} == {t.id: t.judge_ppm for t in config.task_classes}


def test_a_judge_that_is_closed_is_closed_for_devices() -> None:
    """After an overrun, or at an operator's word."""
    config = device(JUDGE + CHAT + "judge = true", disabled=("large",))
    assert config.judge is not None
    assert not config.judge.arm.enabled


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ('kind = "exact"\nignore_case = true', Grader("exact", GraderKind.EXACT, ignore_case=True)),
        ('kind = "contains"\nname = "has"', Grader("has", GraderKind.CONTAINS)),
        ('kind = "regex"\npattern = "^a+$"', Grader("regex", GraderKind.REGEX, pattern="^a+$")),
        (
            'kind = "json_schema"\nschema = \'{"type": "object"}\'',
            Grader("json_schema", GraderKind.JSON_SCHEMA, schema='{"type": "object"}'),
        ),
        (
            'kind = "numeric"\ntolerance = 0.5\nrelative_tolerance = 0.01',
            Grader("numeric", GraderKind.NUMERIC, tolerance=0.5, relative_tolerance=0.01),
        ),
    ],
)
def test_a_class_has_a_grader(more: str, expected: Grader) -> None:
    """Of one of five kinds, named after its kind unless it is named otherwise."""
    config = device(GRADER + more)
    assert [expected] == [task.grader for task in config.task_classes if task.id == "sum"]


@pytest.mark.parametrize(
    ("more", "key", "problem"),
    [
        (CHAT + "judge = true", "task_classes.chat.judge", "needs a [judge] table"),
        (
            JUDGE + CHAT + 'judge = true\nprivacy = "local"',
            "task_classes.chat.judge",
            "never leave the device",
        ),
        (CHAT + "judge_share = 0.5", "task_classes.chat.judge_share", "without judge = true"),
        (JUDGE + CHAT + "judge = true\njudge_share = 0.0", "task_classes.chat.judge_share", ""),
        ('[judge]\narm = "larg"', "judge.arm", "did you mean 'large'"),
        ('[judge]\narm = "tiny"', "judge.arm", "is a local arm"),
        ('[judge]\narm = "vectors"', "judge.arm", "answers no chats"),
        (GRADER, "task_classes.sum.grader.kind", '"exact", "contains"'),
        (GRADER + 'kind = "regex"', "task_classes.sum.grader.pattern", "missing"),
        (GRADER + 'kind = "json_schema"', "task_classes.sum.grader.schema", "missing"),
        (
            GRADER + 'kind = "exact"\npattern = "a"',
            "task_classes.sum.grader.pattern",
            "means nothing to the kind exact",
        ),
        (GRADER + 'kind = "regex"\npattern = "(a"', "task_classes.sum.grader.pattern", ""),
        (
            GRADER + 'kind = "regex"\npattern = "(?=a)"',
            "task_classes.sum.grader.pattern",
            "look-around",
        ),
        (GRADER + 'kind = "json_schema"\nschema = "{"', "task_classes.sum.grader.schema", "JSON"),
        (
            GRADER + 'kind = "json_schema"\nschema = \'{"$ref": "https://example.com/s"}\'',
            "task_classes.sum.grader.schema",
            "https://example.com/s",
        ),
        (GRADER + 'kind = "numeric"\ntolerance = -1.0', "task_classes.sum.grader.tolerance", ""),
        ("[signals.retry]\nweight = 1.0", "signals.retry.weight", ""),
    ],
)
def test_what_cannot_work_is_refused_where_it_stands(more: str, key: str, problem: str) -> None:
    """Before any device hears of it."""
    assert problem in problems(more)[key]


def test_signals_are_weak_and_off_until_they_are_named() -> None:
    """Each by itself."""
    both = '[signals.retry]\nwithin = "30s"\nreward = 0.25\n[signals.abandon]\nweight = 0.2\n'
    retry, abandon = WeakSignal(250_000, 100_000), WeakSignal(0, 200_000)
    assert Signals(retry, abandon, 30_000) == device(both).signals
    assert Signals(None, WeakSignal(0, 100_000), 0) == device("[signals.abandon]").signals


def test_a_change_of_grading_is_shown_by_its_key() -> None:
    """As `tidectl diff` prints it."""
    keys = read(JUDGE + CHAT + "judge = true\n" + GRADER + 'kind = "exact"').keys
    assert ("large", "true", "0.05", "exact") == (
        keys["judge.arm"],
        keys["task_classes.chat.judge"],
        keys["task_classes.chat.judge_share"],
        keys["task_classes.sum.grader.kind"],
    )
