//! Somebody without any certificate, who reaches the port of the tunnels.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};

use rustls::Side;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::quic::Version;
use socket2::{Domain, Socket, Type};

/// The size of a first datagram (RFC 9000, section 14.1).
const DATAGRAM_BYTES: usize = 1200;
/// An Initial packet with a packet number of four bytes (RFC 9000, section 17.2.2).
const INITIAL: u8 = 0xc3;
const PACKET_NUMBER: [u8; 4] = [0; 4];
const TAG_BYTES: usize = 16;
/// Frames: CONNECTION_CLOSE of QUIC itself, CRYPTO and PING (RFC 9000, section 19).
const CLOSE: u8 = 0x1c;
const PING: u8 = 0x01;
const CRYPTO: u8 = 0x06;
const INTERNAL_ERROR: u8 = 0x01;

/// Sends one QUIC packet that opens a connection and closes it for this reason.
///
/// # Panics
/// When it cannot be made or sent; a reason of more than 63 bytes does not fit what is written here.
pub fn close_quic(to: SocketAddr, reason: &str) {
    let length = u8::try_from(reason.len()).ok().filter(|length| *length < 64);
    let length = length.expect("a length that one byte holds (RFC 9000, section 16)");
    let mut frames = vec![CLOSE, INTERNAL_ERROR, CRYPTO, length];
    frames.extend_from_slice(reason.as_bytes());
    send(to, &initial(*b"stranger", &frames));
}

/// Sends one QUIC packet that opens a connection of this id, on which nothing more ever comes.
///
/// # Panics
/// When it cannot be made or sent.
pub fn open_quic(to: SocketAddr, id: u64) {
    send(to, &initial(id.to_be_bytes(), &[PING]));
}

fn send(to: SocketAddr, packet: &[u8]) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    socket.send_to(packet, to).expect("loopback takes a datagram");
}

/// A first packet with these frames.
fn initial(id: [u8; 8], frames: &[u8]) -> Vec<u8> {
    let mut packet = vec![INITIAL, 0, 0, 0, 1];
    for id in [id, id] {
        packet.push(id.len() as u8);
        packet.extend_from_slice(&id);
    }
    // No token. The rest of the datagram is this packet, padded.
    packet.push(0);
    let rest = DATAGRAM_BYTES - packet.len() - 2;
    packet.extend_from_slice(&(0x4000 | rest as u16).to_be_bytes());
    let at = packet.len();
    packet.extend_from_slice(&PACKET_NUMBER);
    let mut payload = frames.to_vec();
    payload.resize(rest - PACKET_NUMBER.len() - TAG_BYTES, 0);

    let suite = TLS13_AES_128_GCM_SHA256.tls13().and_then(|suite| suite.quic_suite());
    let keys = suite.expect("the suite of Initial packets").keys(&id, Side::Client, Version::V1).local;
    let tag = keys.packet.encrypt_in_place(0, &packet, &mut payload).expect("keys that encrypt");
    packet.extend_from_slice(&payload);
    packet.extend_from_slice(tag.as_ref());
    // The header is protected by what lies four bytes behind the start of its number (RFC 9001, section 5.4.2).
    let (header, sealed) = packet.split_at_mut(at + PACKET_NUMBER.len());
    let (first, number) = header.split_at_mut(at);
    let sample = &sealed[..keys.header.sample_len()];
    keys.header.encrypt_in_place(sample, &mut first[0], number).expect("keys that protect");
    packet
}

/// Connects on TCP from an address of this host and says nothing. None: the system refuses.
pub fn silent(from: IpAddr, to: SocketAddr) -> Option<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).ok()?;
    socket.bind(&SocketAddr::from((from, 0)).into()).ok()?;
    socket.connect(&to.into()).ok()?;
    Some(socket.into())
}

/// The same after the first bytes of a TLS handshake, which never goes on.
pub fn half_a_handshake(from: IpAddr, to: SocketAddr) -> Option<TcpStream> {
    let mut stream = silent(from, to)?;
    // A record of a handshake, of which 512 bytes are announced.
    stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0]).ok()?;
    Some(stream)
}
