"""Many outcomes at once, column by column: how they are sent, and kept by the coordinator.

Reading a field of a message costs about the same whether it holds one value or five hundred, so the
outcomes of a long run take a third of the time that they take one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, pairwise, repeat
from operator import lt
from typing import Any, Final, NamedTuple, cast

from shared.decision.money import PPM
from shared.decision.types import Attempt, Candidate, Fallout, Observation, Outcome, SpoolRecord
from shared.errors import LimitError, ProtocolError
from shared.limits import AMOUNT_NANOS_MAX, ID_CHARS_MAX, NUMBER_MAX, RECORD_BYTES_MAX
from shared.pb.v1 import types_pb2 as pb
from shared.rows import many
from shared.wire.checks import encoding, known, parse, read_id, write_chance, write_id, write_number
from shared.wire.outcome import (
    SETTLE_FROM_PB,
    SETTLE_TO_PB,
    STATUS_FROM_PB,
    STATUS_TO_PB,
    fill_observation,
    observation_from_pb,
)


@dataclass(frozen=True)
class _Column:
    """How the values of one field are written.

    Attributes
    ----------
    is_text : bool
        As places among the texts of the run.
    most : int or None
        The largest value that is taken; the smallest is then 0.
    to_pb, from_pb : mappings, optional
        Of an enumeration's values.
    default : object
        The value where the column is left out.
    may_be_left_out : bool
        False: it says how many values the other columns have.
    """

    name: str
    is_text: bool = False
    most: int | None = None
    to_pb: Mapping[Any, int] | None = None
    from_pb: Mapping[int, Any] | None = None
    default: object = 0
    may_be_left_out: bool = True


_text = partial(_Column, is_text=True, default="")
_flag = partial(_Column, default=False)
_ATTEMPT: Final = (
    _text("arm", may_be_left_out=False),
    _Column("latency_ms"),
    _text("error"),
    _Column("lease_number", most=NUMBER_MAX),
    _Column("reserved_nanos", most=AMOUNT_NANOS_MAX),
    _Column("cost_nanos", most=AMOUNT_NANOS_MAX),
    _Column("settle", to_pb=SETTLE_TO_PB, from_pb=SETTLE_FROM_PB, default=None),
)
_FALLOUT: Final = (_text("arm", may_be_left_out=False), _text("reason"))
_CANDIDATE: Final = (_text("arm", may_be_left_out=False), _Column("weight_ppm", most=PPM))
_OUTCOME: Final = (
    _text("task_class"),
    _Column("arrived_unix_ms"),
    _Column("status", to_pb=STATUS_TO_PB, from_pb=STATUS_FROM_PB, may_be_left_out=False),
    _text("arm"),
    _text("drawn_arm"),
    _Column("propensity_ppm", most=PPM),
    _Column("table_version"),
    _text("reason"),
    _flag("forced"),
    _Column("prompt_tokens"),
    _Column("completion_tokens"),
    _Column("ttft_ms"),
    _Column("latency_ms"),
    _Column("deadline_ms"),
    _flag("hit"),
    _text("tag"),
)


class _Part(NamedTuple):
    """A field that holds several values for each outcome: `columns` of all of them in a row."""

    field: str
    kind: type[tuple[Any, ...]]
    columns: tuple[_Column, ...]


_PARTS: Final = (
    _Part("attempts", Attempt, _ATTEMPT),
    _Part("fallouts", Fallout, _FALLOUT),
    _Part("candidates", Candidate, _CANDIDATE),
)


def run_to_pb(records: Sequence[SpoolRecord]) -> pb.OutcomeRun:
    """Outcomes of one incarnation, in the order of their sequences."""
    sequences = [record.sequence for record in records]
    for sequence in (min(sequences), max(sequences)):
        write_number(sequence, field="run.sequence")
    message = _to_pb([cast("Outcome", record.body) for record in records])
    message.incarnation = records[0].incarnation
    message.sequence.extend(sequences)
    return message


def run_from_pb(message: pb.OutcomeRun) -> list[SpoolRecord]:
    """Outcomes of one incarnation; each has the run that it came in, as it came.

    Raises
    ------
    ProtocolError
        If a value is out of its range, a column has too many or too few of them, or sequences do
        not rise.
    """
    outcomes = _from_pb(message)
    request_ids = message.request_id[:]
    if max(map(len, request_ids), default=0) > ID_CHARS_MAX or "\x00" in "".join(request_ids):
        for request_id in request_ids:
            read_id(request_id, field="outcome.request_id")
    sequences = _values(message, _Column("sequence", may_be_left_out=False), size=len(outcomes))
    if not all(map(lt, [0, *sequences], [*sequences, NUMBER_MAX + 1])):
        wrong = (
            f"{sequence} comes after {before}"
            for before, sequence in pairwise([0, *sequences])
            if not before < sequence <= NUMBER_MAX
        )
        raise ProtocolError(
            f"run.sequence must rise, from at least 1 to at most {NUMBER_MAX}: {next(wrong)}"
        )
    whole, places = message.SerializeToString(), range(len(outcomes))
    values = zip(
        sequences, repeat(message.incarnation), outcomes, repeat(whole), places, strict=False
    )
    return list(many(SpoolRecord, values))


def encode_run(outcomes: Sequence[Outcome]) -> bytes:
    """Outcomes as bytes, for a column."""
    with encoding("outcomes"):
        return _to_pb(outcomes).SerializeToString()


def decode_run(data: bytes) -> list[Outcome]:
    """Outcomes from `encode_run`, or of a run that was sent."""
    return _from_pb(parse(pb.OutcomeRun(), data))


class _Texts:
    """Every text of a run once; the empty one comes first, so that it is a default."""

    def __init__(self) -> None:
        self._places = {"": 0}

    def places(self, values: Iterable[str]) -> list[int]:
        """Where these texts are, the new ones at the end."""
        places = self._places
        for text in dict.fromkeys(values):
            places.setdefault(text, len(places))
        return [places[text] for text in values]

    @property
    def all(self) -> Iterable[str]:
        """In the order of their places."""
        return self._places


def _to_pb(outcomes: Sequence[Outcome]) -> pb.OutcomeRun:
    message, texts = pb.OutcomeRun(), _Texts()
    fields = dict(zip(Outcome._fields, zip(*outcomes, strict=True), strict=True))
    for request_id in fields["request_id"]:
        write_id(request_id, field="outcome.request_id")
    message.request_id.extend(fields["request_id"])
    for column in _OUTCOME:
        _put(message, column, fields[column.name], texts=texts)
    for part in _PARTS:
        _put_part(getattr(message, part.field), part, fields[part.field], texts=texts)
    chances = (write_chance(ppm, field="outcome.grading_ppm") for ppm in fields["grading_ppm"])
    _put(message, _Column("grading_ppm"), list(chances), texts=texts)
    for place, observed in enumerate(fields["observed"]):
        if observed is not None:
            message.observed_at.append(place)
            fill_observation(message.observed.add(), observed)
    message.texts.extend(texts.all)
    return message


def _put_part(message: Any, part: _Part, values: Sequence[Sequence[Any]], *, texts: _Texts) -> None:
    every = list(chain.from_iterable(values))
    if every:
        message.count.extend(map(len, values))
        for column, found in zip(part.columns, zip(*every, strict=True), strict=True):
            _put(message, column, found, texts=texts)


def _put(message: Any, column: _Column, values: Sequence[Any], *, texts: _Texts) -> None:
    most = column.most
    if most is not None and not 0 <= min(values) <= max(values) <= most:
        wrong = next(value for value in values if not 0 <= value <= most)
        raise LimitError(f"{_name(message, column)} must be from 0 to {most}, not {wrong}")
    if column.is_text:
        values = texts.places(values)
    elif column.to_pb is not None:
        values = [column.to_pb[value] for value in values]
    if not column.may_be_left_out or any(values):
        getattr(message, column.name).extend(values)


def _from_pb(message: pb.OutcomeRun) -> list[Outcome]:
    size, texts = len(message.request_id), message.texts[:]
    if max(map(len, texts), default=0) > RECORD_BYTES_MAX:
        raise ProtocolError(f"a text of a run is longer than {RECORD_BYTES_MAX} characters")
    request_ids = message.request_id[:]
    if "" in request_ids:
        raise ProtocolError("outcome.request_id is missing")
    fields: dict[str, Iterable[Any]] = {"request_id": request_ids}
    for column in _OUTCOME:
        fields[column.name] = _read(message, column, size=size, texts=texts)
    for part in _PARTS:
        fields[part.field] = _read_part(getattr(message, part.field), part, size=size, texts=texts)
    chances = _values(message, _Column("grading_ppm", most=PPM), size=size)
    fields["grading_ppm"] = [ppm or PPM for ppm in chances] if chances else repeat(PPM)
    fields["observed"] = _observations(message, size=size)
    return list(many(Outcome, zip(*map(fields.__getitem__, Outcome._fields), strict=False)))


def _observations(message: pb.OutcomeRun, *, size: int) -> Iterable[Observation | None]:
    if not message.observed:
        return repeat(None)
    places = _values(message, _Column("observed_at"), size=len(message.observed)) or [0]
    if max(places) >= size:
        raise ProtocolError(f"run.observed_at {max(places)} is beyond {size} outcomes")
    found = dict(zip(places, map(observation_from_pb, message.observed), strict=True))
    return map(found.get, range(size))


def _read_part(
    message: Any, part: _Part, *, size: int, texts: Sequence[str]
) -> Iterable[tuple[Any, ...]]:
    """What each outcome has of it, as a tuple."""
    counts = _values(message, _Column("count"), size=size)
    total = sum(counts)
    columns = [_read(message, column, size=total, texts=texts) for column in part.columns]
    if not total:
        return repeat(())
    every = many(part.kind, zip(*columns, strict=False))
    if counts.count(counts[0]) == size:
        return zip(*(every,) * counts[0], strict=True)  # so many of one iterator at a time
    return [tuple(islice(every, count)) for count in counts]


def _read(message: Any, column: _Column, *, size: int, texts: Sequence[str]) -> Iterable[Any]:
    """The values of a column, without end where it was left out."""
    values = _values(message, column, size=size)
    if not values:
        return repeat(column.default)
    if column.is_text:
        try:
            return list(map(texts.__getitem__, values))
        except IndexError:
            name, most = _name(message, column), max(values)
            raise ProtocolError(
                f"{name} {most} is beyond the {len(texts)} texts of its run"
            ) from None
    choices = column.from_pb
    if choices is None:
        return values
    for value in set(values) - choices.keys():
        known(choices, value, field=_name(message, column))
    return map(choices.__getitem__, values)


def _values(message: Any, column: _Column, *, size: int) -> list[Any]:
    """A column as it came: checked, and empty where it was left out."""
    values: list[Any] = getattr(message, column.name)[:]
    if len(values) != size and (values or not column.may_be_left_out):
        name = _name(message, column)
        raise ProtocolError(f"{name} has {len(values)} values instead of {size}")
    most = column.most
    if most is not None and values and not 0 <= min(values) <= max(values) <= most:
        wrong = next(value for value in values if not 0 <= value <= most)
        raise ProtocolError(f"{_name(message, column)} must be from 0 to {most}, not {wrong}")
    return values


def _name(message: Any, column: _Column) -> str:
    """Of a column, for a message to people, such as `outcome.status`."""
    kind = message.DESCRIPTOR.name.removesuffix("Run").removesuffix("Columns")
    return f"{kind.lower()}.{column.name}"
