"""Reading a fleet file: what it becomes, and which key each mistake is laid at."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from coordinator.engine import CoordinatorEngine
from coordinator.fleet_config import (
    ConfigChange,
    FleetConfig,
    FleetConfigError,
    WindowConfig,
    diff_fleet,
    parse_fleet,
)
from coordinator.fleet_values import FIELDS_UNBOUNDED
from coordinator.records import ConfigRow, StoreSnapshot
from edge_agent.openai_request.body import FIELDS as CHAT_FIELDS
from shared.decision.money import Price, WorstCase
from shared.decision.types import REQUEST_FIELDS, ArmKind, OnAbort
from shared.errors import ConfigError, NotFoundError
from shared.limits import ARMS_MAX, CONFIG_BYTES_MAX

NOW = round(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp() * 1_000)
EXAMPLE = Path("deploy/fleet.example.toml")
FLEET = """
[fleet]
name = "demo"
[window]
length = "180s"
slot = "2s"
anchor = 0
[budget]
name = "cloud"
amount_usd = "0.05"
[sla]
floor = 0.9
rho = 1.0
slack_max = 0.5
[policy]
kind = "lp_ucb"
forecaster = "chooser"
[arms.tiny]
kind = "local"
context_tokens_max = 512
max_tokens_default = 32
bytes_per_token = 1.0
[arms.tiny.prior]
reward = 0.25
[arms.large]
kind = "cloud"
model = "large-2026"
base_url = "http://127.0.0.1:9000/v1/"
api_key = "env:CLOUD_API_KEY"
fields = ["temperature", "max_tokens", "stop", "seed"]
unbilled_statuses = [401, 403, 404, 429, 503]
on_abort = "drain"
[arms.large.price]
input_usd_per_mtok = "2.50"
output_usd_per_mtok = "10"
request_usd = "0"
valid_until = "2027-06-30T00:00:00Z"
[device_classes.pi]
arms = ["tiny", "large"]
[task_classes.sort]
deadline = "500ms"
demand_prior = 1.5
privacy = "any"
"""


def read(toml: str = FLEET, *, now_unix_ms: int = NOW) -> FleetConfig:
    """The configuration."""
    return parse_fleet(toml, now_unix_ms=now_unix_ms)


def changed(*pairs: tuple[str, str]) -> str:
    """The file above with texts replaced, each of which must occur."""
    toml = FLEET
    for old, new in pairs:
        assert old in toml
        toml = toml.replace(old, new)
    return toml


def problems(toml: str) -> dict[str, str]:
    """The problems of a file by key."""
    with pytest.raises(FleetConfigError) as caught:
        read(toml)
    return dict(caught.value.problems)


def test_a_file_becomes_one_value() -> None:
    """Durations are milliseconds, money is nano-dollars, names are resolved."""
    config = read()
    assert config.name == "demo"
    assert config.window == WindowConfig(length_ms=180_000, slot_ms=2_000)
    assert config.window.slots_per_window == 90
    assert (config.budget.name, config.budget.amount_nanos) == ("cloud", 50_000_000)
    assert (config.sla.floor, config.sla.rho, config.sla.slack_max) == (0.9, 1.0, 0.5)
    assert (config.policy.kind, config.policy.forecaster) == ("lp_ucb", "chooser")
    assert config.device_classes["pi"].arms == ("tiny", "large")
    task = config.task_classes["sort"]
    assert (task.task.deadline_ms, task.task.privacy_local) == (500, False)
    assert task.demand_prior_per_slot == 1.5


def test_a_cloud_arm_is_complete() -> None:
    """Everything a device needs to bound, call and settle."""
    arm = read().arms["large"].arm
    assert (arm.kind, arm.model) == (ArmKind.CLOUD, "large-2026")
    assert arm.cloud is not None
    assert arm.cloud.base_url == "http://127.0.0.1:9000/v1"
    assert arm.cloud.api_key_ref == "env:CLOUD_API_KEY"
    assert arm.cloud.price == Price(
        input_nanos_per_mtok=2_500_000_000,
        output_nanos_per_mtok=10_000_000_000,
        request_nanos=0,
        valid_until_unix_ms=round(datetime(2027, 6, 30, tzinfo=UTC).timestamp() * 1_000),
    )
    assert arm.cloud.worst_case == WorstCase()
    assert arm.cloud.fields == {"temperature", "max_tokens", "stop", "seed"}
    assert arm.cloud.unbilled_statuses == {401, 403, 404, 429, 503}
    assert arm.cloud.on_abort is OnAbort.DRAIN


def test_an_arms_expected_cost_comes_from_price_and_tokens() -> None:
    """A new paid arm never starts from a cost of zero; a local arm is free."""
    config = read(changed(("reward = 0.25", "reward = 0.25\nlatency = '80ms'")))
    large, tiny = config.arms["large"], config.arms["tiny"]
    assert large.cost_nanos == (256 * 2_500_000_000 + 128 * 10_000_000_000) // 1_000_000
    assert (tiny.cost_nanos, tiny.reward, tiny.latency_ms) == (0, 0.25, 80.0)


def test_token_priors_of_the_policy_hold_where_an_arm_says_nothing() -> None:
    """An arm's own prior goes over the policy's."""
    toml = changed(
        ('forecaster = "chooser"', "prompt_tokens_prior = 10\ncompletion_tokens_prior = 20"),
        ("reward = 0.25", "prompt_tokens = 7"),
    )
    arms = read(toml).arms
    assert (arms["large"].prompt_tokens, arms["large"].completion_tokens) == (10, 20)
    assert (arms["tiny"].prompt_tokens, arms["tiny"].completion_tokens) == (7, 20)


def test_other_is_added_with_the_defaults() -> None:
    """Requests of no class need one; a file may say what it promises them."""
    assert read().task_classes["other"].task.deadline_ms == 30_000
    toml = FLEET + '[task_classes.other]\ndeadline = "1m"\n'
    assert read(toml).task_classes["other"].task.deadline_ms == 60_000


def test_the_fields_that_reach_a_paid_arm_are_closed_by_default() -> None:
    """Without a list, only fields that cannot raise the cost are let through."""
    toml = changed(
        ('fields = ["temperature", "max_tokens", "stop", "seed"]\n', ""),
        ("unbilled_statuses = [401, 403, 404, 429, 503]\n", ""),
    )
    cloud = read(toml).arms["large"].arm.cloud
    assert cloud is not None
    assert "temperature" in cloud.fields
    assert not cloud.fields & {"n", "tools", "service_tier"}
    assert 500 not in cloud.unbilled_statuses


def test_every_field_that_an_agent_passes_on_can_be_listed_unless_it_costs_more() -> None:
    """No other can: an agent refuses it by name, so listing it would promise what never comes."""
    passed_on = {*CHAT_FIELDS, "input", "dimensions"}
    assert passed_on == REQUEST_FIELDS | (FIELDS_UNBOUNDED.keys() & passed_on)
    listed = ", ".join(f'"{name}"' for name in sorted(REQUEST_FIELDS))
    cloud = read(changed(('"temperature", "max_tokens", "stop", "seed"', listed)))
    assert cloud.arms["large"].arm.cloud is not None
    assert REQUEST_FIELDS == cloud.arms["large"].arm.cloud.fields


def test_a_device_gets_its_own_arms_with_the_price_version() -> None:
    """Arms in the class's order, disabled ones closed, prices under the given version."""
    device = read().device_config("pi", version=4, disabled_arms={"tiny"}, price_version=3)
    assert [arm.id for arm in device.arms] == ["tiny", "large"]
    assert [arm.enabled for arm in device.arms] == [False, True]
    assert device.arms[1].cloud is not None
    assert device.arms[1].cloud.price.version == device.price_version == 3
    assert (device.version, device.budget_name, device.close_wait_ms) == (4, "cloud", 30_000)
    assert {task.id for task in device.task_classes} == {"sort", "other"}


