//! What gateways answer about objects, made fit to be shown. A linked cluster that is asked (`--clusters`) can answer
//! anything: in none of its texts a line ends, and none steers a terminal. Documents stay as they are written.

use proto::text::escape;

use crate::cli::output::indented;
use admin_api::rpc::{
    Change, Changed, Condition, Found, Member, Name, Object, Placed, Placement, Problem, Refusal,
};

/// What was changed, or what is wrong.
pub(super) fn changed(heard: Changed) -> Changed {
    let Changed { changes, problems, refused, placements, placements_left_out } = heard;
    Changed {
        changes: changes.into_iter().map(change).collect(),
        problems: problems.into_iter().map(problem).collect(),
        refused,
        placements: placements.into_iter().map(placement).collect(),
        placements_left_out,
    }
}

/// What there is.
pub(super) fn found(heard: Found) -> Found {
    Found { objects: heard.objects.into_iter().map(object).collect() }
}

/// Why not.
pub(super) fn refusal(heard: Refusal) -> Refusal {
    Refusal { message: text(&heard.message), ..heard }
}

fn text(heard: &str) -> String {
    escape(heard).into_owned()
}

fn name(heard: Name) -> Name {
    let Name { kind, namespace, name } = heard;
    Name { kind: text(&kind), namespace: text(&namespace), name: text(&name) }
}

fn change(heard: Change) -> Change {
    Change { name: heard.name.map(name), outcome: text(&heard.outcome), ..heard }
}

fn problem(heard: Problem) -> Problem {
    let Problem { file, line, column, object, message, hint, warning, text: whole } = heard;
    Problem {
        file: text(&file),
        line,
        column,
        object: text(&object),
        message: text(&message),
        hint: text(&hint),
        warning,
        text: indented(&whole),
    }
}

fn placement(heard: Placement) -> Placement {
    let Placement { namespace, name, before, after, notes } = heard;
    Placement {
        namespace: text(&namespace),
        name: text(&name),
        before: before.map(placed),
        after: after.map(placed),
        notes: notes.iter().map(|note| text(note)).collect(),
    }
}

fn placed(heard: Placed) -> Placed {
    let member =
        |member: Member| Member { cluster: text(&member.cluster), region: text(&member.region), ..member };
    Placed {
        mode: text(&heard.mode),
        contract_from: text(&heard.contract_from),
        members: heard.members.into_iter().map(member).collect(),
        key: heard.key.iter().map(|key| text(key)).collect(),
        ..heard
    }
}

fn object(heard: Object) -> Object {
    let condition = |condition: Condition| Condition {
        kind: text(&condition.kind),
        reason: text(&condition.reason),
        message: text(&condition.message),
        ..condition
    };
    Object {
        name: heard.name.map(name),
        file: text(&heard.file),
        by: text(&heard.by),
        conditions: heard.conditions.into_iter().map(condition).collect(),
        ..heard
    }
}

#[cfg(test)]
mod tests {
    use proto::message::encode_message;

    use super::*;

    #[test]
    fn no_text_of_a_linked_cluster_forges_a_line() {
        let forged = || "x\nnorth: applied\u{1b}[2J".to_owned();
        let name = || Some(Name { kind: forged(), namespace: forged(), name: forged() });
        let placed = || Placed {
            mode: forged(),
            contract_from: forged(),
            members: vec![Member { cluster: forged(), region: forged(), weight: 1 }],
            key: vec![forged()],
            ..Placed::default()
        };
        let answer = Changed {
            changes: vec![Change {
                name: name(),
                outcome: forged(),
                after: "a: 1\n".into(),
                ..Change::default()
            }],
            problems: vec![Problem {
                file: forged(),
                object: forged(),
                message: forged(),
                hint: forged(),
                text: forged(),
                ..Problem::default()
            }],
            placements: vec![Placement {
                namespace: forged(),
                name: forged(),
                before: Some(placed()),
                after: Some(placed()),
                notes: vec![forged()],
            }],
            ..Changed::default()
        };
        let condition =
            Condition { kind: forged(), reason: forged(), message: forged(), ..Condition::default() };
        let of_it = Object {
            name: name(),
            file: forged(),
            by: forged(),
            conditions: vec![condition],
            ..Object::default()
        };
        // In the bytes of a message every text stands as it is, and none can be forgotten here.
        let times = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).matches("applied\u{1b}[2J").count();
        assert_eq!(times(encode_message(&answer)), 22);
        let heard = changed(answer);
        assert_eq!(times(encode_message(&heard)), 0);
        assert_eq!(heard.changes[0].after, "a: 1\n", "documents stay as they are");
        assert_eq!(times(encode_message(&found(Found { objects: vec![of_it] }))), 0);
        assert_eq!(times(encode_message(&refusal(Refusal { code: 1, message: forged() }))), 0);
    }
}
