//! That something has changed which others follow: the view, how a peer is or what it tells, how an endpoint is.
//!
//! One signal for the process. It says that there is news, not which: whoever follows looks at what it needs, once,
//! however often it was told meanwhile. Where nothing changes nobody is woken, and nothing is looked at.

use tokio::sync::watch;

/// Where news is told. Clones tell the same followers.
#[derive(Clone, Debug, Default)]
pub struct News(watch::Sender<()>);

/// One who follows it.
#[derive(Debug)]
pub struct Follower(watch::Receiver<()>);

impl News {
    /// Wakes everyone who follows. Cheap, but not free: for changes of state, not for requests.
    pub fn tell(&self) {
        self.0.send_replace(());
    }

    /// Hears of everything that is told from now on.
    pub fn follow(&self) -> Follower {
        Follower(self.0.subscribe())
    }
}

impl Follower {
    /// Waits until something was told since the last call, or since it follows. Cancel safe.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody is left who could tell.
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn hears(follower: &mut Follower) -> bool {
        tokio::select! {
            biased;
            () = follower.changed() => true,
            () = std::future::ready(()) => false,
        }
    }

    #[tokio::test]
    async fn what_is_told_is_heard_once_by_each_and_never_missed() {
        let news = News::default();
        news.tell();
        let (mut first, mut second) = (news.follow(), news.follow());
        assert!(!hears(&mut first).await, "what was told before is no news");
        news.clone().tell();
        news.tell();
        assert!(hears(&mut first).await && hears(&mut second).await);
        assert!(!hears(&mut first).await && !hears(&mut second).await, "told twice, looked at once");
    }
}
