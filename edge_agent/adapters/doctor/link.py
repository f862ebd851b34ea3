"""The coordinator, and this machine's clock against its."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from edge_agent.adapters.coordinator_link import LinkTarget
from edge_agent.adapters.doctor.finding import Finding, fail, ok, warn
from edge_agent.adapters.doctor.machine import clock_in_step
from edge_agent.adapters.greeting import Greeting, NotGreeted, greet
from edge_agent.config import JOIN_KEY, AgentConfig
from shared.clock import Clock
from shared.errors import ConfigError
from shared.settings import secret_problem
from shared.version import SOFTWARE_VERSION

AHEAD_MS_GOOD: Final = 1_000.0
AHEAD_MS_MAX: Final = 60_000.0
_SET_CLOCK: Final = "set the clock, and keep it in step: timedatectl set-ntp true"
_STANDINGS: Final = {
    "quarantined": "`tidectl device readmit` lets it back, once its disk is explained",
    "revoked": "it was shut out for good; join anew with a new token and new books",
    "unknown": "the coordinator does not know this device's credential: restored books? Join anew",
}


async def coordinator_and_clock(
    settings: AgentConfig, *, target: LinkTarget, credential: str, clock: Clock
) -> Iterator[Finding]:
    """Whether the coordinator answers, in which version, and what time it is there."""
    if settings.coordinator.address is None:
        alone = ok("coordinator", "none is configured: local models only")
        return iter((alone, clock_in_step()))
    try:
        greeting = await greet(target, credential=credential, clock=clock)
    except NotGreeted as error:
        return iter((_not_greeted(error, target=target), clock_in_step()))
    except ConfigError as error:
        return iter((fail("coordinator", str(error), "correct the path"), clock_in_step()))
    return iter((_greeted(greeting, settings, target=target), _clock(greeting)))


def _greeted(greeting: Greeting, settings: AgentConfig, *, target: LinkTarget) -> Finding:
    how = "without TLS" if target.plaintext else "over TLS"
    says = (
        f"{target.address} answers {how} in {greeting.round_trip_ms:.0f} ms, "
        f"version {greeting.software_version}"
    )
    if greeting.standing == "":
        return _may_join(says, settings)
    if greeting.standing != "active":
        remedy = _STANDINGS.get(greeting.standing, "see `tidectl device show`")
        return fail("coordinator", f"{says}; this device is {greeting.standing}", remedy)
    if greeting.software_version != SOFTWARE_VERSION:
        return ok("coordinator", f"{says} (here {SOFTWARE_VERSION}); this device is active")
    return ok("coordinator", f"{says}; this device is active")


def _may_join(says: str, settings: AgentConfig) -> Finding:
    """A device that has not joined yet needs a token that can be read."""
    ref, says = settings.coordinator.join_token, f"{says}; this device has not joined yet"
    remedy = "make one with `tidectl token create --kind join`, and name it in the configuration"
    if not ref:
        return fail("coordinator", f"{says}, and coordinator.join_token is not set", remedy)
    for problem in secret_problem(JOIN_KEY, ref):
        return fail("coordinator", f"{says}: {problem.key}: {problem.problem}", remedy)
    return ok("coordinator", says)


def _not_greeted(error: NotGreeted, *, target: LinkTarget) -> Finding:
    text = " ".join(str(error).split())
    where = target.address
    if error.is_older:
        return warn(
            "coordinator",
            f"{where} answers, and is older than this agent",
            "upgrade the coordinator; until then its clock and this device's standing are unknown",
        )
    if "CERTIFICATE_VERIFY_FAILED" in text or "handshake" in text.lower():
        return fail(
            "coordinator",
            f"{where} has a certificate that is not trusted here",
            "name the authority that signed it in coordinator.ca_file, and use a name that the "
            "certificate has",
        )
    if "protocol" in text:
        return fail("coordinator", f"{where}: {text}", "upgrade the older of the two")
    last = text.rpartition("last error: ")[2] or text
    return fail(
        "coordinator",
        f"{where} does not answer ({last[:160]})",
        "check the address, the network and the firewall; is the coordinator running, and does it "
        "speak TLS where the address is not loopback?",
    )


def _clock(greeting: Greeting) -> Finding:
    in_step = clock_in_step()
    ahead_ms, doubt_ms = greeting.clock_ahead_ms, greeting.round_trip_ms / 2
    word = "ahead of" if ahead_ms > 0 else "behind"
    says = f"{abs(ahead_ms) / 1e3:.2f} s {word} the coordinator's, {in_step.says}"
    if abs(ahead_ms) > AHEAD_MS_MAX + doubt_ms:
        return fail("clock", says, f"{_SET_CLOCK}: requests are counted in the wrong slots")
    if abs(ahead_ms) > AHEAD_MS_GOOD + doubt_ms:
        return warn("clock", says, _SET_CLOCK)
    return Finding("clock", in_step.verdict, says, in_step.remedy)
