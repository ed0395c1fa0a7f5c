//! What happens to east, and how it ends.

use wan::{Direction, Wan};

use super::clusters::Clusters;

/// Something that happens to east.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// Its gateway gets SIGKILL, and is started again.
    Kill,
    /// Its gateway gets SIGSTOP, and goes on.
    Freeze,
    /// Its link carries nothing.
    Cut,
    /// Its link carries nothing to west.
    OneWay,
}

impl Event {
    pub(super) const ALL: [Self; 4] = [Self::Kill, Self::Freeze, Self::Cut, Self::OneWay];

    /// As in the names of its figures.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Freeze => "freeze",
            Self::Cut => "cut",
            Self::OneWay => "one_way",
        }
    }

    /// Makes it happen.
    pub(super) fn strike(self, clusters: &mut Clusters) {
        match self {
            Self::Kill => clusters.east.process.kill(),
            Self::Freeze => clusters.east.process.freeze(),
            Self::Cut => link(clusters).set(|settings| settings.cut = true),
            Self::OneWay => link(clusters).set_way(Direction::Back, |settings| settings.cut = true),
        }
    }

    /// Ends it.
    pub(super) fn heal(self, clusters: &mut Clusters) {
        match self {
            Self::Kill => {
                let Clusters { east, bed, .. } = clusters;
                bed.far[0].namespace.enter(|| east.restart());
            }
            Self::Freeze => clusters.east.process.thaw(),
            Self::Cut | Self::OneWay => link(clusters).set(|settings| settings.cut = false),
        }
    }
}

fn link(clusters: &Clusters) -> &Wan {
    &clusters.bed.far[0].wan
}
