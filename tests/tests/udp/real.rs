//! Clients and servers that were not written here, each through a gateway and through a sidecar.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::manifest::{listener, object};
use e2e::process::{Process, Said, root, run, target};
use e2e::wait::SOON;
use e2e::wait_until;
use e2e::ways::{Form, each_way};

use super::address;

/// What a client of another's may take.
const CLIENT_MAX: Duration = Duration::from_secs(120);

/// Runs a client to its end.
fn client(program: &Path, args: &[&str]) -> Said {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    run(command, CLIENT_MAX)
}

mod with_dnsmasq {
    use super::*;

    #[test]
    fn dig_resolves() {
        let (dir, at) = (tempfile::tempdir().unwrap(), address());
        let mut server = Command::new("/usr/sbin/dnsmasq");
        server.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-hosts",
            "--no-resolv",
            "--bind-interfaces",
        ]);
        server.args([
            "--listen-address=127.0.0.1",
            "--address=/cart.example/192.0.2.7",
            "--user=",
            "--pid-file=",
        ]);
        server.arg(format!("--port={}", at.port()));
        let dnsmasq = Process::start("dnsmasq", server, &dir.path().join("log"));
        each_way(&Form::of("udp", at), |way| {
            let port = way.port().to_string();
            wait_until("an address", SOON, || {
                dnsmasq.assert_running();
                let args =
                    ["@127.0.0.1", "-p", &port, "+short", "+tries=1", "+time=2", "x.cart.example", "A"];
                (client(Path::new("dig"), &args).out.trim() == "192.0.2.7").then_some(())
            });
        });
    }
}

mod with_iperf3 {
    use super::*;

    /// It talks on TCP of the same port about what it sends on UDP.
    #[test]
    fn datagrams_go_both_ways() {
        let (dir, at) = (tempfile::tempdir().unwrap(), address());
        let mut server = Command::new("iperf3");
        server.args(["-s", "-B", "127.0.0.1", "-p", &at.port().to_string()]);
        let iperf = Process::start("iperf3", server, &dir.path().join("log"));
        wait_until("iperf3 listens", SOON, || {
            iperf.assert_running();
            std::net::TcpStream::connect(at).ok()
        });
        let ports = "[{ name: talk, port: 1, protocol: tcp }, { name: data, port: 2, protocol: udp }]";
        let endpoint = format!("{{ id: a, host: 127.0.0.1, ports: {{ talk: {0}, data: {0} }} }}", at.port());
        let spec = format!("ports: {ports}\n  endpoints: [{endpoint}]\n  export: {{ to: [\"*\"] }}");
        let form = Form {
            name: "shop/iperf".into(),
            service: object("MeshService", "iperf, namespace: shop", &spec),
            listens: Box::new(|at| {
                [("talk", "tcp"), ("data", "udp")]
                    .map(|(name, protocol)| {
                        let leads = format!("protocol: {protocol}\n  service: iperf");
                        listener(name, &at.to_string(), &leads)
                    })
                    .into()
            }),
        };
        each_way(&form, both_ways);
    }

    fn both_ways(way: SocketAddr) {
        let port = way.port().to_string();
        for direction in [&[][..], &["-R"]] {
            let args = [
                &["-c", "127.0.0.1", "-p", &port, "-u", "-b", "20M", "-l", "1000", "-t", "1", "-J"][..],
                direction,
            ]
            .concat();
            let said = client(Path::new("iperf3"), &args);
            assert_eq!(said.code, Some(0), "{said:?}");
            let report: serde_json::Value = serde_json::from_str(&said.out).unwrap();
            let sum = &report["end"]["sum"];
            assert!(sum["packets"].as_f64().unwrap() > 1000.0, "{said:?}");
            assert!(sum["lost_percent"].as_f64().unwrap() < 20.0, "{said:?}");
        }
    }
}

mod with_aioquic {
    use super::*;

    fn python() -> PathBuf {
        let python = target().join("clients-venv/bin/python");
        assert!(python.is_file(), "{} is missing: `tests/run` makes it", python.display());
        python
    }

    #[test]
    fn http3_crosses_as_datagrams() {
        let (dir, at) = (tempfile::tempdir().unwrap(), address());
        let made = rcgen::generate_simple_self_signed(["cart.example".to_owned()]).unwrap();
        let (cert, key) = (dir.path().join("crt"), dir.path().join("key"));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let script = root().join("tests/clients/http3.py");
        let mut server = Command::new(python());
        server.arg(&script).args(["serve", &at.port().to_string()]).arg(&cert).arg(&key);
        let server = Process::start("aioquic", server, &dir.path().join("log"));
        let (script, cert) = (script.to_str().unwrap(), cert.to_str().unwrap());
        each_way(&Form::of("udp", at), |way| {
            wait_until("an answer of HTTP/3", SOON, || {
                server.assert_running();
                let said = client(&python(), &[script, "ask", &way.port().to_string(), cert]);
                (said.code == Some(0)).then_some(()).or_else(|| {
                    println!("{}", said.err);
                    None
                })
            });
        });
    }
}
