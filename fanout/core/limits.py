"""Every bound of the engine with its reason. A queue, cache, wait or retry without a line here is a bug."""

from __future__ import annotations

from typing import Final

# Messages and names
MESSAGE_BYTES_MAX: Final = 32_768  # what a sender may say at once; larger things belong into object storage
ROOM_NAME_BYTES_MAX: Final = 128
USER_ID_BYTES_MAX: Final = 64
MESSAGE_RECORD_BYTES_MAX: Final = 131_072  # value of a MESSAGE record: data, every name at its longest; half a chunk
RECORD_BYTES_MAX: Final = 1_000_000  # key and value of one record; Kafka's own limit is 1 MiB
PUBLISH_BATCH_MAX: Final = 1_000  # messages in one POST /v1/publish/batch
IDEMPOTENCY_S: Final = 600  # a client that retries longer than this has given up
KEYED_IDS_MAX: Final = 100_000  # keyed ids a room remembers, besides IDEMPOTENCY_S

# Rates (per user; the sender is told)
USER_PUBLISHES_PER_S: Final = 5.0
USER_PUBLISH_BURST: Final = 20

# Rates of a process, for rooms whose profile is rate limited: above what a room can be read at, below what hurts others
ROOM_PUBLISHES_PER_S: Final = 20_000.0
ROOM_PUBLISH_BURST: Final = 40_000
APP_PUBLISHES_PER_S: Final = 200_000.0
APP_PUBLISH_BURST: Final = 400_000
BUCKETS_MAX: Final = 100_000  # token buckets in memory; a forgotten one begins full again

# Sender
APPENDS_WAITING_MAX: Final = 20_000  # messages between admission and the log's answer; beyond it 503 with retry_after
APPENDS_WAITING_BYTES_MAX: Final = 64 << 20
APPEND_RECORDS_MAX: Final = 1_000  # of one append; keeps a batch of the log well below RECORD_BYTES_MAX together with
APPEND_BYTES_MAX: Final = 524_288
KEYS_ASKED_MAX: Final = 64  # idempotency keys of one batch asked for at a time
EPOCH_CACHE_S: Final = 5.0
RETRY_AFTER_S: Final = 1.0  # told to callers while the log or the store does not answer
MEMBERS_APPLIED_TIMEOUT_S: Final = 5.0  # PUT and DELETE members wait for the member worker's mark
CURSOR_TTL_S: Final = 3_600  # of a page of members
DRAIN_SENDER_S: Final = 10.0

# Worker
POLL_RECORDS_MAX: Final = 5_000
CHUNK_BYTES_MAX: Final = 262_144  # one chunk record; well below Kafka's 1 MB record limit
CHUNK_SESSIONS_MAX: Final = 5_000
ROOMS_IN_MEMORY_MAX: Final = 200_000  # per worker; idle rooms beyond it are forgotten, Redis has their state
HISTORY_META_S: Final = 7 * 86_400  # meta of a room outlives its last entry by this: a late client learns its position
HISTORY_WAITING_BYTES_MAX: Final = 64 << 20  # with the store down: beyond this polling pauses
HISTORY_WAITING_S_MAX: Final = 60.0
HISTORY_ROOMS_PER_STORE: Final = 2_000  # of one pipeline: about 30 ms of the store's time
HISTORY_BYTES_PER_STORE: Final = 8 << 20
TURN_RECORDS: Final = 1_000  # decided without a pause, about 5 ms: so long the other roles of the loop may wait
TURN_ROOMS_MAX: Final = 1_000  # rooms of a turn; one that has more ends with its slice, below a pipeline of the store
TURN_BYTES_MAX: Final = 4 << 20  # the same for what it has for the history
LOAD_ROOMS_MAX: Final = 1_000  # states in one pipeline
CHUNKS_WAITING_BYTES_MAX: Final = 16 << 20  # chunks the log has not taken; beyond it polling pauses
CHUNK_APPEND_BYTES_MAX: Final = 786_432  # one append to a slot: three whole chunks, below RECORD_BYTES_MAX
PARKED_VALUE_BYTES_MAX: Final = 65_536  # of a dead letter; the whole record stands on its own topic
PARKED_PER_APPEND: Final = 8  # each may be 90 KB in base64
FOLDS_MAX: Final = 32  # merged publications of a room that wait for the end of their window: 160 a second
FOLDS_BYTES_MAX: Final = 65_536  # of them in a room's stored state: it is written with every poll
TICK_AFTER_S: Final = 0.4  # two windows without a record of the partition; so often at most one is appended
WINDOWS_PASSED_MAX: Final = 4_096  # begun while a room is being loaded: thirteen minutes, the longest wait is one
CLAIMS_AT_ONCE: Final = 16  # partitions taken over at a time
REPORT_COUNT_MAX: Final = 1 << 53  # a report beyond it counts nothing real, and sums must fit into 64 bits
REPORT_SUBSCRIPTIONS_MAX: Final = 1 << 24  # of a room on one gateway process
EDGE_REASONS_MAX: Final = 16  # drop reasons of gateways: a closed set; beyond it they are counted together
STAY_REMEMBERED_MS: Final = 600_000  # a gateway that was given up for lost may still come back with its counts
SHARED_TARGETS_MAX: Final = 4_096  # sets of gateways that rooms share one object for
SHARD_COUNTS_MAX: Final = 100_000  # rooms whose number of member shards is remembered; it never changes
MEMBER_APPLIES_AT_ONCE: Final = 32

