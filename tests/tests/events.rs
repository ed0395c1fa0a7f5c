//! Server-sent events, with a server and a client that were not written here: they come as they are sent, end clearly with the
//! gateway that carries them, and go on elsewhere.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Lines};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};

use e2e::manifest::service;
use e2e::pair::CART;
use e2e::port::free_port;
use e2e::process::{Process, root};
use e2e::wait::SOON;
use e2e::wait_until;
use e2e::ways::{Form, Loss, Ways};

mod with_curl {
    use super::*;

    /// Events of six seconds.
    const ENOUGH: u64 = 300;

    /// A client that listens to events.
    struct Listening {
        curl: Child,
        lines: Lines<BufReader<ChildStdout>>,
    }

    impl Listening {
        /// At `at`, after the event `last`.
        fn start(at: SocketAddr, version: &str, last: u64) -> Self {
            let mut curl = Command::new("curl");
            curl.args(["-sSN", version, "-H", &format!("host: {CART}"), "-H", "accept: text/event-stream"]);
            curl.args(["-H", &format!("last-event-id: {last}"), &format!("http://{at}/")]);
            let mut curl = curl.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
            let lines = BufReader::new(curl.stdout.take().unwrap()).lines();
            Self { curl, lines }
        }

        /// The number of the next event; none: they have ended.
        fn next(&mut self) -> Option<u64> {
            self.lines.by_ref().find_map(|line| line.ok()?.strip_prefix("id: ")?.parse().ok())
        }
    }

    impl Drop for Listening {
        fn drop(&mut self) {
            let _ = self.curl.kill();
            let _ = self.curl.wait();
        }
    }

    #[test]
    fn events_come_as_they_are_sent_and_go_on_elsewhere_when_a_gateway_is_lost() {
        for blocked in [false, true] {
            listen_to_events(blocked);
        }
    }

    /// Where UDP is blocked, or is not.
    fn listen_to_events(blocked: bool) {
        let dir = tempfile::tempdir().unwrap();
        let source = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut server = Command::new("python3");
        server.arg(root().join("tests/clients/events_server.py")).arg(source.port().to_string());
        let _server = Process::start("events", server, &dir.path().join("events.log"));
        wait_until("the source of events listens", SOON, || TcpStream::connect(source).ok());
        let form = Form::of_http(service("cart", &[("a", source)]));
        let mut ways = Ways::new(&form, blocked);
        let (_sidecar, beside) = ways.sidecar(&form);
        let from = [ways.at, beside];
        let versions = ["--http1.1", "--http2-prior-knowledge"];
        // Enough that each cluster serves some.
        let all = (0..6).flat_map(|_| from.into_iter().flat_map(|at| versions.map(|version| (at, version))));
        let mut listening: Vec<_> =
            all.map(|(at, version)| (at, version, Listening::start(at, version, 0))).collect();
        for (.., events) in &mut listening {
            for number in 1..=10 {
                assert_eq!(events.next(), Some(number), "none is missing, and none waits for others");
            }
        }
        ways.lose_east(Loss::Killed);
        let mut moved = 0;
        for (at, version, events) in &mut listening {
            let mut last = 10;
            // Far more than there were when it was lost, or to their end.
            while last < ENOUGH
                && let Some(number) = events.next()
            {
                assert_eq!(number, last + 1);
                last = number;
            }
            if last == ENOUGH {
                continue;
            }
            assert!(!events.curl.wait().unwrap().success(), "an end that is none is told from one");
            moved += 1;
            let mut again = Listening::start(*at, version, last);
            assert_eq!(again.next(), Some(last + 1));
        }
        assert!((1..24).contains(&moved), "{moved} of 24 were at east");
    }
}
