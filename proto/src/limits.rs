//! Every limit of the protocol, with its reason. What goes over one is an error of the peer that sent it.

use std::time::Duration;

/// Bytes of one HEAD or TRAILERS payload. Twice what common HTTP servers take for a request's fields, so that whatever
/// our own listener accepted still fits with the facts Ringway adds; small enough to hold for every open stream.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Fields in a head or a trailer section that a caller or an endpoint sends: more than any server sends by design, and
/// few enough that going through them is nothing.
pub const MESSAGE_FIELDS_MAX: usize = 256;

/// Fields in one head or one trailer section on the wire: those of a message, and room for what gateways add.
pub const HEADER_FIELDS_MAX: usize = MESSAGE_FIELDS_MAX + 32;

/// Gateways and sidecars that a flow may come through, as far as each tells the next: more go in circles. Two is usual, a
/// sidecar and a gateway.
pub const HOPS_MAX: u8 = 8;

/// Interim answers (RFC 9110, section 15.2) before the final one: a server has a few hints to give, and no stream of them.
pub const INTERIM_FRAMES_MAX: u8 = 16;

/// Bytes of a namespace, a service, a cluster, a region, a gateway id or an endpoint id on the wire: the length of a
/// DNS name (RFC 1035, section 2.3.4), of which each of ours is a part or a neighbour.
pub const NAME_BYTES_MAX: usize = 253;

/// Bytes that one DATA frame may announce. The payload is never buffered whole; the limit keeps the next frame (END,
/// or a reset that is worth noticing) within a bounded distance of the last.
pub const FRAME_DATA_BYTES_MAX: u64 = 1024 * 1024;

/// Bytes of frames of unknown kinds skipped on one stream. Room for what a later minor version adds beside an
/// exchange; a peer that sends more is not one version away, or keeps us reading for nothing.
pub const UNKNOWN_FRAME_BYTES_MAX: u64 = 64 * 1024;

/// Bytes of one message on the control stream (HELLO, GOAWAY). HELLO is read before the peer is believed.
pub const CONTROL_MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Services that one digest is made of: with the longest names it still fits a control message, with usual ones a few
/// packets, so that it holds up no GOAWAY.
pub const DIGEST_SERVICES_MAX: usize = 100;

/// Bytes of one message on a sync stream. It holds at most one record; a contract of 2000 members fits.
/// Decoding may need some thirty times that in memory, once per peer.
pub const SYNC_MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// Records mirrored of one peer. Ten times the largest mesh planned for; bounds what a hostile peer makes us keep.
pub const SYNC_RECORDS_PER_PEER_MAX: usize = 100_000;

/// Selectors in one WATCH: one for each namespace of a large cluster.
pub const SYNC_SELECTORS_MAX: usize = 1024;

/// Bytes of one message of a gateway on a lookup stream. Some thousand endpoints fit; of a service with more a sidecar
/// is told none, and leaves them to the gateway.
pub const LOOKUP_ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of one message of a sidecar on a lookup stream: a name, and room for what a later version says.
pub const LOOKUP_ASK_BYTES_MAX: usize = 1024;

/// Names that one sidecar may use at once: one workload calls a few dozen services.
pub const LOOKUP_NAMES_MAX: usize = 1024;

/// Endpoints of one service that a sidecar is told; as many as a manifest may declare.
pub const LOOKUP_ENDPOINTS_MAX: usize = 10_000;

/// Endpoints that one registrar may register: a workload serves a few services, a host's agent some dozens of instances.
pub const REGISTER_ENDPOINTS_MAX: usize = 64;

/// Ports of one registered endpoint: as many as a service may declare.
pub const REGISTER_PORTS_MAX: usize = 64;

/// Bytes of one message between a registrar and a gateway: as many endpoints as are allowed with the longest names and
/// a dozen ports each.
pub const REGISTER_MESSAGE_BYTES_MAX: usize = 128 * 1024;

/// Bytes of what a gateway of a linked cluster asks for at once: one manifest file as large as they may be. A few such
/// are in memory at once, of each peer.
pub const OBJECTS_ASK_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of the answer: all documents of the largest change, before and after, and what is to be said of them.
pub const OBJECTS_ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of the text that says for whom a linked cluster asks: it ends in a log line and beside each object.
pub const OPERATOR_BYTES_MAX: usize = 64;