# Ledgers and outcomes
LEDGER_SPAN_MS: Final = 300_000  # a ledger of the last while begins at a whole span: so often a room's counts are noted
LEDGER_SPANS: Final = 13  # an hour, and the span that is open
LEDGER_ROOMS_PER_CALL: Final = 10_000  # of an app's ledger; the rest is the next page: about 0.3 s of a core each
LEDGER_ROOMS_AT_ONCE: Final = 100  # read and summed without a pause, about 4 ms
ROOMS_LISTED_MAX: Final = 100_000  # of an app in one partition; those silent longest go first
ROOMS_LISTED_S: Final = 15 * 86_400  # longer than any room's meta lives
OUTCOMES_MAX: Final = 100_000  # of an app; the oldest go first
OUTCOME_S: Final = 600  # who asks later than this has other means: the history, the ledger
OUTCOME_SHARDS: Final = 16  # parts of an app's outcomes, each in a place of its own in the store
OUTCOME_SAMPLE: Final = 1_024  # one in so many of the messages that nobody tracks, by their place on the log
# Policies and budgets
POLICIES_BYTES_MAX: Final = 65_536  # an app's, as JSON: they stand in every partition's log and in the store beside it
POLICY_TURNS_MAX: Final = 8  # changes of one app that overtake one another; then the caller is told to come back
POLICY_CHANGES_PER_S: Final = 1.0  # of an app: each is a record in every partition
POLICY_CHANGE_BURST: Final = 20
POLICIES_KEPT_MAX: Final = 64  # of an app and partition, above what the store was told is done; a second of burst each
POLICIES_LOOK_S: Final = 1.0
POLICY_COMPLETE_S: Final = 5.0  # a change that is not on all partitions so long after is completed by any sender
BUDGET_S: Final = 1.0  # one Budget record a partition and so long
BUDGET_ROOMS_MAX: Final = 1_000  # of one Budget record: 130 KB with every name at its longest

# Leases and routes
CHUNK_SLOTS: Final = 256
ID_NODES: Final = 1_024
LEASE_TTL_S: Final = 10.0
LEASE_RENEW_S: Final = 3.0
LEASE_TABLE_POLL_S: Final = 1.0
ROUTE_EXPIRES_AFTER_S: Final = 15.0  # of answered polls in which the lease was missing or expired
ATTACH_TIMEOUT_S: Final = 1.0  # then the subscribe is answered from history, Attached closes the hole later
ANNOUNCE_S: Final = 10.0
DETACH_AFTER_S: Final = 30.0
HOLE_FILL_TIMEOUT_S: Final = 1.0

