//! What one process at a time may have, and lends to the one that takes over from it.

use tokio::sync::watch;

/// Whoever lends it.
#[derive(Debug)]
pub struct Lender {
    wanted: watch::Sender<bool>,
    held: watch::Receiver<bool>,
}

/// The task that has it.
#[derive(Debug)]
pub struct Holder {
    wanted: watch::Receiver<bool>,
    held: watch::Sender<bool>,
}

/// Both ends; the holder has it.
pub fn lent() -> (Lender, Holder) {
    let (wanted, is_wanted) = watch::channel(true);
    let (held, is_held) = watch::channel(true);
    (Lender { wanted, held: is_held }, Holder { wanted: is_wanted, held })
}

impl Lender {
    /// Returns once the holder has let go of it, or has ended.
    pub async fn lend(&mut self) {
        self.wanted.send_replace(false);
        // A holder that has ended holds nothing.
        let _ = self.held.wait_for(|held| !held).await;
    }

    /// The holder is to have it again.
    pub fn take_back(&self) {
        self.wanted.send_replace(true);
    }
}

impl Holder {
    /// Waits until it is to be lent; for ever, if nobody lends. Cancel safe.
    pub async fn asked(&mut self) {
        if self.wanted.wait_for(|wanted| !wanted).await.is_err() {
            std::future::pending().await
        }
    }

    /// It is let go of. Returns once it is to be held again; for ever if nobody asks for that. Cancel safe: it is not held
    /// then.
    pub async fn let_go(&mut self) {
        self.held.send_replace(false);
        if self.wanted.wait_for(|wanted| *wanted).await.is_err() {
            std::future::pending::<()>().await;
        }
        self.held.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_lent_once_its_holder_has_let_go_and_held_again() {
        let (mut lender, mut holder) = lent();
        let task = tokio::spawn(async move {
            let mut lent = 0;
            while lent < 2 {
                holder.asked().await;
                lent += 1;
                holder.let_go().await;
            }
        });
        for _ in 0..2 {
            lender.lend().await;
            assert!(!*lender.held.borrow());
            lender.take_back();
        }
        lender.lend().await;
        task.abort();
        lender.lend().await;
    }
}