/// Ports of one record: more than Kubernetes' users put in a Service by hand.
pub const RECORD_PORTS_MAX: usize = 256;

/// Members of one contract: more clusters than one full mesh of links can hold.
pub const CONTRACT_MEMBERS_MAX: usize = 1024;

/// Points on the ring of clusters of a member of the usual weight, 100: the base of `ring-v1`. The number is part of the
/// contract between clusters; it stands here so that points can be counted before there is a ring.
pub const RING_BASE: u32 = 160;

/// Points of the ring that one contract may ask for: 16 members of the largest weight, or 1,024 of a weight of 160. A
/// point costs some 20 bytes and 0.2 microseconds of a build, so this is 5 MB and 50 ms. It holds for our own manifests,
/// too: what we declare, every peer would have to hold.
pub const CONTRACT_POINTS_MAX: u64 = 1 << 18;

/// Bytes of one contract on the wire: three times what 256 members of usual names take.
pub const CONTRACT_BYTES_MAX: usize = 40 * 1024;

/// Bytes of one record on the wire, and so in a registry's store: the largest contract, and 256 ports.
pub const RECORD_BYTES_MAX: usize = 64 * 1024;

/// Tiers of one contract, and entries of one tier.
pub const CONTRACT_TIERS_MAX: usize = 64;

/// Sources of the key in one contract: every request may have to try all of them.
pub const CONTRACT_HASH_KEYS_MAX: usize = 16;

/// Bytes of the last catalog's file that are read back: the records of ten large peers.
pub const LAST_CATALOG_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Addresses in one HELLO, and in one list of gateways after it: every gateway of a large cluster, two families each.
pub const HELLO_ADDRESSES_MAX: usize = 64;

/// How long the handshake may take, and how long HELLO after it: several round trips around the world with loss.
pub const HELLO_WAIT: Duration = Duration::from_secs(5);

/// How long whoever has connected on a byte stream may say nothing: its first bytes follow the connect at once, and arrive
/// with it, or after one retransmission.
pub const FIRST_BYTES_WAIT: Duration = Duration::from_secs(1);

/// How long the first bytes of a peer's stream (its kind) may take after it was opened. Each such stream holds a slot.
pub const STREAM_KIND_WAIT: Duration = Duration::from_secs(5);

/// Streams that a peer may hold open at once on one tunnel: exchanges in flight, long polls included.
pub const STREAMS_MAX: u32 = 4096;

/// Bytes that one stream may have unread at the receiver, on every carrier. QUIC counts them when they are written, so it
/// is also what may be unacknowledged: larger windows let one stream gather more gaps than quinn allows.
pub const STREAM_UNREAD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes that all streams of one tunnel may have unread: a reader that stalls holds at most its stream's window, so that
/// 64 of them do not stop the others. What is held is copied out of the buffers that it came in, so that a tunnel on a
/// byte stream holds no more than a sixteenth above what it says; quinn up to two and a half times as much, and 32 KiB
/// for each stream with anything unread.
pub const TUNNEL_UNREAD_BYTES_MAX: usize = 64 * STREAM_UNREAD_BYTES_MAX;

/// What a tunnel may have unread before it is known whose it is: HELLO, and what follows at once.
pub const NEW_TUNNEL_UNREAD_BYTES_MAX: usize = 2 * STREAM_UNREAD_BYTES_MAX;

/// What a tunnel on QUIC may have unread however many others its peer has: one stream that stalls, and what passes it.
pub const TUNNEL_UNREAD_BYTES_LEAST: usize = 2 * STREAM_UNREAD_BYTES_MAX;

/// Bytes that a linked cluster may have unread here over all its tunnels on byte streams, and over all on QUIC: two whole
/// tunnels each, as many as a pair of gateways has. On byte streams it is exact. On QUIC each of n connections has a n-th
/// of it as its window, at most a whole one and at least [`TUNNEL_UNREAD_BYTES_LEAST`], which above 64 of them is more.
/// Credit that was granted is not taken back, so that whoever fills each window before it opens the next of its
/// [`PEER_TUNNELS_MAX`] tunnels comes to six times as much, where the windows of so many tunnels would add up to sixty
/// times.
pub const PEER_UNREAD_BYTES_MAX: usize = 2 * TUNNEL_UNREAD_BYTES_MAX;

