//! Passive outlier detection: what requests and connects tell of an endpoint, and how one that is out comes back.
//!
//! ```text
//!             refused or unanswered connect                     a connect is accepted
//!   eligible ------------------------------> Unreachable -------------------------------> eligible
//!             5 failures in a row             after 5 s, doubled up to 60 s
//!   eligible ------------------------------> Failing ------> due -- one request probes --> eligible, or Failing again
//!             5 timeouts, or nothing          a sign of life
//!             answered for long
//!   eligible ------------------------------> Silent -------> due -- one request probes --> eligible, or Silent again
//! ```
//!
//! None of it is a verdict: an endpoint that is out is asked behind all others, oldest sign first, and background probes
//! (a connect, or a question that every server answers) see to it that nobody waits for a request to find out.

use registry::base::time::Tick;

/// Requests that must fail in a row before an endpoint is taken out.
pub(super) const FAILURES_TO_EJECT: u32 = 5;
/// How long the first ejection for failing lasts, in microseconds; each further one is twice as long.
pub(super) const EJECTED_MICROS: u64 = 5_000_000;
/// The longest ejection; and the time without one after which the next counts as the first again.
pub(super) const EJECTED_MICROS_MAX: u64 = 60_000_000;
/// A probe that has told nothing for so long makes room for another.
pub(super) const PROBE_MICROS: u64 = 10_000_000;
/// Requests that must wait for an answer while none comes before an endpoint is silent ...
pub(super) const SILENT_WAITING: u32 = 5;
/// ... and the least time, in microseconds, that they must wait; more where answers usually take long.
pub(super) const SILENT_MICROS: u64 = 1_000_000;
/// ... which is so many times what they usually take.
pub(super) const SILENT_LATENCIES: f64 = 20.0;
/// A request that its caller gave up counts as a timeout if it was given up no earlier than this, in microseconds ...
pub(super) const GIVEN_UP_MICROS: u64 = 250_000;
/// ... and had waited so many times what an answer usually takes.
pub(super) const GIVEN_UP_LATENCIES: f64 = 4.0;

/// Why an endpoint is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// A connect was refused or not answered.
    Unreachable,
    /// Requests were cut, or answered 502, 503, 504 or gRPC's `UNAVAILABLE`.
    Failing,
    /// Requests are not answered.
    Silent,
}

/// How far one is on its way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Out.
    Out,
    /// One request may probe it.
    Due,
    /// One does; when the time is over another may.
    Probing,
}

/// That an endpoint is out. Fits one word, so that workers agree on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ejection {
    pub(super) sign: Sign,
    pub(super) phase: Phase,
    /// Until when.
    pub(super) until: Tick,
}

impl Ejection {
    /// The word for "not out".
    pub(super) const NONE: u64 = 0;

    pub(super) fn unpack(word: u64) -> Option<Self> {
        if word == Self::NONE {
            return None;
        }
        let sign = match word >> 1 & 3 {
            0 => Sign::Unreachable,
            1 => Sign::Failing,
            _ => Sign::Silent,
        };
        let phase = match word >> 3 & 3 {
            0 => Phase::Out,
            1 => Phase::Due,
            _ => Phase::Probing,
        };
        Some(Self { sign, phase, until: Tick::at(word >> 5) })
    }

    pub(super) fn pack(self) -> u64 {
        self.until.micros() << 5 | (self.phase as u64) << 3 | (self.sign as u64) << 1 | 1
    }

    /// Whether the next request may probe it.
    pub(super) fn is_due(self, now: Tick) -> bool {
        match (self.phase, self.sign) {
            (Phase::Due, _) => true,
            (Phase::Probing, _) | (Phase::Out, Sign::Failing) => now >= self.until,
            (Phase::Out, Sign::Unreachable | Sign::Silent) => false,
        }
    }
}

/// How long the ejection of this number, from 0, lasts. One that is silent may be asked for a sign of life at once the
/// first time.
pub(super) fn ejected_for(sign: Sign, number: u32) -> u64 {
    let doubled = |times: u32| (EJECTED_MICROS << times.min(4)).min(EJECTED_MICROS_MAX);
    match (sign, number) {
        (Sign::Silent, 0) => 0,
        (Sign::Silent, number) => doubled(number - 1),
        // 5, 10, 20, 40, 60 seconds.
        (_, number) => doubled(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_says_all_of_it() {
        for sign in [Sign::Unreachable, Sign::Failing, Sign::Silent] {
            for phase in [Phase::Out, Phase::Due, Phase::Probing] {
                let ejection = Ejection { sign, phase, until: Tick::at(123_456_789_012) };
                assert_eq!(Ejection::unpack(ejection.pack()), Some(ejection));
            }
        }
        assert_eq!(Ejection::unpack(Ejection::NONE), None);
    }

    #[test]
    fn ejections_double_up_to_a_minute() {
        let seconds = |sign| [0, 1, 2, 3, 4, 5, 99].map(|number| ejected_for(sign, number) / 1_000_000);
        assert_eq!(seconds(Sign::Failing), [5, 10, 20, 40, 60, 60, 60]);
        assert_eq!(seconds(Sign::Silent), [0, 5, 10, 20, 40, 60, 60]);
    }
}
