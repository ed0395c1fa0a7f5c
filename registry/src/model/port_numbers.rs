//! An endpoint's port numbers.

use std::sync::Arc;

/// Numbers by the names of ports. Most endpoints have one, and a map would take ten times the room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortNumbers(Box<[(Arc<str>, u16)]>);

impl PortNumbers {
    /// The number of a port.
    pub fn get(&self, name: &str) -> Option<u16> {
        self.iter().find(|(known, _)| ***known == *name).map(|(_, number)| number)
    }

    /// Names and numbers, by ascending name.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, u16)> {
        self.0.iter().map(|(name, number)| (name, *number))
    }
}

/// Of two numbers of one name the last counts.
impl FromIterator<(Arc<str>, u16)> for PortNumbers {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, u16)>>(numbers: I) -> Self {
        Self(std::collections::BTreeMap::from_iter(numbers).into_iter().collect())
    }
}

impl<const N: usize> From<[(&str, u16); N]> for PortNumbers {
    fn from(numbers: [(&str, u16); N]) -> Self {
        numbers.into_iter().map(|(name, number)| (name.into(), number)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_order_and_each_has_one_number() {
        let ports = PortNumbers::from([("web", 9001), ("rpc", 9002), ("web", 9003)]);
        assert_eq!((ports.get("web"), ports.get("rpc"), ports.get("ops")), (Some(9003), Some(9002), None));
        assert_eq!(ports, PortNumbers::from([("rpc", 9002), ("web", 9003)]));
    }
}
