//! One flow, step by step: attempts that come out as they are told to, in virtual time.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::pending;
use std::time::Duration;

use policy::placement::Rings;
use registry::model::{ClusterName, Contract, Member, Mode, RetryOn};
use tokio::time::sleep;

use super::*;

const MS: Duration = Duration::from_millis(1);

/// How an attempt comes out, and after how long.
type Step = (Duration, Result<u16, Failure>);

/// Three clusters that are up, and what became of each attempt.
struct Three {
    placement: Placement,
    /// When the first that is asked becomes suspect.
    suspect_after: Option<Duration>,
    began: RefCell<Vec<(NodeIndex, AttemptKind)>>,
}

/// A number, answered by one.
struct Scripted {
    /// Of each attempt in turn.
    steps: RefCell<VecDeque<Step>>,
    sent: RefCell<Vec<Attempt>>,
    /// All of it is at hand.
    kept: bool,
    /// The caller has sent all of it.
    ended: bool,
}

struct Suspect(Option<Duration>);

impl Watched for Suspect {
    async fn suspect(&self) {
        match self.0 {
            Some(after) => sleep(after).await,
            None => pending().await,
        }
    }
}

impl Candidates for &Three {
    type Target = NodeIndex;
    type Watched = Suspect;

    fn placement(&self) -> &Placement {
        &self.placement
    }

    fn availability(&self, _: NodeIndex, _: Tick) -> Availability {
        Availability::Up
    }

    fn capacity(&self, _: NodeIndex, _: Tick) -> Option<u32> {
        None
    }

    fn is_remote(&self, _: NodeIndex) -> bool {
        true
    }

    fn target(&self, node: NodeIndex) -> Result<NodeIndex, Failure> {
        Ok(node)
    }

    fn watched(&self, _: &NodeIndex) -> Option<Suspect> {
        Some(Suspect(self.suspect_after))
    }

    fn with_rng<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut fastrand::Rng::with_seed(7))
    }

    fn attempt_began(&self, node: NodeIndex, kind: AttemptKind) -> AttemptId {
        self.began.borrow_mut().push((node, kind));
        AttemptId::default()
    }

    fn attempt_ended(&self, _: AttemptId, _: Option<Failure>) {}
}

impl Payload for &Scripted {
    type Target = NodeIndex;
    type Reply = u16;

    fn can_restart(&self) -> bool {
        self.kept
    }

    fn is_buffered(&self) -> bool {
        self.kept
    }

    fn failed(&self) -> bool {
        false
    }

    fn ended_at(&self, started: Instant) -> Option<Instant> {
        self.ended.then_some(started)
    }

    fn failure_in(&self, reply: &u16) -> Option<Failure> {
        (*reply >= 500).then_some(Failure::Status(*reply))
    }

    async fn send(&self, _: NodeIndex, attempt: Attempt) -> Result<u16, Failure> {
        self.sent.borrow_mut().push(attempt);
        let (wait, result) = self.steps.borrow_mut().pop_front().unwrap();
        sleep(wait).await;
        result
    }
}

fn three(suspect_after: Option<Duration>) -> Three {
    let member =
        |name: &str| Member { cluster: ClusterName::new(name).unwrap(), region: "eu".into(), weight: 100 };
    let members = Some(["a", "b", "c"].map(member).to_vec());
    let contract = Contract { generation: 1, mode: Mode::Sharded, members, ..Contract::default() };
    let us = ClusterName::new("us").unwrap();
    let placement = Placement::new(&contract, &[], &us, "eu", &mut Rings::default()).unwrap();
    Three { placement, suspect_after, began: RefCell::default() }
}

fn scripted(steps: &[Step]) -> Scripted {
    let steps = RefCell::new(steps.iter().copied().collect());
    Scripted { steps, sent: RefCell::default(), kept: true, ended: true }
}