# Gateway: room log, frames, sessions
RING_ENTRIES_MAX: Final = 1_024
RING_AGE_S_MAX: Final = 60.0
RING_BYTES_MAX: Final = 2 << 20  # 1,024 chat lines of 300 bytes, with what they take in memory besides
THINNED_MARK_MS: Final = 250  # so far apart a gateway remembers how much was thinned: a minute takes 60 KB a room
RINGS_BYTES_MAX: Final = 512 << 20  # all rings of a process
FRAME_BYTES_MAX: Final = 65_536
FRAME_MESSAGES_MAX: Final = 256
DEFLATE_FROM_BYTES: Final = 512  # a shared frame above that goes compressed to those who negotiated it
DEFLATE_LEVEL: Final = 5  # 9 saves 1 %, but 64 KB of two letters then take 130 ms instead of 3; docs/decisions/0013
SWEEP_FRAME_SESSIONS: Final = 1_000  # given one frame before those after them get a newer one: 4 to 10 ms of writing
SWEEP_WRITES_MAX: Final = 2_000  # then the loop gets a turn: reads, pongs, other rooms
SWEEP_SLICE_S: Final = 0.002
SWEEP_YIELDS: Final = 4  # iterations of the loop between two turns: a publish takes eight on its way to the room
MEMORY_MB_MIN: Final = 100  # of a process: an engine of all roles takes 75 before anybody comes
MEMORY_MB_MAX: Final = 1 << 20
DROPPABLE_AGE_S: Final = 2.0  # a session that was behind gets droppable publications only if younger
REPLAY_ENTRIES_MAX: Final = 1_024
REPLAY_BYTES_MAX: Final = 1 << 20
REPLY_BYTES_MAX: Final = 4 << 20  # one WebSocket message as a client reads it: a whole replay, escaped and wrapped
ACK_WINDOW: Final = 512
ROOMS_PER_SESSION_MAX: Final = 128
CONNECTIONS_PER_USER_MAX: Final = 20
USER_CONNECTS_PER_S: Final = 1.0  # of one user to one process, after USER_CONNECT_BURST: a client that flaps costs most
USER_CONNECT_BURST: Final = 40  # all devices of a user, twice
USER_CONNECTS_REMEMBERED: Final = 10_000  # users; one that flaps stays among the newest
COMMANDS_PER_S: Final = 50.0
FRAME_COMMANDS_MAX: Final = 256  # in one WebSocket message: connect, 128 subscribes and as much again
COMMANDS_BURST: Final = 150  # a page that subscribes to all its rooms in one frame is no flood
COMMAND_BYTES: Final = 4_096  # each as many of a message cost a command more: reading 64 KB may take 8 ms
COMMANDS_REFUSED_MAX: Final = 150  # in a row for coming too fast, then the session is closed (3013)
COMMANDS_WAITING_MAX: Final = 256  # behind one that waits for the log or the store; then 3013
PREPARES_AT_ONCE: Final = 16  # subscribes of one session that wait for the log or the store side by side
SESSION_ERRORS_MAX: Final = 100  # refusals for good in a row, then 3509; temporary ones are repeated by SDKs
WRITE_HIGH_WATER_BYTES: Final = 0  # what the kernel does not take makes a session wait: nothing is piled up for it here
WRITE_HARD_BYTES: Final = 1 << 20  # replies of a client that asks and does not read; then 3008
PAUSED_PONGS_MISSED_MAX: Final = 3  # looks in a row at a full socket that has taken nothing
EXPIRED_GRACE_S: Final = 25  # a token's end until the session is closed: the SDK refreshes at the end
HALF_OPEN_MAX: Final = 10_000  # connections that have not shown who they are
HALF_OPEN_PER_ADDRESS_MAX: Final = 4_096  # of them from one address; proxies have many clients behind one
UNSWEPT_MAX: Final = 8_192  # publications waiting for those in step: beyond it no more chunks are read
DESCRIPTORS_SPARE: Final = 128  # file descriptors kept from clients: for the log, the store, files, those being refused
CONNECTS_PER_S: Final = 2_500.0  # a return costs 0.2 ms of a core, 0.22 with a token: half of it is left for others
CONNECTS_PER_S_MAX: Final = 100_000.0  # as a setting: no bound at all
CONNECT_BURST: Final = 16  # let in at one look at the line, however late: the share of a busy loop that a herd has
CONNECT_WAIT_S_MAX: Final = 4.0  # in line; SDKs give up on a connection after 5 s
LISTENERS: Final = 32  # connections taken from the kernel in one turn of the loop, 20 µs each
HANDSHAKE_S: Final = 5.0
HTTP_REQUEST_S: Final = 15.0  # from the first byte of a request to its last; 8 MB of a batch come in less
CONNECT_S: Final = 10.0
HANDSHAKE_BYTES_MAX: Final = 16_384
PING_S: Final = 25.0
PONG_S: Final = 10.0
MESSAGE_FRAGMENTS_MAX: Final = 128
CLIENT_MESSAGE_BYTES_MAX: Final = 65_536  # one WebSocket message: a payload of 32 KB, escaped and wrapped
HISTORY_PAGE_MAX: Final = 1_000

# fanout shadow
SHADOW_RECORDS_MAX: Final = 5_000_000  # of the room, decided twice: about a minute of a core
SHADOW_STEPS_MAX: Final = 60  # columns of its plot: a terminal is 80 characters wide
SHADOW_SINCE_MS_MAX: Final = 7 * 86_400_000  # what the log keeps
SHADOW_QUIET_S_MAX: Final = 15.0  # without a record although the log has more; a reader replaces itself within 9 s

# Members
MEMBER_PAGE: Final = 100
MEMBER_PAGE_MAX: Final = 500
MEMBERS_PER_CALL_MAX: Final = 10_000
MEMBER_SHARDS: Final = 64

# Drain
DRAIN_WORKER_S: Final = 10.0
DRAIN_GATEWAY_S: Final = 10.0
DRAIN_S_MAX: Final = 600.0
