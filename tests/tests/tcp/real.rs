//! Clients and servers that were not written here, each through a gateway and through a sidecar.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::process::{Process, Said, run};
use e2e::wait::SOON;
use e2e::wait_until;
use e2e::ways::{self, Form};

use super::{World, address};

/// What a client of another's may take.
const CLIENT_MAX: Duration = Duration::from_secs(120);

/// Starts a server and waits until it accepts connections.
fn serve(name: &str, command: Command, log: &Path, at: SocketAddr) -> Process {
    let process = Process::start(name, command, log);
    wait_until(&format!("{name} listens"), SOON, || {
        process.assert_running();
        std::net::TcpStream::connect(at).ok()
    });
    process
}

/// Runs a client to its end, which must be a good one.
fn client(program: &Path, args: &[&str]) -> Said {
    let mut command = Command::new(program);
    command.args(args).stdin(std::process::Stdio::null());
    let said = run(command, CLIENT_MAX);
    assert_eq!(said.code, Some(0), "{program:?} {args:?}: {said:?}");
    said
}

/// Tries every way to the endpoint at `at`, which two clusters serve.
fn each_way(at: SocketAddr, try_at: impl Fn(SocketAddr)) {
    ways::each_way(&Form::of("tcp", at), try_at);
}

mod with_postgres {
    use super::*;

    /// The folder of the programs, newest version last.
    fn programs() -> PathBuf {
        let all = std::fs::read_dir("/usr/lib/postgresql").expect("`tests/run` installs it");
        let mut all: Vec<_> = all.flatten().map(|entry| entry.path()).collect();
        all.sort();
        all.pop().expect("a version").join("bin")
    }

    /// A command that does not run as root, which this server refuses to.
    fn as_nobody(program: &Path) -> Command {
        let mut command = Command::new(program);
        if nix::unistd::geteuid().is_root() {
            command.uid(65_534).gid(65_534);
        }
        command
    }

    #[test]
    fn psql_and_pgbench_work_as_without_us() {
        let (dir, at) = (tempfile::tempdir().unwrap(), address());
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(dir.path(), Some(65_534), Some(65_534)).unwrap();
            std::os::unix::fs::chown(&data, Some(65_534), Some(65_534)).unwrap();
        }
        let programs = programs();
        let mut initdb = as_nobody(&programs.join("initdb"));
        initdb
            .arg("-D")
            .arg(&data)
            .args(["-A", "trust", "-U", "tester", "--no-sync"])
            .current_dir(dir.path());
        let made = run(initdb, CLIENT_MAX);
        assert_eq!(made.code, Some(0), "{made:?}");
        let mut postgres = as_nobody(&programs.join("postgres"));
        let (host, port) = (at.ip().to_string(), at.port().to_string());
        postgres.arg("-D").arg(&data).arg("-k").arg(dir.path()).args(["-h", &host, "-p", &port, "-F"]);
        postgres.current_dir(dir.path());
        let _postgres = serve("postgres", postgres, &dir.path().join("log"), at);
        each_way(at, |way| {
            let port = way.port().to_string();
            let at = ["-h", "127.0.0.1", "-p", &port, "-U", "tester"];
            let with = |args: &[&'static str]| [&at[..], args].concat();
            let psql = programs.join("psql");
            // It may not be ready for sessions when it listens.
            wait_until("a session", SOON, || {
                let mut command = Command::new(&psql);
                command.args(with(&["-c", "select 1", "postgres"]));
                (run(command, CLIENT_MAX).code == Some(0)).then_some(())
            });
            let said = client(
                &psql,
                &with(&["-Atc", "select sum(n) from generate_series(1, 100000) n", "postgres"]),
            );
            assert_eq!(said.out.trim(), "5000050000");
            client(&programs.join("pgbench"), &with(&["-i", "-q", "-s", "1", "postgres"]));
            let said =
                client(&programs.join("pgbench"), &with(&["-c", "8", "-j", "2", "-T", "2", "postgres"]));
            assert!(said.out.contains("number of failed transactions: 0"), "{said:?}");
        });

        // A session that the loss of its gateway ends.
        let mut world = World::at(at);
        let mut sleeps = Command::new(programs.join("psql"));
        sleeps.args(["-h", "127.0.0.1", "-p", &world.at.port().to_string(), "-U", "tester"]);
        sleeps.args(["-c", "select pg_sleep(300)", "postgres"]);
        let log = dir.path().join("psql.log");
        let mut sleeps = Process::start("psql", sleeps, &log);
        let asks =
            "select count(*) from pg_stat_activity where query = 'select pg_sleep(300)' and state = 'active'";
        wait_until("it sleeps", SOON, || {
            let args = ["-h", "127.0.0.1", "-p", &port, "-U", "tester", "-Atc", asks, "postgres"];
            (client(&programs.join("psql"), &args).out.trim() == "1").then_some(())
        });
        world.east.process.kill();
        assert!(!sleeps.wait_end().success());
        let said = sleeps.log();
        assert!(said.contains("connection") && said.contains("lost"), "{said}");
    }
}

