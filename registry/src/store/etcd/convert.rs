//! Between etcd's keys, values and revisions and ours. Pure.

use etcd_client::{Compare, CompareOp, KeyValue, PutOptions, ResponseHeader, Txn, TxnOp};

use super::super::{Entry, Expect, LeaseId, Op, Transaction};

/// etcd's numbers are signed and never negative.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// See [`signed`].
pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// The store's revision as an answer tells it.
pub(super) fn revision(header: Option<&ResponseHeader>) -> u64 {
    header.map_or(0, |header| unsigned(header.revision()))
}

/// Our key of one of etcd's. None: others put it there, for it has no prefix of ours or is no text.
pub(super) fn key(prefix: &str, found: &[u8]) -> Option<String> {
    let found = found.strip_prefix(prefix.as_bytes())?;
    std::str::from_utf8(found).ok().map(String::from)
}

/// The entry that etcd has.
pub(super) fn entry(prefix: &str, found: KeyValue) -> Option<Entry> {
    let (created, modified) = (unsigned(found.create_revision()), unsigned(found.mod_revision()));
    let lease = Some(LeaseId(unsigned(found.lease()))).filter(|lease| lease.0 != 0);
    let key = key(prefix, found.key())?;
    let (_, value) = found.into_key_value();
    Some(Entry { key, value: value.into(), created, modified, lease })
}

/// The first key after all that begin with `prefix`; etcd takes a zero byte for "no end".
pub(super) fn end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.last_mut() {
        if *last < u8::MAX {
            *last += 1;
            return end;
        }
        end.pop();
    }
    vec![0]
}

/// The transaction in etcd's words. None: what it expects can never hold.
pub(super) fn transaction(prefix: &str, transaction: &Transaction) -> Option<Txn> {
    let wire = |key: &String| format!("{prefix}{key}");
    let compare = |expect: &Expect| match expect {
        Expect::Absent(key) => Some(Compare::create_revision(wire(key), CompareOp::Equal, 0)),
        // etcd says 0 of a key that is not there.
        Expect::Modified(_, 0) => None,
        Expect::Modified(key, at) => Some(Compare::mod_revision(wire(key), CompareOp::Equal, signed(*at))),
        // Of a key that is not there it never holds.
        Expect::Equals(key, value) => Some(Compare::value(wire(key), CompareOp::Equal, value.to_vec())),
    };
    let op = |op: &Op| match op {
        Op::Put { key, value, lease } => {
            let lease = lease.map_or(0, |lease| signed(lease.0));
            TxnOp::put(wire(key), value.to_vec(), Some(PutOptions::new().with_lease(lease)))
        }
        Op::Delete(key) => TxnOp::delete(wire(key), None),
    };
    let compares: Vec<_> = transaction.expect.iter().map(compare).collect::<Option<_>>()?;
    let ops: Vec<_> = transaction.ops.iter().map(op).collect();
    Some(Txn::new().when(compares).and_then(ops))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_comes_after_all_that_begin_with_it() {
        assert_eq!(end("/a/"), b"/a0");
        assert_eq!(end(""), [0]);
        assert!(end("/a/").as_slice() > "/a/\u{10ffff}zzz".as_bytes());
    }

    #[test]
    fn keys_of_others_are_none_of_ours() {
        assert_eq!(key("/west", b"/west/ringway/v1/a"), Some("/ringway/v1/a".into()));
        assert_eq!(key("/west", b"/east/ringway/v1/a"), None);
        assert_eq!(key("", b"/a\xff"), None);
    }

    #[test]
    fn nothing_was_modified_at_revision_zero() {
        let never = Transaction { expect: vec![Expect::Modified("/a".into(), 0)], ops: Vec::new() };
        assert!(transaction("", &never).is_none());
    }
}