/// Tunnels of one linked cluster to one gateway: of some forty gateways two on QUIC and one on TCP each, or of half as
/// many while their certificates are replaced.
pub const PEER_TUNNELS_MAX: usize = 128;

/// Bytes that the sidecars of one workload may have unread here over all their tunnels: some dozens of uploads that
/// stall.
pub const WORKLOAD_UNREAD_BYTES_MAX: usize = 32 * STREAM_UNREAD_BYTES_MAX;

/// Bytes of a probe datagram; far under the smallest path MTU of QUIC (1200 bytes).
pub const PROBE_BYTES: usize = 17;

/// Bytes of a stream in one frame of a tunnel on a byte stream: as much as one TLS record holds (RFC 8446, section 5.1),
/// and little enough that the next frame of another stream need not wait long.
pub const MUX_PAYLOAD_BYTES_MAX: usize = 16 * 1024;

/// What the smallest chunk takes of a window: about what it costs to keep, so that a flood of single bytes holds no more
/// memory than the windows say.
pub const MUX_CHUNK_COST_MIN: usize = 256;

/// Bytes of one datagram on a byte stream: what QUIC's smallest packet carries.
pub const MUX_DATAGRAM_BYTES_MAX: usize = 1200;

/// Answers of known length up to this are forwarded once complete, so that a cut does not reach the caller.
pub const SMALL_BODY_BYTES: usize = 16 * 1024;

/// Bytes after which a stream counts as bulk and gives way to small exchanges.
pub const BULK_AFTER_BYTES: u64 = 64 * 1024;

/// Bulk streams that one side of a tunnel sends on at once; one more waits a moment for one of them to end. Each may have
/// [`STREAM_UNREAD_BYTES_MAX`] under way, and all of them less than a tunnel keeps unacknowledged: small exchanges find room.
pub const BULK_STREAMS_MAX: usize = 12;

/// Request bodies up to this are kept whole, so that the request can be replayed.
pub const REPLAY_BODY_BYTES_MAX: usize = 64 * 1024;

/// Bytes of the reason in a GOAWAY or in the close of a connection that are shown: it ends in a log line.
pub const REASON_BYTES_MAX: usize = 256;

// What a linked peer may cost whose certificate is valid, and which is granted nothing. Counts alone bound no products
// and no rates, so each of these is a budget of one peer: what goes over it is skipped or waits, is counted and shown,
// and takes nothing from others. They are far above what a large mesh does (10,000 services), and low enough that a
// dozen hostile peers together leave a small machine working.

/// Bytes of all records of one peer, as they stand on the wire and in a store: 100,000 of 335 bytes, or 10,000 of 3 KiB.
/// An eighth of what an embedded store holds.
pub const PEER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Ports, members, entries of tiers and sources of keys of all records of one peer: ten each for as many records as are
/// mirrored. Each takes some 100 bytes of memory and may take as few as 4 on the wire.
pub const PEER_PARTS_MAX: usize = 10 * SYNC_RECORDS_PER_PEER_MAX;

/// Points of all different rings (members and seed) that one peer's records ask for: 80 MB, and a second of building.
/// 5,000 services with a seed of their own and five members each, or any number that share theirs.
pub const PEER_POINTS_MAX: u64 = 1 << 22;

/// What the smallest ring counts as among [`PEER_POINTS_MAX`]: four members of the usual weight. A contract without
/// members is placed on those who serve, and a ring costs something beside its points.
pub const RING_POINTS_MIN: u64 = 4 * RING_BASE as u64;

/// Records, and deletions, that are read of one peer in a second, once it has used up a burst of
/// [`SYNC_RECORDS_PER_PEER_MAX`]: a change of every service of a large cluster each ten seconds. Further ones wait on the
/// stream.
pub const SYNC_RECORDS_PER_SECOND: u32 = 1_000;

/// Bytes of events that are read of one peer in a second, once it has used up a burst of [`PEER_BYTES_MAX`]. Further ones
/// wait on the stream. Reading and decoding them costs about 10 ms.
pub const SYNC_BYTES_PER_SECOND: u32 = 1024 * 1024;

/// Sync streams of one peer that are answered at once, and how long it takes until another one is: two for each of the
/// gateways that may import, then two a second. Each may cost a snapshot of all that we export; further ones wait.
pub const SYNC_STREAMS_BURST: u32 = 32;
/// See [`SYNC_STREAMS_BURST`].
pub const SYNC_STREAM_EVERY: Duration = Duration::from_millis(500);