/// Runs a flow to its end; how it came out, and after how long.
async fn run(three: &Three, scripted: &Scripted, total: Option<Duration>) -> (Served<u16>, Duration) {
    let on = RetryOn { statuses: vec![503], ..Retry::default().on };
    let (retry, timeout) = (Retry { on, ..Retry::default() }, Timeout::default());
    let (retries, hedges, expired) = (Budget::new(), Budget::new(), Cell::new(false));
    let started = Instant::now();
    let flow = Flow {
        candidates: three,
        payload: scripted,
        terms: Terms { retry: &retry, timeout: &timeout, retries: &retries, hedges: &hedges },
        hash: Some(1),
        replayable: true,
        started,
        deadline: total.map(|total| started + total),
        activity: Activity::new(started),
        clock: Clock::start(),
        expired: &expired,
    };
    let served = flow.run().await;
    (served, started.elapsed())
}

fn kinds(three: &Three) -> Vec<AttemptKind> {
    three.began.borrow().iter().map(|(_, kind)| *kind).collect()
}

fn node(three: &Three, attempt: usize) -> NodeIndex {
    three.began.borrow()[attempt].0
}

#[tokio::test(start_paused = true)]
async fn a_hedge_answers_where_a_suspect_peer_does_not() {
    let (three, scripted) = (three(Some(50 * MS)), scripted(&[(5_000 * MS, Ok(200)), (10 * MS, Ok(200))]));
    let (served, took) = run(&three, &scripted, None).await;
    assert_eq!(served, Ok((200, node(&three, 1))));
    assert_eq!((took, kinds(&three)), (60 * MS, vec![AttemptKind::First, AttemptKind::Hedge]));
}

#[tokio::test(start_paused = true)]
async fn a_hedge_that_fails_does_not_win_over_an_answer_that_still_comes() {
    for failure in [Ok(503), Err(Failure::Reset)] {
        let (three, scripted) = (three(Some(50 * MS)), scripted(&[(300 * MS, Ok(200)), (10 * MS, failure)]));
        let (served, took) = run(&three, &scripted, None).await;
        assert_eq!(served, Ok((200, node(&three, 0))), "{failure:?}");
        assert_eq!((took, kinds(&three)), (300 * MS, vec![AttemptKind::First, AttemptKind::Hedge]));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_at_hand_as_a_whole_is_not_sent_twice_at_once() {
    let three = three(Some(50 * MS));
    let scripted = Scripted { kept: false, ..scripted(&[(300 * MS, Ok(200))]) };
    let (served, took) = run(&three, &scripted, None).await;
    assert_eq!(served, Ok((200, node(&three, 0))));
    assert_eq!((took, kinds(&three)), (300 * MS, vec![AttemptKind::First]));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_disagrees_is_asked_once_more_and_told_to_serve() {
    let (three, scripted) = (three(None), scripted(&[(MS, Err(Failure::Misplaced)), (MS, Ok(200))]));
    let (served, _) = run(&three, &scripted, None).await;
    assert_eq!(served, Ok((200, node(&three, 0))));
    assert_eq!(node(&three, 0), node(&three, 1), "the same cluster");
    let insists: Vec<bool> = scripted.sent.borrow().iter().map(|attempt| attempt.insist).collect();
    assert_eq!(insists, [false, true]);
}

#[tokio::test(start_paused = true)]
async fn a_bad_answer_goes_on_where_no_cluster_has_a_better_one() {
    let bad = (MS, Ok(503));
    let (three, scripted) = (three(None), scripted(&[bad, bad, bad]));
    let (served, _) = run(&three, &scripted, None).await;
    assert_eq!(served, Ok((503, node(&three, 2))));
    assert_eq!(kinds(&three), [AttemptKind::First, AttemptKind::Retry, AttemptKind::Retry]);
}

#[tokio::test(start_paused = true)]
async fn a_flow_ends_by_its_deadline_and_says_whose_fault_that_is() {
    let slow = [(600_000 * MS, Ok(200))];
    for (ended, total, took, caller_at_fault) in [
        (true, Some(1_000 * MS), 1_000 * MS, false),
        // The policy's time for the head.
        (true, None, Timeout::default().head, false),
        // Whoever sends nothing more for so long has itself to blame.
        (false, None, Timeout::default().idle(), true),
    ] {
        let (three, scripted) = (three(None), Scripted { ended, ..scripted(&slow) });
        let (served, was) = run(&three, &scripted, total).await;
        assert_eq!(
            served,
            Err(NotServed { failure: Failure::Deadline, caller_at_fault }),
            "{ended} {total:?}"
        );
        assert_eq!(was, took, "{ended} {total:?}");
    }
}