def test_an_unknown_device_class_is_not_found() -> None:
    """The closest known class is named."""
    with pytest.raises(NotFoundError, match="did you mean 'pi'"):
        read().device_config("pie", version=1, price_version=1)


def test_windows_and_slots_are_aligned_to_the_anchor() -> None:
    """The last millisecond of a window belongs to its last slot."""
    window = WindowConfig(length_ms=60_000, slot_ms=10_000, anchor_unix_ms=5_000)
    assert window.window_of(5_000) == (5_000, 5_000, 65_000)
    assert window.window_of(64_999) == (5_000, 5_000, 65_000)
    assert window.window_of(65_000)[1:] == (65_000, 125_000)
    assert [window.slot_of(ms) for ms in (5_000, 14_999, 15_000, 64_999, 65_000)] == [0, 0, 1, 5, 0]


def test_window_ids_stay_unique_when_the_length_changes() -> None:
    """Two different windows never share an id, so that none inherits a balance."""
    days, hours = WindowConfig(86_400_000, 10_000), WindowConfig(3_600_000, 10_000)
    noon = days.window_of(NOW)
    assert noon[0] != hours.window_of(NOW)[0]
    assert noon[0] == hours.window_of(noon[1])[0] == noon[1]


@pytest.mark.parametrize(
    ("old", "new", "key", "says"),
    [
        ('name = "demo"\n', "", "fleet.name", "missing"),
        ('length = "180s"', "length = 180", "window.length", "duration in quotes"),
        ('length = "180s"', 'length = "0s"', "window.length", "longer than 0"),
        ('length = "180s"', 'length = "3 weeks"', "window.length", "duration"),
        ('slot = "2s"', 'slot = "7s"', "window.slot", "does not divide"),
        ('slot = "2s"', 'slot = "1ms"', "window.slot", "at most 100000"),
        ("anchor = 0", "anchor = 99999999999", "window.anchor", "future"),
        ('amount_usd = "0.05"', "amount_usd = 0.05", "budget.amount_usd", "float"),
        ('amount_usd = "0.05"', 'amount_usd = "-1"', "budget.amount_usd", "negative"),
        ('amount_usd = "0.05"', 'amount_usd = "1e99"', "budget.amount_usd", "largest"),
        ('amount_usd = "0.05"', 'amount_usd = "NaN"', "budget.amount_usd", "finite"),
        ('amount_usd = "0.05"', "amount_usd = true", "budget.amount_usd", "in quotes"),
        ("floor = 0.9", "floor = 1.1", "sla.floor", "less than or equal to 1"),
        ("floor = 0.9", "floor = nan", "sla.floor", "finite"),
        ("floor = 0.9", 'floor = "0.9"', "sla.floor", "number"),
        ("rho = 1.0", "rhoo = 1.0", "sla.rhoo", "did you mean 'rho'"),
        ('kind = "lp_ucb"', 'kind = "lp_ucbb"', "policy.kind", "lp_ucb"),
        ('"chooser"', '"psychic"', "policy.forecaster", "chooser"),
        ("[sla]", "[policy.options]\nexplor = 1\n[sla]", "policy.options", "explore_requests"),
        (
            "[sla]",
            '[policy.options]\nexplore_requests = "8"\n[sla]',
            "policy.options.explore_requests",
            "type of its default, 8",
        ),
        ("[sla]", "[slaa]", "slaa", "did you mean 'sla'"),
        ('kind = "local"', 'kind = "locl"', "arms.tiny.kind", '"local" or "cloud"'),
        ('kind = "local"\n', "", "arms.tiny.kind", "missing"),
        ('kind = "local"', 'kind = "local"\nprice = 1', "arms.tiny.price", "unknown key"),
        ("default = 32", "default = 512", "arms.tiny.max_tokens_default", "no room"),
        ("bytes_per_token = 1.0", "bytes_per_token = 0", "arms.tiny.bytes_per_token", "0.001"),
        ("reward = 0.25", "reward = 2", "arms.tiny.prior.reward", "less than or equal to 1"),
        ('model = "large-2026"\n', "", "arms.large.model", "missing"),
        ('"env:CLOUD_API_KEY"', '"$KEY"', "arms.large.api_key", "reference"),
        ("http://127.0.0.1:9000", "http://10.0.0.7:9000", "arms.large.base_url", "https"),
        ("http://127.0.0.1:9000/v1/", "ftp://x/", "arms.large.base_url", "http"),
        ("http://127", "http://me:pw@127", "arms.large.base_url", "credentials"),
        ("401, 403", "200, 403", "arms.large.unbilled_statuses", "could be billed"),
        ('"drain"', '"stop"', "arms.large.on_abort", "'drain' or 'cancel'"),
        ('"seed"', '"best_of"', "arms.large.fields", "multiplies"),
        ('"seed"', '"sead"', "arms.large.fields", "'sead' is no request field"),
        ('"seed"', '"sead"', "arms.large.fields", "did you mean 'seed'"),
        ('"2.50"', "2.5", "arms.large.price.input_usd_per_mtok", "float"),
        ('"2.50"', '"0.0000000001"', "arms.large.price.input_usd_per_mtok", "finer"),
        ('"2.50"', '"1000001"', "arms.large.price.input_usd_per_mtok", "largest"),
        ('request_usd = "0"\n', "", "arms.large.price.request_usd", "write it out"),
        ("2027-06-30", "2026-06-30", "arms.large.price.valid_until", "past"),
        ("00:00:00Z", "00:00:00", "arms.large.price.valid_until", "offset"),
        ('arms = ["tiny", "large"]', "arms = []", "device_classes.pi.arms", "empty"),
        ('"tiny", "large"', '"tiny", "lrge"', "device_classes.pi.arms", "did you mean 'large'"),
        ('"tiny", "large"', '"tiny", "tiny"', "device_classes.pi.arms", "more than once"),
        ('"500ms"', '"0s"', "task_classes.sort.deadline", "longer than 0"),
        ('"500ms"', '"25h"', "task_classes.sort.deadline", "largest possible, 1d"),
        ('privacy = "any"', 'privacy = "some"', "task_classes.sort.privacy", "'any' or 'local'"),
        ("classes.sort", 'classes."so rt"', 'task_classes."so rt"', "is no name"),
        ("[device_classes.pi]", "[device_classes.Pi]", "device_classes.Pi", "is no name"),
        ("[fleet]", '[link]\nheartbeat = "2m"\n[fleet]', "link.lease_duration", "heartbeat"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_by_its_key(old: str, new: str, key: str, says: str) -> None:
    """Each mistake has its dotted key and words that say what would be right."""
    found = problems(changed((old, new)))
    assert key in found
    assert says in found[key]


def test_a_missing_price_names_each_key() -> None:
    """An unknown price is an error, and a price of zero must be written out (rule A_1)."""
    start, end = FLEET.index("[arms.large.price]"), FLEET.index("[device_classes.pi]")
    found = problems(FLEET[:start] + FLEET[end:])
    assert found == {
        f"arms.large.price.{key}": 'missing; write it out, "0" if the arm is free'
        for key in ("input_usd_per_mtok", "output_usd_per_mtok", "request_usd")
    }


def test_every_problem_is_told_at_once() -> None:
    """One run shows all that is wrong, also in different tables."""
    toml = changed(("floor = 0.9", "floor = 9"), ('"2.50"', "2.5"), ("500ms", "0s"), ('"2s"', "2"))
    assert set(problems(toml)) == {
        "sla.floor",
        "arms.large.price.input_usd_per_mtok",
        "task_classes.sort.deadline",
        "window.slot",
    }


def test_the_error_is_a_config_error_with_a_line_per_problem() -> None:
    """`str` gives one line per problem; the first one is the base class's."""
    with pytest.raises(ConfigError) as caught:
        read(changed(("floor = 0.9", "floor = 9"), ('"500ms"', '"0s"')))
    error = caught.value
    assert isinstance(error, FleetConfigError)
    assert (error.key, error.problem) == error.problems[0]
    assert len(str(error).splitlines()) == len(error.problems) == 2


def test_a_literal_secret_is_never_repeated() -> None:
    """The error says so without showing it, in every form of the exception."""
    toml = changed(('"env:CLOUD_API_KEY"', '"sk-verysecret"'))
    with pytest.raises(FleetConfigError) as caught:
        read(toml)
    assert dict(caught.value.problems)["arms.large.api_key"].endswith("never the secret")
    assert "verysecret" not in f"{caught.value!s}{caught.value!r}{caught.value.__context__!r}"


def test_a_key_of_the_coordinator_must_exist_there() -> None:
    """Its name is checked when a file is applied; what was stored is read all the same."""
    toml = FLEET.replace("env:CLOUD_API_KEY", "coordinator:big")
    arm = parse_fleet(toml, now_unix_ms=NOW, provider_keys={"big"}).arms["large"].arm
    assert arm.cloud is not None
    assert ("coordinator:big", "big") == (arm.cloud.api_key_ref, arm.cloud.provider_key)
    assert parse_fleet(toml, now_unix_ms=NOW).arms["large"].arm == arm
    for known, says in (({"small", "other"}, "known are other, small"), (set(), "it has none")):
        with pytest.raises(FleetConfigError, match=r"no provider key 'big'") as caught:
            parse_fleet(toml, now_unix_ms=NOW, provider_keys=known)
        assert says in dict(caught.value.problems)["arms.large.api_key"]
    with pytest.raises(FleetConfigError, match="is no name"):
        parse_fleet(FLEET.replace("env:CLOUD_API_KEY", "coordinator:Big Key"), now_unix_ms=NOW)


def test_a_devices_own_key_is_no_key_of_the_coordinator() -> None:
    """Only arms that name one make the coordinator send any."""
    device = parse_fleet(FLEET, now_unix_ms=NOW).device_config("pi", version=1, price_version=1)
    assert frozenset() == device.provider_keys
    toml = FLEET.replace("env:CLOUD_API_KEY", "coordinator:big")
    device = parse_fleet(toml, now_unix_ms=NOW).device_config("pi", version=1, price_version=1)
    assert frozenset({"big"}) == device.provider_keys


def test_plain_http_to_others_needs_consent() -> None:
    """`insecure = true` allows it for networks that are one's own."""
    toml = changed(("http://127.0.0.1:9000/v1/", 'http://10.0.0.7/v1"\ninsecure = true #'))
    cloud = read(toml).arms["large"].arm.cloud
    assert cloud is not None
    assert cloud.base_url == "http://10.0.0.7/v1"


def test_a_private_class_needs_a_local_arm_on_every_device() -> None:
    """A device class with cloud arms only could never answer it."""
    toml = changed(('privacy = "any"', 'privacy = "local"'), ('"tiny", "large"', '"large"'))
    assert "no local arm" in problems(toml)["device_classes.pi.arms"]


def test_a_capability_that_no_request_asks_for_is_a_slip() -> None:
    """Such an arm would never be asked, and nobody would know why."""
    toml = changed(('kind = "local"', 'kind = "local"\ncapabilities = ["tool", "logprobs"]'))
    assert "'tool' is nothing that a request asks for" in problems(toml)["arms.tiny.capabilities"]
    assert "did you mean 'tools'" in problems(toml)["arms.tiny.capabilities"]


def test_a_device_class_needs_an_arm_that_chats() -> None:
    """Arms for embeddings alone would leave every chat without an answer."""
    embeds = 'kind = "local"\ncapabilities = ["embeddings"'
    toml = changed(('kind = "local"', f"{embeds}]"), ('"tiny", "large"', '"tiny"'))
    assert "for embeddings only" in problems(toml)["device_classes.pi.arms"]
    both = changed(('kind = "local"', f'{embeds}, "chat"]'), ('"tiny", "large"', '"tiny"'))
    assert {"embeddings", "chat"} == read(both).arms["tiny"].arm.capabilities


@pytest.mark.parametrize("toml", ["", "[fleet", "= 1", "fleet = 3", "arms = []", "\x00"])
def test_what_is_no_fleet_file_is_refused(toml: str) -> None:
    """Empty, broken, or of the wrong shape: always the same kind of error."""
    assert problems(toml)


def test_a_file_that_is_too_large_is_refused() -> None:
    """The limit is that of the wire."""
    assert "larger than" in problems("#" * (CONFIG_BYTES_MAX + 1))[""]


def test_too_many_arms_are_refused() -> None:
    """The number of arms has a limit."""
    more = "".join(f'[arms.a{index}]\nkind = "local"\n' for index in range(ARMS_MAX))
    assert f"1 to {ARMS_MAX}" in problems(FLEET + more)["arms"]


def test_a_stored_configuration_goes_on_with_a_field_that_is_refused_by_now() -> None:
    """Or a coordinator could not start after an update, and no other file be applied to it."""
    toml = changed(('"seed"', '"functions"'))
    with pytest.raises(FleetConfigError, match="'functions' is no request field"):
        read(toml)
    stored = StoreSnapshot(config=ConfigRow(1, toml, "ada", NOW))
    restarted = CoordinatorEngine(stored).config
    assert restarted is not None
    cloud = restarted.arms["large"].arm.cloud
    assert cloud is not None
    assert "functions" in cloud.fields


def test_a_stored_configuration_can_be_read_after_its_prices_ended() -> None:
    """Read with the time of its application, it is as good as then."""
    assert read(now_unix_ms=NOW).prices["large"].valid_until_unix_ms > NOW


def test_toml_times_are_taken_as_they_are() -> None:
    """A date in TOML's own type means the same as in quotes."""
    toml = changed(('"2027-06-30T00:00:00Z"', "2027-06-30T02:00:00+02:00"))
    assert read(toml).prices == read().prices


def test_equal_files_have_no_differences() -> None:
    """Other spelling, other order, comments and written-out defaults change nothing."""
    toml = changed(('"180s"', '"3m"'), ('"2.50"', '"2.5"'), ("[sla]", "# x\n[link]\n[sla]"))
    toml = toml.replace('"stop", "seed"]', '"seed", "stop"]').replace("anchor = 0\n", "")
    assert diff_fleet(read(), read(toml)) == ()


def test_differences_are_listed_by_dotted_key() -> None:
    """Changed, added and removed keys, each with its text before and after."""
    toml = changed(
        ("floor = 0.9", "floor = 0.95"), ('"2.50"', '"3"'), ("classes.sort", "classes.s")
    )
    changes = diff_fleet(read(), read(toml))
    assert ConfigChange("sla.floor", "0.9", "0.95") in changes
    assert ConfigChange("arms.large.price.input_usd_per_mtok", "2.5", "3") in changes
    assert ConfigChange("task_classes.s.deadline", "", "500ms") in changes
    assert ConfigChange("task_classes.sort.deadline", "500ms", "") in changes
    assert [change.key for change in changes] == sorted(change.key for change in changes)


def test_the_first_configuration_differs_in_every_key() -> None:
    """Without one before, everything is added."""
    changes = diff_fleet(None, read())
    assert all(change.before == "" for change in changes)
    assert {"fleet.name", "arms.large.base_url"} <= {change.key for change in changes}


def test_the_example_is_valid_and_shows_every_key() -> None:
    """The commented example parses, and no key is left undocumented."""
    text = EXAMPLE.read_text(encoding="utf-8")
    config = read(text)
    undocumented = {
        key.rpartition(".")[2] for key in config.keys if f"{key.rpartition('.')[2]} = " not in text
    }
    assert undocumented == set()
    assert tomllib.loads(text)["policy"]["options"] == config.policy.options