/// One record is written to our registry at most so often, after the first time; what changes meanwhile goes with the
/// next write. Nothing is served by what stands there while a gateway has a tunnel.
pub const RECORD_WRITE_EVERY: Duration = Duration::from_secs(10);

/// Writes and deletions of one peer's records in our registry that are made at once, and in a second after that: all
/// services of a large cluster, then its 100th part. Others wait their turn.
pub const PEER_WRITES_BURST: u32 = 10_000;
/// See [`PEER_WRITES_BURST`].
pub const PEER_WRITES_PER_SECOND: u32 = 100;

/// Bytes of one peer's records that are written to our registry in a second, once a burst of [`PEER_BYTES_MAX`] is used
/// up: an etcd of 2 GiB that forgets nothing lasts nine hours of the worst that a peer can do, and is nearly full then,
/// so that nothing of peers is written any more.
pub const PEER_WRITE_BYTES_PER_SECOND: u32 = 64 * 1024;

/// The words on one applied object that are written to our registry at once, and how long each takes to be allowed
/// again: peers make conditions come and go.
pub const STATUS_WRITES_BURST: u32 = 8;
/// See [`STATUS_WRITES_BURST`].
pub const STATUS_WRITE_EVERY: Duration = Duration::from_secs(10);

/// A peer's contract counts for so long without a word from the peer: longer than a restart, an upgrade or a usual
/// outage of a line, for which no key shall move. After that the others' contracts count, or none.
pub const CONTRACT_KEPT: Duration = Duration::from_secs(60 * 60);

/// How far a peer's generation may lie above the highest of the others who serve: nobody counts to four thousand
/// millions by hand, and whoever was outbid can still go above it. See `registry::union` for the times that people use.
pub const GENERATION_STEP_MAX: u64 = 1 << 32;

/// Gateways of one peer that are known at once, each with its tunnels: as many as it can tell addresses of.
pub const PEER_GATEWAYS_MAX: usize = HELLO_ADDRESSES_MAX;

/// How long a gateway of a peer is remembered, and shown, that has gone while others of it are there.
pub const GATEWAY_KEPT: Duration = Duration::from_secs(10 * 60);

/// What the gateways of a peer tell of their addresses is taken at most so often: the last word counts.
pub const TOLD_EVERY: Duration = Duration::from_secs(3);

/// Places that a peer tells, and that are not dialled yet, which are dialled at once, and how long each takes to be
/// allowed again: all of a list, then one a second. Who tells the same places, however often, never waits.
pub const TOLD_PLACES_BURST: u32 = HELLO_ADDRESSES_MAX as u32;
/// See [`TOLD_PLACES_BURST`].
pub const TOLD_PLACE_EVERY: Duration = Duration::from_secs(1);

/// Dials of told places that one cluster may have under way at once: every other one may hang for five seconds.
pub const TOLD_DIALS_MAX: usize = 16;
/// Those of all clusters.
pub const TOLD_DIALS_IN_ALL_MAX: usize = 64;

/// Dials of told places that begin at once, and in a second after that, of one cluster: eight gateways on three ways
/// each, then one for each. A dial in vain sends some 7 KB, so a third party gets at most 60 KB/s of it.
pub const TOLD_DIALS_BURST: u32 = 32;
/// See [`TOLD_DIALS_BURST`].
pub const TOLD_DIALS_PER_SECOND: u32 = 8;
/// Those of all clusters.
pub const TOLD_DIALS_IN_ALL_BURST: u32 = 256;
/// See [`TOLD_DIALS_IN_ALL_BURST`].
pub const TOLD_DIALS_IN_ALL_PER_SECOND: u32 = 64;

/// Told sockets whose pace of dialling is remembered for one cluster, under whatever name or id they come again.
pub const TOLD_PACES_MAX: usize = 1024;

/// How long such a pace is remembered after the last dial.
pub const TOLD_PACE_KEPT: Duration = Duration::from_secs(5 * 60);

/// A peer that went over a budget is shown as such for so long after the last time.
pub const OVER_BUDGET_SHOWN: Duration = Duration::from_secs(60);
/// Bytes of any other text of somebody else that are shown, such as the name of what is refused, or an error of the
/// registry's store: a sentence with an identity in it fits. It ends in a log line, too.
pub const QUOTED_BYTES_MAX: usize = 1024;
