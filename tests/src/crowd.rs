//! A crowd of sidecars, all of one workload: each has a tunnel to a gateway, asks what names mean, and listens.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use proto::control::Hello;
use proto::limits::{CONTROL_MESSAGE_BYTES_MAX, LOOKUP_ANSWER_BYTES_MAX};
use proto::lookup::{Answer, Ask, ask};
use proto::message::encode_message;
use proto::stream::StreamKind;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::hostile::Carrier;
use crate::hostile::stream::Connection;
use crate::peer::{hello, runtime};

/// Tunnels that are being made at once.
const AT_ONCE: usize = 16;

/// A crowd. Dropping it ends all of it without a word.
#[derive(Debug)]
pub struct Crowd {
    _runtime: Arc<Runtime>,
    _tunnels: Vec<Connection>,
}

impl Crowd {
    /// So many sidecars of the identity in `dir`, with tunnels on TCP to the gateway of the cluster `target`. Each has
    /// asked for all `names` and was answered.
    ///
    /// # Errors
    /// When one of them has no tunnel or no answer.
    pub fn gather(
        dir: &Path,
        target: (&str, SocketAddr),
        count: usize,
        names: &[String],
    ) -> Result<Self, String> {
        let runtime = runtime()?;
        let names: Arc<[String]> = names.into();
        let tunnels = runtime.block_on(async {
            let (mut joining, mut tunnels) = (JoinSet::new(), Vec::new());
            for n in 0..count {
                if joining.len() >= AT_ONCE {
                    joined(&mut joining, &mut tunnels).await?;
                }
                let (dir, cluster) = (dir.to_owned(), target.0.to_owned());
                let hello = Hello {
                    gateway: format!("sidecar-{n}"),
                    region: String::new(),
                    ..hello(target.0, [0; 16])
                };
                joining.spawn(join(dir, cluster, target.1, hello, names.clone()));
            }
            while !joining.is_empty() {
                joined(&mut joining, &mut tunnels).await?;
            }
            Ok::<_, String>(tunnels)
        })?;
        Ok(Self { _runtime: runtime, _tunnels: tunnels })
    }
}

async fn joined(
    joining: &mut JoinSet<Result<Connection, String>>,
    tunnels: &mut Vec<Connection>,
) -> Result<(), String> {
    if let Some(joined) = joining.join_next().await {
        tunnels.push(joined.map_err(|e| e.to_string())??);
    }
    Ok(())
}

async fn join(
    dir: std::path::PathBuf,
    cluster: String,
    address: SocketAddr,
    hello: Hello,
    names: Arc<[String]>,
) -> Result<Connection, String> {
    let (connection, _) = Connection::shake(&dir, (&cluster, address), Carrier::Tcp).await?;
    let (mut send, mut receive) = connection.open().await?;
    let mut first = vec![StreamKind::Control.to_wire()];
    first.extend(encode_message(&hello));
    send.write(first.into()).await?;
    let theirs = receive.message::<Hello>(CONTROL_MESSAGE_BYTES_MAX).await;
    theirs.map_err(|e| format!("no HELLO: {e}, {:?}", connection.ended()))?;
    let (mut ask_on, mut answers) = connection.open().await?;
    ask_on.write(vec![StreamKind::Lookup.to_wire()].into()).await?;
    for name in names.iter() {
        ask_on.say(&Ask { kind: Some(ask::Kind::Use(name.clone())) }).await?;
    }
    for _ in names.iter() {
        let answer = answers.message::<Answer>(LOOKUP_ANSWER_BYTES_MAX).await;
        let answer = answer.map_err(|e| format!("no answer: {e}, {:?}", connection.ended()))?;
        answer.and_then(|answer| answer.meaning).ok_or("a name that means nothing")?;
    }
    tokio::spawn(async move {
        let _held = (send, ask_on);
        let control = async { while let Ok(Some(_)) = receive.read().await {} };
        let lookup = async { while let Ok(Some(_)) = answers.read().await {} };
        tokio::join!(control, lookup);
    });
    Ok(connection)
}