mod with_redis {
    use super::*;

    #[test]
    fn redis_cli_and_redis_benchmark_work_as_without_us() {
        let (dir, at) = (tempfile::tempdir().unwrap(), address());
        let mut server = Command::new("redis-server");
        server.args([
            "--bind",
            "127.0.0.1",
            "--port",
            &at.port().to_string(),
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        server.current_dir(dir.path());
        let _redis = serve("redis", server, &dir.path().join("log"), at);
        each_way(at, |way| {
            let port = way.port().to_string();
            let said = client(Path::new("redis-cli"), &["-p", &port, "set", "key", "value"]);
            assert_eq!(said.out.trim(), "OK");
            let said = client(Path::new("redis-cli"), &["-p", &port, "get", "key"]);
            assert_eq!(said.out.trim(), "value");
            let args =
                ["-p", &port, "-t", "get,set", "-n", "5000", "-c", "30", "-P", "8", "-q", "-d", "2000"];
            let said = client(Path::new("redis-benchmark"), &args);
            assert_eq!(said.out.matches("requests per second").count(), 2, "{said:?}");
        });
    }
}

mod with_mariadb {
    use super::*;

    /// Its server greets first, and its clients wait for that.
    #[test]
    fn mariadb_and_mariadb_slap_work_as_without_us() {
        let (dir, at) = (tempfile::tempdir().unwrap(), address());
        let data = format!("--datadir={}", dir.path().join("data").display());
        let user = format!("--user={}", std::env::var("USER").unwrap_or_else(|_| "root".into()));
        let install = ["--no-defaults", &data, "--auth-root-authentication-method=normal", &user];
        client(Path::new("mariadb-install-db"), &install);
        let mut server = Command::new("/usr/sbin/mariadbd");
        server.args(["--no-defaults", &data, &user, "--bind-address=127.0.0.1", "--port"]);
        server.arg(at.port().to_string());
        server.arg(format!("--socket={}", dir.path().join("socket").display()));
        server.arg(format!("--pid-file={}", dir.path().join("pid").display()));
        let _mariadb = serve("mariadb", server, &dir.path().join("log"), at);
        each_way(at, |way| {
            let port = format!("--port={}", way.port());
            let with = |args: &[&'static str]| {
                [&["--no-defaults", "--host=127.0.0.1", &port, "--user=root"][..], args].concat()
            };
            let sum = with(&["-Bse", "select sum(seq) from seq_1_to_100000", "mysql"]);
            assert_eq!(client(Path::new("mariadb"), &sum).out.trim(), "5000050000");
            let load = with(&["--auto-generate-sql", "--concurrency=8", "--number-of-queries=400"]);
            client(Path::new("mariadb-slap"), &load);
        });
    }
}

mod with_ssh {
    use super::*;

    #[test]
    fn a_server_that_speaks_first_shows_its_keys() {
        let (dir, at) = (tempfile::tempdir().unwrap(), address());
        let key = dir.path().join("key");
        let key = key.to_str().unwrap();
        client(Path::new("ssh-keygen"), &["-q", "-t", "ed25519", "-N", "", "-f", key]);
        // As root it wants an empty folder of its own.
        let _ = std::fs::create_dir("/run/sshd");
        let mut server = Command::new("/usr/sbin/sshd");
        server.args(["-D", "-e", "-f", "/dev/null", "-h", key, "-o", "ListenAddress=127.0.0.1", "-p"]);
        server.arg(at.port().to_string());
        let _sshd = serve("sshd", server, &dir.path().join("log"), at);
        let public = std::fs::read_to_string(dir.path().join("key.pub")).unwrap();
        let public = public.split_whitespace().nth(1).unwrap().to_owned();
        each_way(at, |way| {
            let said = client(
                Path::new("ssh-keyscan"),
                &["-t", "ed25519", "-p", &way.port().to_string(), "127.0.0.1"],
            );
            assert!(said.out.contains(&public), "{said:?}");
        });
    }
}

mod with_iperf3 {
    use super::*;

    #[test]
    fn much_goes_both_ways() {
        let (dir, at) = (tempfile::tempdir().unwrap(), address());
        let mut server = Command::new("iperf3");
        server.args(["-s", "-B", "127.0.0.1", "-p", &at.port().to_string()]);
        let _iperf = serve("iperf3", server, &dir.path().join("log"), at);
        each_way(at, |way| {
            let port = way.port().to_string();
            for direction in [&[][..], &["-R"], &["--bidir"], &["-P", "4"]] {
                let args = [&["-c", "127.0.0.1", "-p", &port, "-t", "1", "-J"][..], direction].concat();
                // It serves one after the other, and says so meanwhile.
                let moved = wait_until("iperf3 has run", SOON, || {
                    let mut command = Command::new("iperf3");
                    command.args(&args).stdin(std::process::Stdio::null());
                    let said = run(command, CLIENT_MAX);
                    let report: serde_json::Value = serde_json::from_str(&said.out).unwrap();
                    let busy = report["error"].as_str().is_some_and(|error| error.contains("busy"));
                    assert!(busy || said.code == Some(0), "{direction:?}: {said:?}");
                    let ways = ["sum_received", "sum_received_bidir_reverse"];
                    let moved: Vec<_> =
                        ways.iter().filter_map(|way| report["end"][way]["bytes"].as_f64()).collect();
                    // It tells its connections apart by the order in which its server accepts them, and where they are
                    // opened at once no proxy promises that. Crossed, each is written to, or read, by both sides.
                    let crossed = moved.len() == 2 && moved.iter().all(|bytes| *bytes == 0.0);
                    (!moved.is_empty() && !crossed).then_some(moved)
                });
                assert!(moved.iter().all(|bytes| *bytes > 1e6), "{direction:?}: {moved:?} bytes");
            }
        });
    }
}

mod with_nginx {
    use super::*;

    /// TLS of the server's own, which we pass on as it is, for two names with a certificate each.
    #[test]
    fn curl_reaches_by_name_what_only_the_server_can_open() {
        let (dir, at) = (tempfile::tempdir().unwrap(), address());
        let names = ["one.example", "two.example"];
        let mut servers = String::new();
        let mut roots = String::new();
        for name in names {
            let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
            let (cert, key) =
                (dir.path().join(format!("{name}.crt")), dir.path().join(format!("{name}.key")));
            std::fs::write(&cert, made.cert.pem()).unwrap();
            std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
            roots += &made.cert.pem();
            servers += &format!(
                "server {{ listen {at} ssl http2; server_name {name}; ssl_certificate {}; ssl_certificate_key {};\n\
                 location / {{ return 200 \"$ssl_server_name\\n\"; }} }}\n",
                cert.display(),
                key.display()
            );
        }
        let roots_file = dir.path().join("roots.pem");
        std::fs::write(&roots_file, roots).unwrap();
        let folder = dir.path().display();
        let conf = format!(
            "daemon off; pid {folder}/pid; error_log stderr;\nevents {{}}\nhttp {{ access_log off;\n\
             client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;\n\
             uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n{servers}}}\n"
        );
        std::fs::write(dir.path().join("nginx.conf"), conf).unwrap();
        let mut server = Command::new("/usr/sbin/nginx");
        server.arg("-e").arg("stderr").arg("-c").arg(dir.path().join("nginx.conf"));
        let _nginx = serve("nginx", server, &dir.path().join("log"), at);
        let roots = roots_file.display().to_string();
        let leads =
            "protocol: tls\n  names: { one.example: { service: web }, \"*.example\": { service: web } }";
        let form = Form {
            name: "shop/web".into(),
            service: e2e::manifest::of_connections("web", "tls", &[("a", at)], ""),
            listens: Box::new(move |at| vec![e2e::manifest::listener("web", &at.to_string(), leads)]),
        };
        ways::each_way(&form, |way| {
            for name in names {
                let (to, url) = (format!("{name}:443:{way}"), format!("https://{name}/"));
                let said = e2e::curl::curl(&["--connect-to", &to, "--cacert", &roots, "--http2", &url]);
                assert_eq!((said.code, said.out.trim()), (Some(0), name), "{said:?}");
            }
            let to = format!("x.test:443:{way}");
            let refused = e2e::curl::curl(&["--connect-to", &to, "-k", "https://x.test/"]);
            assert_eq!(refused.code, Some(35), "{refused:?}");
        });
    }
}
