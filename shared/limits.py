"""Every limit in one place, with the relations between them checked at import."""

from __future__ import annotations

from typing import Final

from shared.errors import invariant

# One HTTP request.
BODY_BYTES_MAX: Final = 4 * 1024 * 1024
MESSAGES_MAX: Final = 2_048
N_MAX: Final = 8
MAX_TOKENS_MAX: Final = 131_072
TAG_CHARS_MAX: Final = 64
API_KEYS_MAX: Final = 256
EXPECTED_CHARS_MAX: Final = 4_096
GRADED_CHARS_MAX: Final = 1_000_000  # of an answer; a longer one is not graded
REQUEST_ID_CHARS_MAX: Final = 64
IDEMPOTENCY_KEY_CHARS_MAX: Final = 255
IDEMPOTENCY_KEYS_MAX: Final = 10_000
IDEMPOTENCY_BYTES_MAX: Final = 16 * 1024 * 1024  # of kept answers, as JSON
IDEMPOTENCY_KEEP_MS: Final = 24 * 3_600_000
REQUESTS_IN_FLIGHT_MAX: Final = 1_024
DEADLINE_MS_MAX: Final = 24 * 3_600_000
PROMPTS_MAX: Final = 32  # of one legacy completion; each is answered as a request of its own
EMBEDDING_INPUTS_MAX: Final = 2_048

# What is remembered of conversations, so that they keep their arm.
CONVERSATIONS_MAX: Final = 4_096
CONVERSATION_IDLE_MS_MAX: Final = 30 * 60_000

# The spool and the wire.
BATCH_RECORDS_MAX: Final = 512
UNACKED_RECORDS_MAX: Final = 16 * BATCH_RECORDS_MAX
SPOOL_RECORDS_MAX: Final = 1_000_000  # above it, what was never sent is compacted
COMPACT_RECORDS_MAX: Final = 10_000
UNWRITTEN_RECORDS_MAX: Final = 1_024  # kept in full while the disk is full; then compacted
INCARNATIONS_MAX: Final = 50_000  # whose records are in one spool
RETAIN_ACKED_MS: Final = 24 * 3_600_000
RETAIN_ACKED_RECORDS_MAX: Final = 100_000
RECORD_BYTES_MAX: Final = 16 * 1024
GRPC_MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024
FALLOUTS_MAX: Final = 64
ATTEMPTS_MAX: Final = 8
ERROR_CHARS_MAX: Final = 300

# The fleet.
ARMS_MAX: Final = 64
TASK_CLASSES_MAX: Final = 64
DEVICE_CLASSES_MAX: Final = 256
NAME_CHARS_MAX: Final = 64
TOKENS_PER_S_MAX: Final = 1e9
SLOTS_PER_WINDOW_MAX: Final = 100_000
CONFIG_BYTES_MAX: Final = 1024 * 1024
SPEND_LINES_PER_DAY_MAX: Final = 20_000  # beyond it, tags of a day are one

# Money. The largest amount leaves room for sums of many in an int64.
AMOUNT_NANOS_MAX: Final = 10**9 * 10**8  # 100 million dollars
PRICE_NANOS_PER_MTOK_MAX: Final = 10**9 * 10**6
BOOKED_NANOS_MAX: Final = 4 * AMOUNT_NANOS_MAX  # of a window, whatever devices report beyond it
NUMBER_MAX: Final = 2**63 - 1  # of leases and records: the books keep 64 bits, with a sign
ID_CHARS_MAX: Final = 256  # from a peer: the books have an index of it

invariant(BATCH_RECORDS_MAX * RECORD_BYTES_MAX <= GRPC_MESSAGE_BYTES_MAX, "a batch must fit")
invariant(PROMPTS_MAX <= REQUESTS_IN_FLIGHT_MAX, "the prompts of one request must fit")
invariant(AMOUNT_NANOS_MAX * 64 < 2**63, "sums of amounts must fit an int64")
invariant(BOOKED_NANOS_MAX + AMOUNT_NANOS_MAX <= NUMBER_MAX, "a window's balance must fit")
invariant(max(REQUEST_ID_CHARS_MAX, NAME_CHARS_MAX) <= ID_CHARS_MAX, "an id must fit a message")
invariant(2 * UNACKED_RECORDS_MAX <= SPOOL_RECORDS_MAX, "most of a spool can be compacted")
invariant(RETAIN_ACKED_RECORDS_MAX <= SPOOL_RECORDS_MAX, "acked rows are part of the spool")
invariant(CONFIG_BYTES_MAX < GRPC_MESSAGE_BYTES_MAX, "a configuration must fit a message")
